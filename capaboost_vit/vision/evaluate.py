"""Accuracy of what was saved, on any data set with the same classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..training.distributed import pick_device
from ..training.evaluation import evaluate
from ..training.saved import ModelSource, open_source
from .build import build_transform
from .config import TrainConfig
from .data import open_configured
from .loader import Normalise, image_eval_loader
from .saved import open_saved


def evaluate_adapter(
    adapter: str | Path | ModelSource,
    *,
    data: str | None = None,
    split: str = "test",
    initial_checkpoint: str | None = None,
    batch_size: int = 256,
    device: str | None = None,
) -> tuple[int, int]:
    """(right answers, all) of an adapter file, a run folder or a timm folder, on one split of a data set.

    Args:
        data: what to evaluate on; None takes that of the run folder. It is opened with the run's options.
        initial_checkpoint: the base weights of an adapter; None takes those of its run, or timm's hub.

    Raises:
        FileNotFoundError: no model, data or weights. ValueError: no data named, other classes, or what `open_saved`
            refuses.
    """
    source = open_source(adapter)
    config = source.config
    spec = data or config.get("data")
    if spec is None:
        raise ValueError(f"{source.path} is not in a run folder: say --data")
    images = open_configured({**config, "data": spec})
    part = images.split(split)
    target = pick_device(device)
    saved = open_saved(source, initial_checkpoint=initial_checkpoint)
    _check_classes(spec, images.classes, saved.classes, saved.model.num_classes)  # type: ignore[arg-type]
    batches = image_eval_loader(part, build_transform(saved.input), batch_size=batch_size, keep=False, device=target)
    settings = TrainConfig(device=device, validation_batch_size=batch_size)
    confusion = evaluate(saved.model.to(target), batches, prepare=Normalise(saved.input, target), config=settings)
    return int(confusion.trace()), int(confusion.sum())


def _check_classes(spec: str, found: Sequence[str], wanted: Sequence[str], count: int) -> None:
    """Raises ValueError unless label i of the data means output i of the model; classes without names must trust."""
    if len(found) > count:
        raise ValueError(f"{spec} has {len(found)} classes, the adapter {count}")
    if not wanted or all(name == str(i) for i, name in enumerate(found)):
        return
    for i, name in enumerate(found):
        if name != wanted[i]:
            raise ValueError(f"class {i} of {spec} is {name!r}, that of the adapter {wanted[i]!r}: other classes")
