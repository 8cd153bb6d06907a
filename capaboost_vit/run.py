"""The one place where model, method, data and loop meet."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from torch import nn

from . import _version
from .core.inject import branches
from .methods.config import option_names
from .training.config import TrainConfig
from .training.log import Log, draw_curves
from .training.loop import evaluate, fit
from .vision.adapt import adapt
from .vision.adapters import save_adapter
from .vision.batches import ImageBatches, Normalise, data_config
from .vision.data import ImageData, open_data
from .vision.registry import parse_name
from .vision.weights import load_base_weights

__all__ = ["build_model", "train"]


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains one model as configured and writes the run folder; returns what result.json holds.

    The folder gets `config.yaml` (resolved), `summary.csv` (a row per epoch), `tensorboard/`, `learning_curve.png`,
    `adapter.safetensors` and `result.json`. The model of the last epoch is kept; the test split is used once, at the
    end.

    Raises:
        FileExistsError: the folder holds a finished run and `overwrite` is not set.
        ValueError, TypeError, FileNotFoundError: a model, method, data set or file that does not exist or fit.
    """
    folder = Path(config.output)
    if (folder / "result.json").exists() and not config.overwrite:
        raise FileExistsError(f"{folder} holds a finished run: choose another --output, or pass --overwrite true")
    data = open_data(config.data)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(config.seed)
    model = build_model(config, num_classes=len(data.classes)).to(device)
    image_config = data_config(model, config)
    prepare = Normalise(image_config, device)
    parts = {name: data.split(name) for name in _split_names(config, data)}
    train_batches = ImageBatches(parts[config.train_split], config, image_config, training=True)
    val_batches = None
    if config.val_split in parts:
        val_batches = ImageBatches(parts[config.val_split], config, image_config, training=False)
    _prepare_folder(folder, config)
    log = Log(folder, epochs=config.epochs, steps=len(train_batches))
    try:
        log.say(_heading(config, model, data, parts))
        speed = fit(model, train_batches, val_batches, prepare=prepare, config=config, log=log)
        accuracy: dict[str, Any] = {"val_accuracy": log.rows[-1].get("val_accuracy"), "test_accuracy": None}
        if config.test_split in parts:
            test_batches = ImageBatches(parts[config.test_split], config, image_config, training=False)
            right, total = evaluate(model, test_batches, prepare=prepare, config=config)
            accuracy |= {"test_accuracy": 100 * right / total, "test_right": right, "test_total": total}
            log.say(f"test accuracy {100 * right / total:.2f} % ({right} of {total})")
        else:
            log.say(f"no split {config.test_split!r} in {config.data}: no test accuracy")
        adapter = save_adapter(model, folder / "adapter.safetensors", class_names=data.classes)
    finally:
        log.close()
    draw_curves({config.model: log.rows}, folder / "learning_curve.png", title=f"{config.model} on {config.data}")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    result = {
        **accuracy,
        **speed,
        "model": config.model,
        "method": model.capaboost["methods"],  # type: ignore[index]
        "parameters": {
            "trained": trained,
            "branches": sum(p.numel() for branch in branches(model).values() for p in branch.parameters()),
            "total": sum(p.numel() for p in model.parameters()),
        },
        "adapter_bytes": adapter.stat().st_size,
        "data": {
            "spec": config.data,
            "classes": len(data.classes),
            "splits": {name: {"images": len(part), "sha256": part.digest()} for name, part in parts.items()},
        },
        "config": dataclasses.asdict(config),
        "machine": _machine(device),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    _write_json(folder / "result.json", result)
    return result


def build_model(config: TrainConfig, *, num_classes: int) -> nn.Module:
    """The adapted model of a configuration, on the CPU, with its base weights.

    Raises:
        ValueError: an unknown model, a plain model without `method.name`, or one that contradicts the model's name.
    """
    if not timm.is_model(config.model):
        near = timm.list_models(f"*{config.model.partition('.')[0]}*")[:3]
        hint = f"did you mean {', '.join(near)}?" if near else "`capaboost models` lists the registered names"
        raise ValueError(f"timm has no model {config.model!r}: {hint}")
    implied = parse_name(config.model)
    options = {"init_seed": config.seed, **config.method}
    name = options.pop("name", implied[1] if implied else None)
    if name is None:
        raise ValueError(
            f"{config.model} is a plain timm model: say --method.name lora (adapter, prefix, prompt, head, full)"
        )
    if implied and name != implied[1]:
        raise ValueError(
            f"--method.name {name} contradicts --model {config.model}: use {implied[0]} for another method"
        )
    if "init_seed" not in option_names(name) and "init_seed" not in config.method:
        del options["init_seed"]
    arguments: dict[str, Any] = {"num_classes": config.num_classes or num_classes, **config.model_kwargs}
    if config.num_classes is not None and config.num_classes < num_classes:
        raise ValueError(f"--num-classes {config.num_classes} is less than the {num_classes} classes of the data")
    if "img_size" in config.model_kwargs:
        raise ValueError("--model-kwargs img_size: say --img-size, which the transforms follow too")
    if config.img_size is not None and timm.get_pretrained_cfg(config.model).fixed_input_size:
        arguments["img_size"] = config.img_size
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    if implied:
        arguments |= options
    fetch = config.pretrained and config.initial_checkpoint is None
    model = timm.create_model(config.model, pretrained=fetch, **arguments)
    if config.initial_checkpoint is not None:
        load_base_weights(model, config.initial_checkpoint)
    if not implied:
        adapt(model, name, **options)
    if config.grad_checkpointing:
        model.set_grad_checkpointing(True)
    return model


def _split_names(config: TrainConfig, data: ImageData) -> list[str]:
    """The splits that the run uses: train must be there; val and test by their default names may be absent."""
    names = [config.train_split]
    for name, default in ((config.val_split, "val"), (config.test_split, "test")):
        if name is not None and (data.has(name) or name != default):
            names.append(name)
    return names


def _prepare_folder(folder: Path, config: TrainConfig) -> None:
    """Makes the folder, empties it of an earlier run's files, and writes the resolved configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", "summary.csv", "adapter.safetensors", "learning_curve.png"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    resolved = dataclasses.asdict(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(resolved)), sort_keys=False))


def _heading(config: TrainConfig, model: nn.Module, data: ImageData, parts: dict[str, Any]) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
    return (
        f"{config.model} on {config.data}: {len(data.classes)} classes, {sizes}; "
        f"{trained:,} of {total:,} parameters trained"
    )


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {"capaboost_vit": _version.__version__, "timm": timm.__version__, "torch": torch.__version__}
    versions["python"] = platform.python_version()
    return {"device": f"{device.type}: {name}", "threads": torch.get_num_threads(), "versions": versions}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes beside the place and renames: a crash leaves no half file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)
