"""What a model on images is to give: the class of an image, its tags, or a number; as targets, objective and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..training.metrics import TAG_SCORES, scores, tag_scores
from ..training.objective import Objective, classification
from ..training.outputs import multi_label, regression, tag_targets
from ..training.reports import NUMBER_SCORES, number_report, tag_report
from .config import TrainConfig
from .data import ImageData, Split


@dataclass(frozen=True)
class Scale:
    """Standardised numbers, `(y - mean) / std` of the training split with the population's std: the model's outputs."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(
                f"numbers are scaled with mean {self.mean} and std {self.std}: both must be finite, and std above 0"
            )

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Scale:
        """That of these numbers; raises ValueError where they are all alike."""
        mean = math.fsum(numbers) / len(numbers)
        std = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))
        if std == 0:
            raise ValueError(f"all numbers of the training split are {mean:g}: there is nothing to learn")
        return cls(mean, std)

    def back(self, outputs: Tensor) -> Tensor:
        """Numbers in their own unit, in float64."""
        return self.mean + self.std * outputs.double()


def targets_of(task: str, split: Split, *, outputs: int, scale: Scale | None = None) -> Tensor:
    """Targets of all images of a split: classes (N,), tags (N, outputs) of 0 and 1, or standardised numbers (N,)."""
    if task == "multi-label":
        return tag_targets(split.labels, outputs)
    if scale is not None:
        return ((torch.tensor(split.labels, dtype=torch.double) - scale.mean) / scale.std).float()
    return torch.tensor(split.labels)


def make_objective(
    config: TrainConfig,
    task: str,
    *,
    classes: Sequence[str] = (),
    weights: Tensor | None = None,
    scale: Scale | None = None,
    threshold: float = 0.5,
) -> Objective:
    """The objective of a task on images, whose batches come from a loader with `targets_of` its split.

    Args:
        classes: names of the tags, for the report. weights: of the classes.
        scale: of numbers; scores are in their own unit. threshold: see `tag_scores`.
    """
    if task == "multi-label":

        def of_tags(logits: Tensor, batches: Any) -> dict[str, float]:
            return tag_scores(logits, batches.source.targets, threshold=threshold)

        def report_tags(logits: Tensor, batches: Any) -> dict[str, Any]:
            return tag_report(logits, batches.source.targets, classes, threshold=threshold)

        return multi_label(score=of_tags, names=TAG_SCORES, report=report_tags)
    if scale is None:
        return classification(smoothing=config.smoothing, weights=weights)

    def of_numbers(outputs: Tensor, batches: Any) -> dict[str, float]:
        return scores(NUMBER_SCORES, scale.back(outputs), scale.back(batches.source.targets))

    def report_numbers(outputs: Tensor, batches: Any) -> dict[str, Any]:
        return number_report(scale.back(outputs), scale.back(batches.source.targets), mean=scale.mean)

    return regression(score=of_numbers, names=NUMBER_SCORES, report=report_numbers)


def refuse_for_classes_alone(config: TrainConfig, task: str) -> None:
    """Raises ValueError for options that are for one class per image, where there are tags or numbers."""
    given = {
        "--smoothing": config.smoothing,
        "--mixup": config.mixup,
        "--cutmix": config.cutmix,
        "--class-weights": config.class_weights,
        "--sampling balanced": config.sampling == "balanced",
        "--shots": config.shots,
        "--num-classes": config.num_classes,
    }
    for name, value in given.items():
        if value:
            raise ValueError(f"{name} is for one class per image, and {config.data} is for {task}: leave it out")


def check_variety(config: TrainConfig, data: ImageData, split: Split) -> None:
    """Raises ValueError where all training images are labelled alike: there is nothing to tell apart."""
    if len(set(split.labels)) > 1:
        return
    of = data.label_text(split.labels[0])
    if data.task == "classification":
        raise ValueError(
            f"{config.data}: all images of {config.train_split} are of one class, {of!r}: there is nothing to tell "
            "apart. Is --data the folder that holds the class folders?"
        )
    raise ValueError(f"{config.data}: all images of {config.train_split} are labelled alike ({of}): nothing to learn")
