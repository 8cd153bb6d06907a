"""Tables of the predictions of an evaluation: a csv file with a row for each image."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ..io.atomic import replacing


@contextmanager
def class_table(
    path: Path | None, images: Sequence[str], classes: Sequence[str], temperature: float
) -> Iterator[Callable[[Tensor, Tensor], None]]:
    """What writes `image,label,prediction,p(CLASS),...` rows of each batch, in the order of the split; None: nothing.

    The file is there at the end of the block, whole. Nine digits tell any two probabilities in float32.
    """
    if path is None:
        yield lambda logits, labels: None
        return
    names = iter(images)
    with _rows(path, ("image", "label", "prediction", *(f"p({name})" for name in classes))) as rows:

        def write(logits: Tensor, labels: Tensor) -> None:
            answers, probabilities = logits.argmax(-1).tolist(), (logits.float() / temperature).softmax(-1).tolist()
            for label, answer, shares in zip(labels.tolist(), answers, probabilities, strict=True):
                rows.writerow((next(names), classes[label], classes[answer], *(f"{share:.9g}" for share in shares)))

        yield write


def write_tag_table(
    path: Path, images: Sequence[str], classes: Sequence[str], logits: Tensor, targets: Tensor, *, threshold: float
) -> None:
    """Writes `image,label,prediction,p(TAG),...` rows; several tags are joined by `;`.

    Args:
        logits, targets: (N, C) of the images.
    """
    probabilities = logits.float().sigmoid()
    with _rows(path, ("image", "label", "prediction", *(f"p({name})" for name in classes))) as rows:
        for image, given, shares in zip(images, targets.bool().tolist(), probabilities.tolist(), strict=True):
            label = ";".join(name for name, has in zip(classes, given, strict=True) if has)
            answer = ";".join(name for name, share in zip(classes, shares, strict=True) if share >= threshold)
            rows.writerow((image, label, answer, *(f"{share:.9g}" for share in shares)))


def write_number_table(path: Path, images: Sequence[str], numbers: Tensor, targets: Sequence[float]) -> None:
    """Writes `image,label,prediction` rows of numbers (N,) in their unit."""
    with _rows(path, ("image", "label", "prediction")) as rows:
        for image, label, number in zip(images, targets, numbers.tolist(), strict=True):
            rows.writerow((image, repr(float(label)), f"{number:.9g}"))


@contextmanager
def _rows(path: Path, header: Sequence[str]) -> Iterator[Any]:
    """A csv writer; the file is there at the end of the block, whole."""
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(header)
        yield rows
