"""What a trained model says of texts: classes with their probabilities, or scores; and answers to questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..training.distributed import pick_device
from ..training.evaluation import evaluate
from ..training.objective import Objective
from ..training.outputs import ranked
from ..training.saved import ModelSource, open_source
from .choice_objective import ChoiceLogits
from .choices import encode_choices
from .data import TextSplit, open_unchosen, open_unlabelled, open_untagged
from .loader import moved, text_eval_loader
from .models import create_tokenizer
from .objectives import outputs_alone
from .questions import Answer, Question, QuestionSplit, best_answers, encode_questions, open_unanswered
from .saved import for_logits, open_trained
from .table import text_columns, write_table
from .tasks import get_task
from .token_objectives import TokenAnswers
from .tokens import Encoded, encode
from .words import encode_words, tags_of


@dataclass(frozen=True)
class TextPrediction:
    """The most probable classes of a text, or of texts that belong together, the highest probability first.

    Of a regression there is a score instead.
    """

    texts: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    score: float | None = None


class Predictor:
    """A trained model on texts with its tokenizer, on the device where it is asked.

    Args:
        adapter: a run folder, or an adapter file.
        model: folder or hub id of the base model; None takes that of the run, or the hub id that the file names.
        short_cuts: see `evaluate_text`.

    Raises:
        FileNotFoundError, ValueError: no adapter, or no base model.
    """

    def __init__(
        self,
        adapter: str | Path | ModelSource,
        *,
        model: str | None = None,
        batch_size: int = 64,
        device: str | None = None,
        short_cuts: bool = True,
    ) -> None:
        source = open_source(adapter)
        network, self.config, self.classes = open_trained(source, model)
        assert source.adapter is not None
        self.segments: int | None = source.adapter.header["text"].get("segments")
        self.no_answer_threshold: float | None = source.adapter.header["text"].get("no_answer_threshold")
        self.temperature: float = source.adapter.header.get("temperature", 1.0)
        self.task, self.batch_size, self.device = get_task(self.config.task), batch_size, pick_device(device)
        self.network = for_logits(network, self.device, short_cuts=short_cuts)
        self.tokenizer = create_tokenizer(self.config.tokenizer or self.config.model)

    def outputs(self, encoded: Encoded) -> Tensor:
        """The model's outputs of each example, (E, ...), on the CPU in float32.

        Raises FloatingPointError if any is not finite.
        """
        if encoded.targets is None:
            encoded = replace(encoded, targets=torch.zeros(len(encoded)))
        return self._accumulated(encoded, outputs_alone())

    def _accumulated(self, encoded: Encoded, objective: Objective) -> Tensor:
        batches = text_eval_loader(encoded, batch_size=self.batch_size)
        prepare = partial(moved, device=self.device)
        return evaluate(self.network, batches, prepare=prepare, config=self.config, objective=objective)

    def of_split(self, split: TextSplit) -> Tensor:
        """Logits (E, C), or scores (E, 1), of texts. Raises ValueError for more or fewer texts than in training."""
        if self.task.kind not in ("classification", "regression", "multi-label"):
            raise ValueError(f"the task {self.task.name} has neither classes nor scores of texts")
        count = len(split.texts[0])
        if self.segments is not None and count != self.segments:
            raise ValueError(
                f"the model was trained on {_texts(self.segments)} an example, and {split.names[0]} has {count}: "
                + ("add --text-pair" if self.segments == 2 else "choose with --text-columns")
            )
        return self.outputs(encode(replace(split, labels=()), self.tokenizer, max_length=self.config.max_length))

    def predict(self, split: TextSplit, *, top: int = 5, threshold: float = 0.5) -> list[TextPrediction]:
        """The `top` most probable classes of each example, `softmax(logits / temperature)` in float32; or the score.

        The temperature is the one that the run has found on val. Of tags all whose probability, `sigmoid(logit)`, is at
        least the threshold are given.
        """
        if top < 1:
            raise ValueError(f"--top must be at least 1, got {top}")
        outputs = self.of_split(split)
        if self.task.kind == "regression":
            scores = zip(split.texts, outputs[:, 0].tolist(), strict=True)
            return [TextPrediction(texts, (), (), score) for texts, score in scores]
        if self.task.kind == "multi-label":
            best = ranked(outputs.sigmoid(), top=outputs.shape[1], least=threshold)
        else:
            best = ranked((outputs / self.temperature).softmax(-1), top=top)
        rows = zip(split.texts, best, strict=True)
        return [TextPrediction(t, tuple(self.classes[i] for i in indices), tuple(p)) for t, (p, indices) in rows]

    def choose(self, split: TextSplit) -> list[TextPrediction]:
        """The choices of each example with their probabilities, the highest first; `texts` is the context alone.

        Raises ValueError for another kind of task.
        """
        if self.task.kind != "multiple-choice":
            raise ValueError(f"the model was trained on {self.task.name}, which chooses no text: leave --choices out")
        encoded = encode_choices(split, self.tokenizer, max_length=self.config.max_length)
        logits = self._accumulated(encoded, replace(outputs_alone(), accumulator=ChoiceLogits))
        found = []
        for (context, *choices), row in zip(split.texts, logits, strict=True):
            ((p, indices),) = ranked(row[: len(choices)].softmax(-1)[None], top=len(choices))
            found.append(TextPrediction((context,), tuple(choices[i] for i in indices), tuple(p)))
        return found

    def read_choices(self, path: str, *, text_columns: Sequence[str] | None = None) -> TextSplit:
        """Contexts and choices of a table; labels are not read."""
        return open_unchosen(Path(path), self.task, text_columns=text_columns or self.config.text_columns)

    def read(
        self, path: str, *, text_columns: Sequence[str] | None = None, files: Sequence[Path] | None = None
    ) -> TextSplit:
        """The texts of a file, without labels: .txt with one a line, .json, .jsonl, .csv or .tsv with columns.

        Or of a folder of .txt files, each of which is a text; `files` are these, where they are known already.

        The columns are those of training unless others are named. Raises what `open_unlabelled` does.
        """
        columns = text_columns or self.config.text_columns
        (split,) = open_unlabelled(path, self.task, text_columns=columns, files=files).values()
        return split

    def answer(self, questions: Sequence[Question]) -> dict[str, Answer]:
        """The answer to each question, by its id, as a span of its context.

        It is empty where no answer is likelier by more than the threshold that the run has chosen on val; files of
        earlier releases have none: 0 for SQuAD v2, and for other tasks each question gets an answer. Raises ValueError
        for another kind of task.
        """
        if self.task.kind != "questions":
            raise ValueError(f"the model was trained on {self.task.name}, which answers no questions: leave them out")
        config, split = self.config, QuestionSplit(tuple(questions))
        lengths = {name: getattr(config, name) for name in ("max_length", "stride", "max_question")}
        windows = encode_questions(split, self.tokenizer, **lengths)
        logits = self.outputs(windows)
        options: dict[str, Any] = {name: getattr(config, name) for name in ("n_best", "max_answer_length")}
        options["no_answer"] = self.no_answer_threshold is not None or self.task.name == "squad_v2"
        options["threshold"] = self.no_answer_threshold or 0.0
        return best_answers(split, windows, logits[:, 0], logits[:, 1], **options)

    def tag(self, split: TextSplit) -> list[tuple[str, ...]]:
        """The tag of each word of each sentence. Raises ValueError for another kind of task."""
        if self.task.kind != "tokens":
            raise ValueError(f"the model was trained on {self.task.name}, which has no tags of words")
        encoded = encode_words(split, self.tokenizer, max_length=self.config.max_length)
        tags = tags_of(encoded, self._accumulated(encoded, replace(outputs_alone(), accumulator=TokenAnswers)))
        return [tuple(self.classes[tag] for tag in row) for row in tags]

    def read_sentences(self, path: str, *, text_columns: Sequence[str] | None = None) -> TextSplit:
        """The words of the sentences of a file, CoNLL or JSON; tags are not read."""
        return open_untagged(Path(path), self.task, words=text_columns or self.config.text_columns)

    def read_questions(self, path: str) -> tuple[Question, ...]:
        """Questions of SQuAD's json, or of a table with columns question and context; answers are not read."""
        return open_unanswered(Path(path), self.task)


