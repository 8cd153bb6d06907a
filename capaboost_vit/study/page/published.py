"""Published VTAB-1k results, to stand beside ours; none of them was computed here."""

from __future__ import annotations

from dataclasses import dataclass

from .grid import Grid
from .outcomes import Part

SOURCE = (
    "Published, ViT-B/16 IN-21k: mean of the 3 group means / mean of the 19 tasks, in per cent; none was computed "
    "here. * marks the checkpoint augreg_in21k, which by itself is worth 0.6 to 1.1 points over orig_in21k. Protocols "
    "differ: choosing the best epoch on the test set (worth 0.6 to 1.8 points, 6.9 for full fine-tuning), a search for "
    "each task, JPEG copies of the images and other normalisation move these numbers as much as methods do."
)
_BACKBONES = {"augreg_in21k": "*", "orig_in21k": ""}


@dataclass(frozen=True)
class Published:
    """A line of the literature: words, not only numbers, where it gives a range."""

    method: str
    groups: str
    tasks: str
    remark: str = ""


PUBLISHED = (
    Published("full fine-tuning", "68.97", "65.57"),
    Published("linear", "57.68", "52.99"),
    Published("BitFit", "65.22", "62.05"),
    Published("VPT-deep", "71.97", "69.43"),
    Published("adapter", "73.86", "71.44"),
    Published("LoRA r8", "74.60", "72.25", "re-tuned by others: 75.2 to 75.7 (mean of groups)"),
    Published("AdaptFormer", "74.75", "72.32"),
    Published("FacT-TK", "75.55", "73.23"),
    Published("SSF*", "75.69", "73.10", "augreg_in21k"),
    Published("ARC", "75.78", "73.37"),
    Published("RepAdapter", "76.09", "73.84"),
    Published("Convpass", "76.56", "74.45"),
    Published("RLRR", "76.75", "74.54"),
    Published("GPS", "77.47", "75.18"),
    Published("Adapter+", "77.6", "", "one setting for all tasks, honest protocol"),
    Published("HST", "78.13", "75.99"),
    Published("MLAE", "78.8", "", "per-task search"),
)


def why_not_beside(part: Part) -> str | None:
    """Why nothing published is comparable with a part at all; None where it is."""
    if part.suite != "vtab1k":
        return "published numbers are kept for the suite vtab1k only"
    if part.backbone not in _BACKBONES:
        return f"the published numbers are of ViT-B/16 pretrained on ImageNet-21k, this part is of {part.backbone}"
    if part.shots is not None:
        return "the published numbers are of 1,000 training images for each task"
    return None


def own_rows(part: Part, grid: Grid) -> list[Published]:
    """Our lines: averages of all 19 tasks and their three groups, missing where one of them is."""
    found = []
    for row in grid.rows:
        numbers = []
        for name in ("mean of 3 groups", "mean of 19 tasks"):
            average = next((average for average in grid.averages if average.name == name), None)
            summary = None if average is None else grid.mean_of(row, average)
            numbers.append("missing" if summary is None or summary.mean is None else f"{summary.mean:.2f}")
        found.append(Published(f"{row}{_BACKBONES[part.backbone]}", numbers[0], numbers[1], "ours"))
    return found
