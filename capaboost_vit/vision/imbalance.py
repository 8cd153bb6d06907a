"""Classes of unequal size: weights of the loss, and what the log says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..io.columns import listed
from ..io.options import suggest
from .config import TrainConfig
from .data import ImageData

_UNEQUAL = 10  # how many times as large the largest class is as the smallest before a line says so


def class_weights(
    given: str | Mapping[str, float], labels: Sequence[int], classes: Sequence[str], *, outputs: int
) -> Tensor:
    """Weights (outputs,) of the loss by class, of mean 1 over the training examples: `sum_i w[label_i] / n = 1`.

    So the loss keeps its scale, and the learning rate its meaning. `balanced` is `n / (K n_c)` for the n_c of n
    examples of class c, with K classes that occur: that of scikit-learn's compute_class_weight. Given by name, w_c
    stands for `w_c n / sum_i w[label_i]`; a class that is not named has 1 before that. Outputs without an example have
    the weight 1.

    Raises:
        ValueError: a name that is no class.
    """
    counts = torch.bincount(torch.tensor(labels), minlength=outputs).double()
    weights = torch.ones(outputs, dtype=torch.double)
    if isinstance(given, str):  # balanced
        weights[counts > 0] = 1 / counts[counts > 0]
    else:
        for name, weight in given.items():
            if name not in classes:
                raise ValueError(f"--class-weights: no class {name!r}{suggest(name, classes)}; {listed(classes)}")
            weights[list(classes).index(name)] = weight
    scaled = weights * (len(labels) / (weights * counts).sum())
    return torch.where(counts > 0, scaled, 1).float()


def imbalance_lines(config: TrainConfig, data: ImageData, labels: Sequence[Any]) -> Iterator[str]:
    """What the log says of balanced sampling, and of images without a tag."""
    if config.sampling == "balanced":
        (rarest, least), drawn = Counter(labels).most_common()[-1], len(labels) // len({*labels})
        yield (
            f"balanced sampling: each class {drawn} times an epoch, so that each image of the rarest, {least} of "
            f"{data.classes[rarest]!r}, comes {drawn / least:.3g} times"
        )
    if data.task == "multi-label" and (none := sum(not tags for tags in labels)):
        yield f"{none} of {len(labels)} training images have no tag"


def imbalance_warnings(config: TrainConfig, data: ImageData, labels: Sequence[Any]) -> Iterator[str]:
    """A line where classes are very unequal and nothing is done about it."""
    if data.task != "classification" or config.class_weights is not None or config.sampling == "balanced":
        return
    (largest, most), *_, (smallest, least) = Counter(labels).most_common()
    if most >= _UNEQUAL * least:
        yield (
            f"the classes are unequal: {most} training images of {data.classes[largest]!r}, {least} of "
            f"{data.classes[smallest]!r}; --class-weights balanced or --sampling balanced makes them count alike, and "
            "--select balanced_accuracy chooses by them"
        )
