"""Adapter files of models of transformers: save, load, build a model from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._version import __version__
from ..core.record import adapted_part, plain_model
from ..io.atomic import new_folder
from ..methods.adapter_base import check_published
from ..methods.adapter_file import AdapterFile, write_adapter_file
from ..methods.base_library import read_of_library
from ..methods.header import AdapterFileError, explained
from ..methods.load import load_into
from .anatomy import head_names, takes_images
from .models import adapt, base_of, create_model, create_text_model, quiet
from .tasks import get_task


def save_adapter(
    model: nn.Module,
    path: str | Path,
    *,
    task: str | None = None,
    class_names: Sequence[str] = (),
    max_length: int | None = None,
    segments: int | None = None,
    temperature: float = 1.0,
    no_answer_threshold: float | None = None,
) -> Path:
    """Writes what is added to an adapted model, masks (packed bits) and head into a safetensors file; returns its path.

    Args:
        task: name of the task of the training; with it `create_from_adapter` can build the model.
        class_names: names of the classes, in the order of the labels.
        max_length: number of tokens of an example in training.
        segments: number of texts of an example: one, or two for pairs.
        temperature: probabilities are softmax(logits / temperature).
        no_answer_threshold: for questions, see `best_answers`; None: 0 for SQuAD v2, otherwise each has an answer.

    Raises:
        ValueError: the model has nothing that `adapt` added.
    """
    import transformers

    model = plain_model(model)
    _, part = adapted_part(model, "capaboost_vit.nlu.adapt")
    record: dict[str, Any] = part.capaboost  # type: ignore[assignment]
    versions = {"capaboost_vit": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    header: dict[str, Any] = {
        "base": base_of(model) | (record.get("base", {}) if part is model else {}),
        "class_names": list(class_names),
        "num_labels": model.config.num_labels,  # type: ignore[union-attr]
        "versions": versions,
    }
    if not takes_images(model):
        header["text"] = {"task": task, "max_length": max_length, "segments": segments}
        if no_answer_threshold is not None:
            header["text"]["no_answer_threshold"] = no_answer_threshold
    if temperature != 1:
        header["temperature"] = temperature
    return write_adapter_file(path, model, header, head=head_names(model))


def load_adapter(model: nn.Module, path: str | Path | AdapterFile, *, force: bool = False) -> nn.Module:
    """Loads an adapter file into a model, which is adapted first if it is not yet; returns the model.

    With `force` base weights are accepted whose fingerprint differs.

    Raises:
        AdapterFileError, FileNotFoundError: see `read_adapter_file` and `load_adapter_file`; the model is unchanged.
    """
    inner = plain_model(model)
    file = read_of_library(path, "load_adapter", of_transformers=True)
    load_into(inner, file, architecture=type(inner).__name__, adapt=adapt, head_names=head_names, force=force)
    return model


def create_from_adapter(path: str | Path | AdapterFile, *, model: str | None = None, force: bool = False) -> nn.Module:
    """Builds the base model, loads its weights and the adapter file; returns it in evaluation mode.

    Args:
        model: folder or hub id of the base; None: the hub id in the file.
        force: accept base weights whose fingerprint differs.

    Raises:
        AdapterFileError: the file is damaged or does not fit, or its base is not on the hub and `model` is not given.
        ValueError: no such base model.
    """
    file = read_of_library(path, "create_from_adapter", of_transformers=True)
    header = file.header
    if model is None:
        check_published(file, "model=FOLDER", chain=False)
    base = model or header["base"].get("tag")
    architecture, classes = header["base"]["architecture"], header["class_names"]
    if base is None:
        raise AdapterFileError(f"{file.path} was made on a local {architecture}: say where it is, model=FOLDER")
    heads = [t for name, t in file.tensors.items() if name.startswith(tuple(f"{head}." for head in header["head"]))]
    if classes and heads and not any(tensor.shape[:1] == (len(classes),) for tensor in heads):
        raise AdapterFileError(f"{file.path} names {len(classes)} classes, which its head does not have")
    pretrained = not file.trains_all()
    task = header.get("text", {}).get("task")
    if task is None:
        with explained(file.path):
            built = create_model(
                base, architecture, classes=classes, num_labels=header.get("num_labels"), pretrained=pretrained
            )
        return load_adapter(built, file, force=force).eval()
    with explained(file.path):
        kind = get_task(task).kind
    if kind in ("classification", "multi-label", "tokens") and not classes:
        raise AdapterFileError(f"{file.path} names no classes: build its model, then use load_adapter")
    built = create_text_model(base, kind, classes=classes, pretrained=pretrained)
    return load_adapter(built, file, force=force).eval()


def save_model(model: nn.Module, tokenizer: Any, folder: Path) -> Path:
    """Writes a plain model and its tokenizer in transformers' format (an atomic write); returns the folder.

    Raises:
        FileExistsError: the folder exists and is not empty.
    """
    with new_folder(folder) as partial:
        with quiet():
            model.save_pretrained(partial)  # type: ignore[operator]
        tokenizer.save_pretrained(partial)
    return folder
