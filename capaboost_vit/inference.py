"""What is done with a finished run or an adapter file: evaluate it, merge it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import nn

from .build import build_transform, pick_device
from .core.adapter_file import read_header
from .core.atomic import replacing
from .core.merge import merge
from .training.config import TrainConfig
from .training.loop import evaluate
from .vision.adapters import create_from_adapter
from .vision.batches import ImageBatches, Normalise
from .vision.data import open_data


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
    target = pick_device(device)
    image_config = read_header(path)["input"]
    batches = ImageBatches(images.split(split), build_transform(image_config), batch_size=batch_size, keep=False)
    confusion = evaluate(model.to(target), batches, prepare=Normalise(image_config, target), config=settings)
    return int(confusion.trace()), int(confusion.sum())


def merge_adapter(adapter: Path, output: Path, *, initial_checkpoint: str | None = None) -> Path:
    """Writes the merged model's state dict, a plain timm checkpoint in safetensors form; returns the path.

    Raises:
        FileExistsError: the output is there already. ValueError: the method cannot be merged (all but LoRA).
    """
    if output.exists():
        raise FileExistsError(f"{output} exists: choose another --output")
    path, config = _finished(adapter)
    merged = merge(_restored(path, config, initial_checkpoint), inplace=True)
    with replacing(output) as partial:
        partial.write_bytes(save({name: tensor.contiguous() for name, tensor in merged.state_dict().items()}))
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
