"""Published VTAB-1k results (published.yaml) beside ours; none of them was computed here."""

from __future__ import annotations

from ..outcomes import Comparison
from .grid import Grid
from .tables import MISSING, Entry, ReportTable, read_words, simple_table

_BACKBONES = {"augreg_in21k": "*", "orig_in21k": ""}
_AVERAGES = ("mean of 3 groups", "mean of 19 tasks")


def why_not_beside(part: Comparison) -> str | None:
    """Why nothing published is comparable with a part at all; None where it is."""
    if part.suite != "vtab1k":
        return "published numbers are kept for the suite vtab1k only"
    if part.backbone not in _BACKBONES:
        return f"the published numbers are of ViT-B/16 pretrained on ImageNet-21k, this part is of {part.backbone}"
    if part.shots is not None:
        return "the published numbers are of 1,000 training images for each task"
    return None


def published_table(grid: Grid) -> ReportTable | None:
    """Ours, missing where one of all 19 tasks is, and what others have published; None where nothing is comparable."""
    part = grid.part
    if why_not_beside(part) is not None:
        return None
    literature = read_words("published.yaml")
    rows = [
        _row("own", f"{row}{_BACKBONES[part.backbone]}", *(_ours(grid, row, name) for name in _AVERAGES), "ours")
        for row in grid.rows
    ]
    rows += [_row("", *line) for line in literature["lines"]]
    title = f"Published numbers beside ours (%): {part.title}"
    return simple_table(f"{grid.key}-published", title, ("method", *_AVERAGES, "remark"), rows, (literature["source"],))


def _ours(grid: Grid, row: str, name: str) -> str:
    means = [grid.score(row, average).mean for average in grid.averages if average.name == name]
    return MISSING if not means or means[0] is None else f"{means[0]:.2f}"


def _row(kind: str, method: str, *averages_and_remark: str) -> tuple[Entry, ...]:
    *averages, remark = averages_and_remark
    numbers = (Entry(text or "not given", kind="missing" if text in ("", MISSING) else "") for text in averages)
    return (Entry(method, kind=kind), *numbers, Entry(remark, kind="words"))
