"""The splits of a text task as token ids, whatever kind of task it is."""

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
class TextPart:
    """One split: what was read, and the ids that the model reads; of questions these are windows of the contexts."""

    split: TextSplit | QuestionSplit
    encoded: Encoded


@dataclass(frozen=True)
class TextParts:
    """The splits of a task by name, their classes, and the protocol by which they were made.

    no_answer: questions need not have one. left_out: by split, broken rows of a published file that were passed over.
    """

    classes: tuple[str, ...]
    parts: dict[str, TextPart]
    protocol: str
    no_answer: bool = False
    left_out: dict[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, dict[str, int | str]]:
        """The fingerprints that are stored with a result."""
        return {name: part.split.record() for name, part in self.parts.items()}

    def part_of(self, encoded: Encoded) -> TextPart:
        """The split that these ids are of."""
        return next(part for part in self.parts.values() if part.encoded is encoded)


def open_parts(
    config: TextConfig, task: Task, tokenizer: Any, model: str, *, classes: tuple[str, ...] = ()
) -> TextParts:
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
        found = _questions(config, task, tokenizer, lengths)
    else:
        found = _texts(config, task, tokenizer, lengths, classes)
    highest = _highest_token(task, tokenizer, found)
    if highest >= vocabulary:
        raise ValueError(
            f"the tokenizer has tokens up to number {highest}, and {model} knows {vocabulary} of them: "
            "name the model's own with --tokenizer"
        )
    return found


def _highest_token(task: Task, tokenizer: Any, data: TextParts) -> int:
    """The largest token number that the model may be given: of masked tokens any, else one of those in the texts."""
    if task.kind == "masked":
        return max(tokenizer.get_vocab().values())
    return max(int(ids.max()) for part in data.parts.values() for ids in part.encoded.ids)


def _texts(
    config: TextConfig, task: Task, tokenizer: Any, lengths: dict[str, Any], classes: tuple[str, ...]
) -> TextParts:
    read = get_task(config.texts_of) if config.texts_of else replace(task, classes=classes or task.classes)
    if read.kind == "questions":
        raise ValueError(f"--texts-of {read.name}: its texts are not read for masked tokens; give them as a file")
    spec = config.data
    if spec == "hub" and read.hub is None:
        raise ValueError(f"task {read.name} has no data set on the hub that we know of: give a folder, --data DIR")
    data = open_texts(
        spec,
        read,
        protocol=config.protocol,
        seed=config.data_seed,
        text_columns=config.text_columns,
        label_column=config.label_column,
    )
    parts: dict[str, TextPart] = {}
    for name, split in data.splits.items():
        if task.kind == "masked":
            parts[name] = TextPart(split, encode_pieces(split, tokenizer, **lengths))
        else:
            encoded = encode(split, tokenizer, regression=task.kind == "regression", **lengths)
            parts[name] = TextPart(split, encoded)
    classes = () if task.kind in ("masked", "regression") else data.classes
    return TextParts(classes, parts, data.protocol, left_out=data.left_out)


def _questions(config: TextConfig, task: Task, tokenizer: Any, lengths: dict[str, Any]) -> TextParts:
    for name in ("protocol", "text_columns", "label_column"):
        if getattr(config, name) is not None:
            raise ValueError(f"{flag(name)} is not for questions, whose files have one form and are split by article")
    spec = config.data
    if spec == "hub":
        assert task.hub is not None
        spec = task.hub[0]
    data = open_questions(spec, seed=config.data_seed)
    parts = {}
    for name, split in data.splits.items():
        windows = encode_questions(split, tokenizer, stride=config.stride, max_question=config.max_question, **lengths)
        parts[name] = TextPart(split, windows)
    return TextParts((), parts, "articles", no_answer=data.no_answer)
