"""The one place where model, method, data and loop meet."""

from __future__ import annotations

import dataclasses
import json
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
from .build import build_data_config, build_model, build_transform, pick_device
from .core.atomic import write_text
from .core.inject import branches
from .training.config import TrainConfig
from .training.log import Log, draw_curves
from .training.loop import evaluate, fit
from .training.optim import make_optimizer, make_schedule
from .vision.adapters import save_adapter
from .vision.batches import ImageBatches, Normalise
from .vision.data import ImageData, open_data

_RUN_FILES = ("result.json", "summary.csv", "adapter.safetensors", "learning_curve.png", "config.yaml")


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains one model as configured and writes the run folder; returns what result.json holds.

    The folder gets `config.yaml` (resolved), `summary.csv` (a row per epoch), `tensorboard/`, `learning_curve.png`,
    `adapter.safetensors` and `result.json`. The model of the last epoch is kept; the test split is used once, at the
    end.

    Raises:
        FileExistsError: the folder holds files of a run and `overwrite` is not set.
        ValueError, TypeError, FileNotFoundError: a model, method, data set or file that does not exist or fit.
    """
    folder = Path(config.output)
    present = [name for name in _RUN_FILES if (folder / name).exists()]
    if present and not config.overwrite:
        raise FileExistsError(
            f"{folder} holds {present[0]} of another run: choose another --output, or pass --overwrite"
        )
    data = open_data(config.data)
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    model = build_model(config, num_classes=len(data.classes)).to(device)
    image_config = build_data_config(config, model)
    plain = build_transform(image_config)
    prepare = Normalise(image_config, device)
    parts = {name: data.split(name) for name in _split_names(config, data)}
    train_batches = ImageBatches(
        parts[config.train_split],
        plain if config.no_aug else build_transform(image_config, config),
        batch_size=config.batch_size,
        seed=config.seed,
        augmented=not config.no_aug,
        workers=config.workers,
    )
    held_out: dict[str, Any] = {"batch_size": config.validation_batch_size, "workers": config.workers}
    val_batches = None
    if config.val_split in parts:
        val_batches = ImageBatches(parts[config.val_split], plain, **held_out)
    # a mistake in --opt or --sched shows before there is a folder
    make_schedule(make_optimizer(model, config), config, len(train_batches))
    counts = _count(model)
    _prepare_folder(folder, config)
    log = Log(folder, epochs=config.epochs, steps=len(train_batches))
    try:
        sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        log.say(
            f"{config.model} on {config.data}: {len(data.classes)} classes, {sizes}; "
            f"{counts['trained']:,} of {counts['total']:,} parameters trained"
        )
        if not (config.pretrained or config.initial_checkpoint or config.method.get("name") == "full"):
            log.say("warning: the base weights are random: say --pretrained, or --initial-checkpoint FILE")
        speed = fit(model, train_batches, val_batches, prepare=prepare, config=config, log=log)
        accuracy: dict[str, Any] = {"val_accuracy": log.rows[-1].get("val_accuracy"), "test_accuracy": None}
        if config.test_split in parts:
            test_batches = ImageBatches(parts[config.test_split], plain, keep=False, **held_out)
            confusion = evaluate(model, test_batches, prepare=prepare, config=config)
            right, total = int(confusion.trace()), int(confusion.sum())
            accuracy |= {"test_accuracy": 100 * right / total, "test_right": right, "test_total": total}
            log.say(f"test accuracy {100 * right / total:.2f} % ({right} of {total})")
        else:
            log.say(f"no split {config.test_split!r} in {config.data}: no test accuracy")
        adapter = save_adapter(
            model, folder / "adapter.safetensors", class_names=data.classes, data_config=image_config
        )
    finally:
        log.close()
    draw_curves(
        {config.model: log.rows}, folder / "learning_curve.png", title=f"{config.model} on {Path(config.data).name}"
    )
    result = {
        **accuracy,
        **speed,
        "model": config.model,
        "method": model.capaboost["methods"],  # type: ignore[index]
        "parameters": counts,
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
    write_text(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result


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
    for name in _RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    resolved = dataclasses.asdict(config)
    write_text(folder / "config.yaml", yaml.safe_dump(json.loads(json.dumps(resolved)), sort_keys=False))


def _count(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: those with a gradient, those of the branches, all."""
    return {
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "branches": sum(p.numel() for branch in branches(model).values() for p in branch.parameters()),
        "total": sum(p.numel() for p in model.parameters()),
    }


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {"capaboost_vit": _version.__version__, "timm": timm.__version__, "torch": torch.__version__}
    versions["python"] = platform.python_version()
    return {"device": f"{device.type}: {name}", "threads": torch.get_num_threads(), "versions": versions}
