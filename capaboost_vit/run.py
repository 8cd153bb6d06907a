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
from safetensors.torch import save
from torch import nn

from . import _version
from .build import build_data_config, build_model, build_transform
from .core.adapter_file import read_header
from .core.inject import branches
from .core.merge import merge
from .training.config import TrainConfig
from .training.log import Log, draw_curves
from .training.loop import evaluate, fit
from .training.optim import make_optimizer, make_schedule
from .vision.adapters import create_from_adapter, save_adapter
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
    device = _device(config)
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
            right, total = evaluate(model, test_batches, prepare=prepare, config=config)
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
    _write_json(folder / "result.json", result)
    return result


def evaluate_adapter(
    adapter: Path,
    *,
    data: str | None = None,
    split: str = "test",
    initial_checkpoint: str | None = None,
    batch_size: int = 256,
    device: str | None = None,
) -> tuple[int, int]:
    """(right answers, all) of an adapter file, or of a run folder's, on one split of a data set.

    Args:
        data: what to evaluate on; None takes that of the run folder.
        initial_checkpoint: the base weights; None takes those of the run folder, or timm's hub.

    Raises:
        ValueError: no data named, another number of classes, or what `create_from_adapter` refuses.
    """
    path, config = _finished(adapter)
    spec = data or config.get("data")
    if spec is None:
        raise ValueError(f"{path} is not in a run folder: say --data")
    images = open_data(spec)
    model = _restored(path, config, initial_checkpoint)
    if len(images.classes) > model.num_classes:  # type: ignore[operator]
        raise ValueError(f"{spec} has {len(images.classes)} classes, the adapter {model.num_classes}")
    settings = TrainConfig(device=device, validation_batch_size=batch_size)
    target = _device(settings)
    image_config = read_header(path)["input"]
    batches = ImageBatches(images.split(split), build_transform(image_config), batch_size=batch_size, keep=False)
    return evaluate(model.to(target), batches, prepare=Normalise(image_config, target), config=settings)


def merge_adapter(adapter: Path, output: Path, *, initial_checkpoint: str | None = None) -> Path:
    """Writes the merged model's state dict, a plain timm checkpoint in safetensors form; returns the path.

    Raises:
        FileExistsError: the output is there already. ValueError: the method cannot be merged (all but LoRA).
    """
    if output.exists():
        raise FileExistsError(f"{output} exists: choose another --output")
    path, config = _finished(adapter)
    merged = merge(_restored(path, config, initial_checkpoint), inplace=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(save({name: tensor.contiguous() for name, tensor in merged.state_dict().items()}))
    return output


def _finished(adapter: Path) -> tuple[Path, dict[str, Any]]:
    """The adapter file and, where there is one beside it, the configuration of its run."""
    path = adapter / "adapter.safetensors" if adapter.is_dir() else adapter
    if not path.is_file():
        raise FileNotFoundError(f"no adapter file at {path}")
    config = path.parent / "config.yaml"
    return path, yaml.safe_load(config.read_text()) if config.exists() else {}


def _restored(path: Path, config: dict[str, Any], initial_checkpoint: str | None) -> nn.Module:
    """The model of an adapter file on the base weights given, those of its run, or those of timm's hub."""
    checkpoint = initial_checkpoint or config.get("initial_checkpoint")
    if config and not (checkpoint or config["pretrained"] or config["method"].get("name") == "full"):
        raise ValueError(f"the base weights of {path} were random, and nobody kept them: train with --pretrained")
    return create_from_adapter(path, initial_checkpoint=checkpoint)


def _device(config: TrainConfig) -> torch.device:
    name = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a device that is not there
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error


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
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(resolved)), sort_keys=False))


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


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes beside the place and renames: a crash leaves no half file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)