def conll_lines(split: TextSplit, tags: Sequence[Sequence[str]]) -> str:
    """A line for each word with its tag behind a tab, and an empty line behind each sentence."""
    rows = zip(split.texts, tags, strict=True)
    return "".join("".join(f"{w}\t{tag}\n" for w, tag in zip(*row, strict=True)) + "\n" for row in rows)


def write_rows(
    predictions: Sequence[TextPrediction], path: Path, *, what: str = "class", files: Sequence[str] | None = None
) -> Path:
    """Writes a row for each class, `index,text,...,rank,class,probability`, or `index,text,...,score`.

    The index counts from 0, the rank from 1; a text without any tag has one row, of rank 0. See `write_table`.

    Args:
        what: the classes are.
        files: the names of the files that the texts stood in, `file,text,...` in the place of the index.
    """
    texts = text_columns([predictions[0].texts])
    scored = predictions[0].score is not None

    def rows() -> Iterator[tuple[Any, ...]]:
        yield ("file" if files else "index", *texts, *(("score",) if scored else ("rank", what, "probability")))
        for index, prediction in zip(files or range(len(predictions)), predictions, strict=True):
            if scored:
                yield index, *prediction.texts, f"{prediction.score:.9g}"
            ranked = zip(prediction.classes, prediction.probabilities, strict=True)
            for rank, (name, probability) in enumerate(ranked, start=1):
                yield index, *prediction.texts, rank, name, f"{probability:.9g}"
            if not scored and not prediction.classes:
                yield index, *prediction.texts, 0, "", ""

    return write_table(rows(), path)


def _texts(count: int) -> str:
    return "one text" if count == 1 else f"{count} texts"
