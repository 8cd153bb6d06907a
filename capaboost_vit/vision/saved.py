"""Finished models on images, opened and merged: a run, an adapter file, a folder in timm's hub format, a timm name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.data import resolve_input_data_config
from torch import nn

from ..core.integer_layer import merge_integers
from ..core.merge import fastest, merge
from ..io.atomic import is_taken, replacing
from ..io.json import read_object
from ..io.options import check_value
from ..training.card import write_merged_card
from ..training.saved import ModelSource, open_source
from .adapters import create_from_adapter
from .build import check_scaling
from .class_names import class_names
from .class_row import logits_only
from .data import checked_range
from .data.labels import Task
from .data.pixels import ValueRange
from .hub_folder import INTEGERS, LOAD_INTEGERS, create_from_integers, save_for_hf
from .targets import Scale
from .weights import create_base, local_folder, outputs_in

_OTHER_FILES = (".bin", ".ckpt", ".pt", ".pth")  # who types one of these does not mean a folder


@dataclass(frozen=True)
class Saved:
    """A model on the CPU in evaluation mode, timm's input configuration of it, and the names of its classes.

    `classes` is empty if they have no names. `input` also holds the `value_range` of training, if there was one, the
    `task`, and for a regression the `scale`. Probabilities are `softmax(logits / temperature)`.
    """

    model: nn.Module
    input: dict[str, Any]
    classes: tuple[str, ...]
    temperature: float = 1.0

    @property
    def task(self) -> Task:
        """Meaning of the outputs: logits of classes or of tags (multi-label), or standardised numbers (regression)."""
        return self.input.get("task", "classification")

    @property
    def scale(self) -> Scale | None:
        """Mean and std of a regression, which convert standardised values to their unit; None for classes and tags."""
        return Scale(*self.input["scale"]) if self.task == "regression" else None

    @property
    def value_range(self) -> ValueRange | None:
        """Pixel values of black and white with which images are read; see `to_rgb`."""
        return checked_range(self.input["value_range"]) if self.input.get("value_range") is not None else None

    def for_logits(self, device: torch.device, *, short_cuts: bool) -> nn.Module:
        """The model that computes the logits on a device; with short_cuts by `fastest`, which changes the model."""
        model = self.model.to(device)
        return fastest(model, logits_only) if short_cuts else model


def open_saved(path: str | Path | ModelSource, *, initial_checkpoint: str | None = None) -> Saved:
    """Opens the model of a run folder, an adapter file or a folder in timm's hub format.

    Args:
        initial_checkpoint: the base weights of an adapter; None: those of its run, or timm's hub.

    Raises:
        FileNotFoundError: no such model.
        ValueError: what `create_from_adapter` or timm refuses, or base weights that were random and are not stored.
    """
    source = open_source(path)
    if source.adapter is None:
        if initial_checkpoint is not None:
            raise ValueError(f"{source.path} is a timm folder with weights of its own: leave --initial-checkpoint out")
        return _from_timm_folder(source.path)
    config, header = source.config, source.adapter.header
    checkpoint = initial_checkpoint or config.get("initial_checkpoint") or local_folder(config.get("model", ""))
    if config and not (checkpoint or config["pretrained"] or source.adapter.trains_all()):
        raise ValueError(f"the base weights of {source.path} were random, and are not stored: train with --pretrained")
    model = create_from_adapter(source.adapter, initial_checkpoint=checkpoint)
    names = class_names(header["class_names"], header["num_classes"])
    return _tried(Saved(model, header["input"], names, header["temperature"]), source.path)


def task_of(source: ModelSource) -> Task:
    """The meaning of the outputs of a model on images, before it is built."""
    if source.adapter is not None:
        return source.adapter.header.get("input", {}).get("task", "classification")
    return _stored_task(source.path).get("task", "classification")


def open_plain(name: str, *, pretrained: bool, initial_checkpoint: str | None) -> Saved:
    """Opens a model by its timm name, with the classes of its weights.

    Args:
        pretrained: download the weights from timm's hub.
        initial_checkpoint: a local file with the weights, classifier included.

    Raises:
        ValueError: neither of the two, both, or weights without a classifier; see `create_base`.
    """
    if pretrained == (initial_checkpoint is not None):
        raise ValueError(f"{name} is a plain timm model: say --pretrained or --initial-checkpoint FILE, one of them")
    count = {} if initial_checkpoint is None else {"num_classes": outputs_in(name, initial_checkpoint)}
    model: Any = create_base(name, pretrained=pretrained, initial_checkpoint=initial_checkpoint, **count)
    names = class_names(model.pretrained_cfg.get("label_names") or (), model.num_classes)
    return _tried(Saved(model.eval(), resolve_input_data_config(model), names), name)


def open_without_base(path: str | Path | ModelSource) -> Saved:
    """The same as `open_saved` with random base weights, without file or hub: for what depends only on shapes.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a model on texts; what `create_from_adapter` or timm refuses.
    """
    source = open_source(path)
    if source.adapter is None:
        return _from_timm_folder(source.path)
    if source.is_text:
        raise ValueError(f"{source.path} is of a model on texts, this is for models on images")
    model = create_from_adapter(source.adapter, pretrained=False, force=True)
    return Saved(model, source.adapter.header["input"], ())


def merge_adapter(
    adapter: str | Path | ModelSource, output: Path, *, initial_checkpoint: str | None = None, integers: bool = False
) -> Path:
    """Writes the merged model, which does not need capaboost_vit (an atomic write); returns the path.

    Args:
        output: a name that ends in .safetensors for the plain state dict; any other name for a folder in timm's hub
            format (weights, arguments, class names and input configuration), see `save_for_hf`.
        initial_checkpoint: see `open_saved`.
        integers: IntLoRA's layers stay integers, in a folder for `create_from_integers`, which needs capaboost_vit.

    Raises:
        FileExistsError: the output exists; an empty folder is accepted.
        FloatingPointError: a merged weight is not finite.
        ValueError: the method cannot be merged, or has no integers, or `output` has the suffix of another kind of file.
    """
    as_file = output.suffix == ".safetensors"
    if integers and as_file:
        raise ValueError(f"--output {output}: layers of integers are written as a folder: name one")
    if output.suffix in _OTHER_FILES:
        raise ValueError(f"--output {output}: name a .safetensors file, or a folder to be made in timm's hub format")
    if is_taken(output) or (as_file and output.exists()):
        raise FileExistsError(f"{output} exists: choose another --output")
    source = open_source(adapter)
    if source.adapter is None:
        raise ValueError(f"{source.path} is a timm model already: nothing to merge")
    saved = open_saved(source, initial_checkpoint=initial_checkpoint)
    merged = (merge_integers if integers else merge)(saved.model, inplace=True)
    for name, tensor in merged.state_dict().items():
        if not tensor.isfinite().all():
            raise FloatingPointError(f"{name} of the merged model is not finite: the adapter or the base is broken")
    if as_file:
        with replacing(output) as partial:
            partial.write_bytes(save({name: tensor.contiguous() for name, tensor in merged.state_dict().items()}))
        return output
    save_for_hf(
        merged,
        output,
        class_names=saved.classes,
        data_config=dict(saved.input),
        value_range=saved.value_range,
        temperature=saved.temperature,
        task=saved.task,
        scale=saved.scale,
    )
    write_merged_card(output, source, load=LOAD_INTEGERS if integers else "")
    return output


def _from_timm_folder(folder: Path) -> Saved:
    try:
        model: Any
        if (folder / INTEGERS).is_file():
            model = create_from_integers(folder)
        else:
            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        names = class_names(model.pretrained_cfg.get("label_names") or (), model.num_classes)
    except Exception as error:  # a foreign config.json leads timm to whatever it leads to
        reason = (str(error) or "no reason given").splitlines()[0]
        raise ValueError(f"timm cannot build a model from {folder}: {type(error).__name__}: {reason}") from error
    if not model.num_classes:
        raise ValueError(f"the model in {folder} has no classes: it was saved with num_classes=0")
    stored = read_object(folder / "config.json")
    prepared = {**resolve_input_data_config(model), "value_range": stored.get("value_range"), **_stored_task(folder)}
    temperature = stored.get("temperature", 1.0)
    check_value(f"temperature in {folder / 'config.json'}", temperature, float, {"above": 0})
    return _tried(Saved(model.eval(), prepared, names, temperature), folder)


def _stored_task(folder: Path) -> dict[str, Any]:
    """Task and scale in the config.json of a timm folder, as they stand in an adapter file: none of classes.

    Raises:
        ValueError, TypeError: another task, or numbers without their mean and std.
    """
    path = folder / "config.json"
    stored = read_object(path)
    found: dict[str, Any] = {name: stored[name] for name in ("task", "scale") if name in stored}
    check_value(f"task in {path}", found.get("task"), Task | None, {})
    if found.get("task") == "regression":
        check_value(f"scale in {path}", found.get("scale"), tuple[float, float], {})
        Scale(*found["scale"])
    return found


def _tried(saved: Saved, where: str | Path) -> Saved:
    """The same, once it is sure that images can be scaled and that the model takes them. Raises ValueError."""
    check_scaling(saved.input, str(where))
    size = tuple(saved.input["input_size"])
    try:
        with torch.inference_mode():
            saved.model(torch.zeros(1, *size))
    except Exception as error:  # of whatever class: it is a foreign model's
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ValueError(f"the model in {where} takes no images of its input_size {size}: {reason}") from error
    return saved
