"""From a path to the model that lies there: a run folder, an adapter file, or a folder in timm's hub format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_input_data_config
from torch import nn

from ..methods.adapter_file import AdapterFile
from ..training.saved import ModelSource, open_source
from .adapters import create_from_adapter


@dataclass(frozen=True)
class Saved:
    """A model on the CPU in evaluation mode, timm's input configuration of it, and the names of its classes.

    `classes` is empty where nobody has named them.
    """

    model: nn.Module
    input: dict[str, Any]
    classes: tuple[str, ...]


def open_saved(path: str | Path | ModelSource, *, initial_checkpoint: str | None = None) -> Saved:
    """The model of a run folder, an adapter file or a timm folder.

    Args:
        initial_checkpoint: the base weights of an adapter; None takes those of its run, or timm's hub.

    Raises:
        FileNotFoundError: there is none. ValueError: what `create_from_adapter` or timm refuses.
    """
    source = open_source(path)
    if source.adapter is not None:
        return _from_adapter(source, source.adapter, initial_checkpoint)
    if initial_checkpoint is not None:
        raise ValueError(f"{source.path} is a timm folder with weights of its own: leave --initial-checkpoint out")
    return _from_timm_folder(source.path)


def _from_adapter(source: ModelSource, adapter: AdapterFile, initial_checkpoint: str | None) -> Saved:
    config, header = source.config, adapter.header
    checkpoint = initial_checkpoint or config.get("initial_checkpoint")
    if config and not (checkpoint or config["pretrained"] or adapter.trains_all()):
        raise ValueError(
            f"the base weights of {source.path} were random, and nobody kept them: train with --pretrained"
        )
    model = create_from_adapter(adapter, initial_checkpoint=checkpoint)
    return Saved(model, header["input"], _class_names(header["class_names"], header["num_classes"]))


def _from_timm_folder(folder: Path) -> Saved:
    try:
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # a foreign config.json leads timm to whatever it leads to
        reason = (str(error) or "no reason given").splitlines()[0]
        raise ValueError(f"timm cannot build a model from {folder}: {type(error).__name__}: {reason}") from error
    if not model.num_classes:
        raise ValueError(f"the model in {folder} has no classes: it was saved with num_classes=0")
    names = _class_names(model.pretrained_cfg.get("label_names") or (), model.num_classes)
    return Saved(model.eval(), resolve_input_data_config(model), names)


def _class_names(names: Sequence[str] | Mapping[Any, str], count: int) -> tuple[str, ...]:
    """A name for each of `count` classes, the number of those that have none; timm has lists, or names by number."""
    by_number = names if isinstance(names, Mapping) else dict(enumerate(names))
    known = {int(number): str(name) for number, name in by_number.items()}
    return tuple(known.get(i, str(i)) for i in range(count)) if known else ()
