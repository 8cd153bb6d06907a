"""Scores of a model on one split of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from ..training.distributed import ProcessGroup, pick_device
from ..training.evaluation import evaluate
from ..training.probabilities import KeptLogits, classification_report
from ..training.reports import number_report, tag_report
from ..training.saved import ModelSource, open_source
from .class_names import outputs_of
from .config import TrainConfig
from .data import ImageData, Split, open_configured
from .loader import Normalise, image_eval_loader
from .prediction_table import class_table, write_number_table, write_tag_table
from .saved import Saved, open_plain, open_saved, task_of
from .targets import make_objective, targets_of
from .test_time_augmentation import MeanOfViews, Views, view_transform


def evaluate_images(
    model: str | Path | ModelSource,
    *,
    data: str | None = None,
    split: str | None = None,
    pretrained: bool = False,
    initial_checkpoint: str | None = None,
    batch_size: int = 64,
    tta: Views = "none",
    threshold: float | None = None,
    table: Path | None = None,
    device: str | None = None,
    short_cuts: bool = True,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All scores of a model on one split of a data set; each image counts once.

    See `classification_report`, and for tags and numbers `tag_report` and `number_report`.

    Args:
        model: an adapter file, a run folder, a folder in timm's hub format (with or without `local-dir:`), or a timm
            name.
        data: the data set; None: that of the run folder. It is opened with the run's options. Its classes are matched
            to those of the model by name (`outputs_of`), and may be fewer. So are its tags: a tag that the data set
            does not have counts as absent in every image.
        split: its name or an expression; None: the test split of the run, on the run's own data, otherwise "test".
        pretrained: for a timm name: download the weights from timm's hub.
        initial_checkpoint: see `open_saved` and `open_plain`.
        tta: test-time augmentation, see `view_transform`; probabilities, or numbers, are averaged over the views.
        threshold: probability from which a tag is predicted; None: 0.5.
        table: path of a csv file to write, see `class_table`, `write_tag_table` and `write_number_table`.
        short_cuts: compute with merged weights, and the last block only for the class token, where this is exact.
        note: called with one line for each group of files in the data that are no images.

    Raises:
        FileNotFoundError: no model, data or weights.
        ValueError: no data given, other classes, or labels of another task; see `open_saved`.
    """
    plain = isinstance(model, str) and timm.is_model(model) and not Path(model).exists()
    if pretrained and not plain:
        raise ValueError(f"--pretrained is for names of timm's, and {model} has weights of its own: leave it out")
    source = None if plain else open_source(model)
    config = {} if source is None else source.config
    spec = data or config.get("data")
    if spec is None:
        raise ValueError(f"{model if source is None else source.path} is not in a run folder: say --data")
    split = split or (config.get("test_split") if data is None else None) or "test"
    task = "classification" if source is None else task_of(source)
    if threshold is not None and task != "multi-label":
        raise ValueError(f"--threshold is for several tags per picture, and {model} is for {task}: leave it out")
    asked = config.get("task") if task == "classification" else task
    images = open_configured({**config, "data": spec, "task": asked})
    part = images.split(split)
    for line in images.left_out:
        note(line)
    target = pick_device(device)
    if source is None:
        saved = open_plain(str(model), pretrained=pretrained, initial_checkpoint=initial_checkpoint)
    else:
        saved = open_saved(source, initial_checkpoint=initial_checkpoint)
    if images.task != task:
        raise ValueError(f"the labels of {spec} are for {images.task}, and {model} is for {task}")
    places = list(map(part.locate, part.names))
    options: dict[str, Any] = {"tta": tta, "batch_size": batch_size, "device": target, "short_cuts": short_cuts}
    if task == "classification":
        report = _scores_of_classes(saved, images, part, table=table, places=places, **options)
    else:
        chosen = 0.5 if threshold is None else threshold
        report = _scores_of_outputs(saved, images, part, table=table, places=places, threshold=chosen, **options)
    return {"model": str(model), "data": spec, "split": split, "tta": tta, **report}


def _scores_of_classes(
    saved: Saved, images: ImageData, part: Split, *, table: Path | None, places: list[str], **options: Any
) -> dict[str, Any]:
    count: int = saved.model.num_classes  # type: ignore[assignment]
    outputs = outputs_of(images.spec, images.classes, names=saved.classes, count=count)
    classes = list(saved.classes or map(str, range(count)))
    if not saved.classes:  # those that the data name
        for label, output in enumerate(outputs):
            classes[output] = images.classes[label]
    tasks = [""] * count if images.tasks else []
    for output, task in zip(outputs, images.tasks, strict=False):
        tasks[output] = task
    part = replace(part, labels=tuple(outputs[label] for label in part.labels))
    kept = KeptLogits(range(len(part)), len(part))
    with class_table(table, places, classes, saved.temperature) as write:

        def keep(logits: Tensor, labels: Tensor) -> None:
            kept.add(logits, labels)
            write(logits, labels)

        confusion = _accumulated(saved, part, also=keep, **options)[0]
    logits = kept.result(ProcessGroup())
    return classification_report(confusion, logits, classes, temperature=saved.temperature, tasks=tasks)


def _scores_of_outputs(
    saved: Saved,
    images: ImageData,
    part: Split,
    *,
    table: Path | None,
    places: list[str],
    threshold: float,
    **options: Any,
) -> dict[str, Any]:
    outputs, targets = outputs_on(saved, images, part, **options)
    if saved.scale is not None:
        numbers = saved.scale.back(outputs)
        if table is not None:
            write_number_table(table, places, numbers, part.labels)
        return number_report(numbers, saved.scale.back(targets), mean=saved.scale.mean)
    classes = saved.classes or tuple(map(str, range(outputs.shape[-1])))
    if table is not None:
        write_tag_table(table, places, classes, outputs, targets, threshold=threshold)
    return tag_report(outputs, targets, classes, threshold=threshold)


def outputs_on(saved: Saved, images: ImageData, part: Split, **options: Any) -> tuple[Tensor, Tensor]:
    """(outputs, targets) of all images of a split: logits of tags and 0 or 1, (N, C), or standardised numbers, (N,).

    Args:
        images: the data set of the split; its tags are matched to those of the model by name.
        options: tta, batch_size, device, short_cuts; see `evaluate_images`.
    """
    count: int = saved.model.num_classes  # type: ignore[assignment]
    if saved.task == "multi-label":
        places = outputs_of(images.spec, images.classes, names=saved.classes, count=count)
        part = replace(part, labels=tuple(tuple(places[tag] for tag in tags) for tags in part.labels))
    targets = targets_of(saved.task, part, outputs=count, scale=saved.scale)
    objective = make_objective(TrainConfig(), saved.task, scale=saved.scale)
    outputs, batches = _accumulated(saved, part, targets=targets, objective=objective, **options)
    return outputs if saved.scale is None else outputs.squeeze(-1), batches.source.targets


def _accumulated(
    saved: Saved,
    part: Split,
    *,
    tta: Views,
    batch_size: int,
    device: torch.device,
    short_cuts: bool,
    targets: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Any]:
    """What `evaluate` accumulates on a split, with its options, and the batches."""
    part = replace(part, value_range=saved.value_range)
    transform = view_transform(saved.input, tta)
    batches = image_eval_loader(part, transform, batch_size=batch_size, keep=False, device=device, targets=targets)
    network = MeanOfViews(saved.for_logits(device, short_cuts=short_cuts), saved.temperature, saved.task)
    prepare = Normalise(saved.input, device)
    return evaluate(network, batches, prepare=prepare, config=TrainConfig(), **options), batches
