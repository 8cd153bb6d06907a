"""From a run's configuration to its model, its input configuration, its transforms and its batch augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.data.random_erasing import RandomErasing
from torch import nn
from torchvision.transforms import v2

from ..io.hub import PREFIX, is_on_hub
from ..io.options import nearest, suggest
from ..methods import METHODS, Method
from ..methods.initial import start_from
from ..training.loader import Batch
from .adapters import adapt
from .config import TrainConfig, sides
from .registry import parse_name
from .weights import architecture_in, create_base, local_folder


def check_model(config: TrainConfig) -> Method:
    """The method of a run on images, once it is sure that there is such a model, and that the two go together.

    Raises:
        ValueError: an unknown model, a plain model without `method.name`, or one that contradicts the model's name.
    """
    folder = local_folder(config.model)
    name = config.model if folder is None else architecture_in(folder)
    architecture, _, tag = name.partition(".")
    if folder is not None and config.initial_checkpoint is not None:
        raise ValueError(f"--model {config.model} has weights of its own: leave --initial-checkpoint out")
    if not timm.is_model(name):
        if name.startswith("hf_hub:"):
            raise ValueError(f"--model {name}: say {PREFIX}{name.partition(':')[2]}")
        near = timm.list_models(f"*{architecture}*")[:3]
        if not near and (like := nearest(architecture, timm.list_models())):
            near = [like]
        hint = f"did you mean {', '.join(near)}?" if near else "`capaboost models` lists the registered names"
        raise ValueError(f"timm has no model {name!r}: {hint}")
    tags = [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", include_tags=True)]
    if tag and tag not in tags:
        listed = f"it has: {', '.join(tags)}" if tags else "leave it out"
        raise ValueError(f"--model {architecture} has no weights {tag!r}{suggest(tag, tags)}; {listed}")
    implied = parse_name(name)
    if config.method is None:
        raise ValueError(f"{config.model} is a plain timm model: say --method.name lora ({', '.join(METHODS)})")
    if implied and config.method.name != implied[1]:
        raise ValueError(
            f"--method.name {config.method.name} contradicts --model {config.model}: "
            f"use {implied[0]} for another method"
        )
    return config.method


def build_model(config: TrainConfig, *, num_classes: int, task_classes: Sequence[int] = ()) -> nn.Module:
    """The adapted model of a configuration, on the CPU, with its base weights.

    Args:
        task_classes: of data of several tasks the number of classes of each.

    Raises:
        ValueError: see `check_model`; fewer classes than the data have; what the method or timm refuses.
    """
    method = check_model(config).seeded(config.seed)
    if task_classes:
        method = method.for_tasks(task_classes)
    arguments: dict[str, Any] = {"num_classes": config.num_classes or num_classes, **config.model_kwargs}
    if config.num_classes is not None and config.num_classes < num_classes:
        raise ValueError(f"--num-classes {config.num_classes} is less than the {num_classes} classes of the data")
    if "img_size" in config.model_kwargs:
        raise ValueError("--model-kwargs img_size: say --img-size, which the transforms follow too")
    folder = local_folder(config.model)
    name = config.model if folder is None else architecture_in(folder)
    # of the hub timm notes where the weights are from
    source = config.model if folder is None or is_on_hub(config.model) else f"local-dir:{folder}"
    base_config = timm.get_pretrained_cfg(name)
    # others take images of any size, and have no such argument
    if config.img_size is not None and base_config is not None and base_config.fixed_input_size:
        arguments["img_size"] = config.img_size
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    implied = folder is None and parse_name(name) is not None
    if implied:
        changed = dataclasses.replace(method).as_given()  # what a run has found, too
        arguments |= {name: value for name, value in changed.items() if name != "name"}
    pretrained = config.pretrained or folder is not None
    model: Any = create_base(source, pretrained=pretrained, initial_checkpoint=config.initial_checkpoint, **arguments)
    if not implied:
        adapt(model, method)
    if config.initial_adapter is not None:
        start_from(model, config.initial_adapter)
    if config.grad_checkpointing:
        model.set_grad_checkpointing(True)
    return model


def build_data_config(config: TrainConfig, model: nn.Module) -> dict[str, Any]:
    """timm's input configuration of the model (size, mean, std, crop, interpolation), with the run's overrides."""
    names = ("crop_pct", "crop_mode", "interpolation")
    asked = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.img_size is not None:
        asked["input_size"] = (3, *sides(config.img_size))
    return check_scaling(resolve_data_config(asked, model=model), config.model)


def check_scaling(data_config: dict[str, Any], where: str) -> dict[str, Any]:
    """The input configuration, once it is sure that black and white are finite by its mean and std, in float32.

    Raises:
        ValueError: they are not, or `std` is not positive.
    """
    try:
        mean, std = (255 * torch.tensor(data_config[name], dtype=torch.float32).view(-1, 1) for name in ("mean", "std"))
        scaled = (torch.tensor([0.0, 255.0]) - mean) / std
        valid = bool(scaled.isfinite().all() and std.isfinite().all() and (std > 0).all())
    except (KeyError, TypeError, ValueError, RuntimeError):  # no numbers
        valid = False
    if not valid:
        given = ", ".join(f"{name} {data_config.get(name)}" for name in ("mean", "std"))
        raise ValueError(f"{where}: no image can be scaled with {given}: they must be finite in float32, std above 0")
    return data_config


def build_transform(data_config: dict[str, Any], augment: TrainConfig | None = None) -> Any:
    """timm's transform up to uint8 pixels (3, H, W): as in evaluation, or with the augmentation of a configuration.

    Raises:
        ValueError: timm refuses it.
    """
    names = ("input_size", "interpolation", "mean", "std")  # the mean is also what borders are filled with
    options: dict[str, Any] = {"use_prefetcher": True, **{name: data_config[name] for name in names}}
    if augment is None:
        options |= {"crop_pct": data_config["crop_pct"], "crop_mode": data_config["crop_mode"]}
    else:
        options |= {
            "is_training": True,
            "scale": tuple(augment.scale),
            "ratio": tuple(augment.ratio),
            "hflip": augment.hflip,
            "vflip": augment.vflip,
            "color_jitter": augment.color_jitter,
            "auto_augment": augment.aa,
        }
    try:
        return create_transform(**options)
    except Exception as error:  # asserted, or a name that is no key
        given = "" if augment is None or augment.aa is None else f" with --aa {augment.aa}"
        reason = " ".join((str(error) or "no reason given").split())
        raise ValueError(f"timm cannot make a transform{given}: {type(error).__name__}: {reason}") from error


def make_mix(config: TrainConfig, *, num_classes: int, device: torch.device) -> Callable[[Batch], Batch]:
    """timm's random erasing (boxes take the mean colour), then torchvision's MixUp or CutMix, one of them per batch.

    With mixup or cutmix the labels become probabilities (B, num_classes). A batch whose labels are -1 counts for
    nothing and is left alone.
    """
    erase = RandomErasing(config.reprob, mode="const", device=device) if config.reprob > 0 else None
    kinds = [
        kind(alpha=alpha, num_classes=num_classes)
        for kind, alpha in ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
        if alpha > 0
    ]
    blend = v2.RandomChoice(kinds) if kinds else None

    def mix(batch: Batch) -> Batch:
        images, labels = batch
        if erase is not None:
            images = erase(images)
        # one image alone may be such a stand-in; looking at its label waits for the device
        if blend is not None and not (len(labels) == 1 and bool(labels[0] < 0)):
            images, labels = blend(images, labels)
        return images, labels

    return mix
