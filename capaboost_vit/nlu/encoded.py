"""Encoded splits of a text task: token ids, whatever kind of task it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..io.options import flag
from .config import TextConfig
from .data import TextSplit, open_texts
from .models import known_limits
from .questions import QuestionSplit, encode_questions, open_questions
from .tasks import Task, get_task
from .tokens import Encoded, encode, encode_pieces


@dataclass(frozen=True)
class EncodedSplit:
    """Encoded split: its texts, and the ids that the model reads; of questions these are windows of the contexts."""

    split: TextSplit | QuestionSplit
    encoded: Encoded


@dataclass(frozen=True)
class EncodedTask:
    """Encoded splits of a task by name, their classes, and the protocol by which they were made.

    no_answer: questions need not have one. left_out: by split, broken rows of a published file that were passed over.
    """

    classes: tuple[str, ...]
    splits: dict[str, EncodedSplit]
    protocol: str
    no_answer: bool = False
    left_out: dict[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, dict[str, int | str]]:
        """The fingerprints that are stored with a result."""
        return {name: encoded.split.record() for name, encoded in self.splits.items()}

    def split_of(self, encoded: Encoded) -> EncodedSplit:
        """The split that these ids are of."""
        return next(split for split in self.splits.values() if split.encoded is encoded)


def encode_task(
    config: TextConfig, task: Task, tokenizer: Any, model: str, *, classes: tuple[str, ...] = ()
) -> EncodedTask:
    """Reads and encodes the splits that the configuration's data and protocol give.

    Args:
        model: folder or hub id of the model that is to read them.
        classes: those of a model that was trained before; none: the task's or the data's own.

    Raises:
        FileNotFoundError, ValueError: what `open_texts`, `open_questions` and the encoders refuse; a tokenizer that has
            more tokens than the model.
    """
    length, vocabulary = known_limits(model)
    lengths: dict[str, Any] = {"max_length": config.max_length, "model_length": length}
    if task.kind == "questions":
        data = _questions(config, task, tokenizer, lengths)
    else:
        data = _texts(config, task, tokenizer, lengths, classes)
    highest = _highest_token(task, tokenizer, data)
    if highest >= vocabulary:
        raise ValueError(
            f"the tokenizer has tokens up to number {highest}, and {model} knows {vocabulary} of them: "
            "name the model's own with --tokenizer"
        )
    return data


def _highest_token(task: Task, tokenizer: Any, data: EncodedTask) -> int:
    """The largest token number that the model may be given: of masked tokens any, else one of those in the texts."""
    if task.kind == "masked":
        return max(tokenizer.get_vocab().values())
    return max(int(ids.max()) for split in data.splits.values() for ids in split.encoded.ids)


def _texts(
    config: TextConfig, task: Task, tokenizer: Any, lengths: dict[str, Any], classes: tuple[str, ...]
) -> EncodedTask:
    source = get_task(config.texts_of) if config.texts_of else replace(task, classes=classes or task.classes)
    if source.kind == "questions":
        raise ValueError(f"--texts-of {source.name}: its texts are not read for masked tokens; give them as a file")
    spec = config.data
    if spec == "hub" and source.hub is None:
        raise ValueError(f"task {source.name} has no data set on the hub that we know of: give a folder, --data DIR")
    data = open_texts(
        spec,
        source,
        protocol=config.protocol,
        seed=config.data_seed,
        text_columns=config.text_columns,
        label_column=config.label_column,
    )
    encoded: dict[str, EncodedSplit] = {}
    for name, split in data.splits.items():
        if task.kind == "masked":
            ids = encode_pieces(split, tokenizer, **lengths)
        else:
            ids = encode(split, tokenizer, regression=task.kind == "regression", **lengths)
        encoded[name] = EncodedSplit(split, ids)
    classes = () if task.kind in ("masked", "regression") else data.classes
    return EncodedTask(classes, encoded, data.protocol, left_out=data.left_out)


def _questions(config: TextConfig, task: Task, tokenizer: Any, lengths: dict[str, Any]) -> EncodedTask:
    for name in ("protocol", "text_columns", "label_column"):
        if getattr(config, name) is not None:
            raise ValueError(f"{flag(name)} is not for questions, whose files have one form and are split by article")
    spec = config.data
    if spec == "hub":
        assert task.hub is not None
        spec = task.hub[0]
    data = open_questions(spec, seed=config.data_seed)
    encoded = {}
    for name, split in data.splits.items():
        windows = encode_questions(split, tokenizer, stride=config.stride, max_question=config.max_question, **lengths)
        encoded[name] = EncodedSplit(split, windows)
    return EncodedTask((), encoded, "articles", no_answer=data.no_answer)
