"""Encoded splits of a text task: token ids, whatever kind of task it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..io.options import flag, suggest
from ..training.metrics import OF_CLASSES, OF_NUMBERS
from .choices import encode_choices
from .config import TextConfig, base_model
from .data import TextData, open_texts
from .models import create_tokenizer, known_limits
from .questions import encode_questions, open_questions
from .tasks import Task, get_task
from .tokens import Encoded, encode, encode_pieces
from .words import encode_words


@dataclass(frozen=True)
class EncodedTask:
    """A task with its data, and the ids that the model reads, by split."""

    config: TextConfig  # names the task, its data and the base model
    task: Task
    tokenizer: Any  # that of the model, or another one that was asked for
    data: TextData[Any]
    encoded: dict[str, Encoded]  # of questions: windows of the contexts

    def split_of(self, encoded: Encoded) -> Any:
        """The split that these ids are of."""
        return next(self.data.splits[name] for name, ids in self.encoded.items() if ids is encoded)


def encode_task(config: TextConfig, *, classes: tuple[str, ...] = ()) -> EncodedTask:
    """Reads and encodes the splits that the configuration's data and protocol give.

    The classes are those of a model that was trained before; none: the task's or the data's own.

    Raises:
        FileNotFoundError, ValueError: no such task or model; what `open_texts`, `open_questions` and the encoders
            refuse; more tokens of an example than the model takes; a tokenizer that has more tokens than the model.
    """
    task, model = scored_task(config), base_model(config)
    tokenizer = create_tokenizer(config.tokenizer or model)
    length, vocabulary = known_limits(model)
    if length is not None and config.max_length > length:
        raise ValueError(
            f"--max-length {config.max_length}: the model takes {length} tokens at most, say --max-length {length}"
        )
    encoder: Callable[..., Encoded]
    if task.kind == "questions":
        data = _open_questions(config, task)
        encoder = partial(encode_questions, stride=config.stride, max_question=config.max_question)
    else:
        data = _open_texts(config, task, classes)
        by_kind: dict[str, Callable[..., Encoded]] = {
            "masked": encode_pieces,
            "tokens": encode_words,
            "multiple-choice": encode_choices,
            "multi-label": partial(encode, tags=len(data.classes)),
        }
        encoder = by_kind.get(task.kind, partial(encode, regression=task.kind == "regression"))
    encoded = {name: encoder(split, tokenizer, max_length=config.max_length) for name, split in data.splits.items()}
    highest = max(int(ids.max()) for split in encoded.values() for ids in split.ids)
    if task.kind == "masked":  # the model may be given any token
        highest = max(tokenizer.get_vocab().values())
    if highest >= vocabulary:
        raise ValueError(
            f"the tokenizer has tokens up to number {highest}, and {model} knows {vocabulary} of them: "
            "name the model's own with --tokenizer"
        )
    return EncodedTask(config, task, tokenizer, data, encoded)


def scored_task(config: TextConfig) -> Task:
    """The task of a configuration, with the metrics that were asked for. Raises ValueError for others than its own."""
    task = get_task(config.task)
    if config.metrics is None:
        return task
    choices = {"classification": OF_CLASSES, "regression": OF_NUMBERS}.get(task.kind, ())
    for name in config.metrics:
        if name not in choices:
            there = f"choose from {', '.join(choices)}" if choices else f"{task.name} has its own, leave it out"
            raise ValueError(f"--metrics {name}{suggest(name, choices)}: {there}")
    return replace(task, metrics=config.metrics)


def _open_texts(config: TextConfig, task: Task, classes: tuple[str, ...]) -> TextData[Any]:
    source = get_task(config.texts_of) if config.texts_of else replace(task, classes=classes or task.classes)
    if source.kind == "questions":
        raise ValueError(f"--texts-of {source.name}: its texts are not read for masked tokens; give them as a file")
    data = open_texts(
        config.data,
        source,
        protocol=config.protocol,
        seed=config.data_seed,
        text_columns=config.text_columns,
        label_column=config.label_column,
        draw_val=config.patience is not None or config.select != "last",
    )
    return replace(data, classes=()) if task.kind == "masked" else data


def _open_questions(config: TextConfig, task: Task) -> TextData[Any]:
    for name in ("protocol", "text_columns", "label_column"):
        if getattr(config, name) is not None:
            raise ValueError(f"{flag(name)} is not for questions, whose files have one form and are split by article")
    assert task.hub is not None
    return open_questions(task.hub[0] if config.data == "hub" else config.data, seed=config.data_seed)
