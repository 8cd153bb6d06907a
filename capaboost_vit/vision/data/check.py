"""Looks at every image of a data set, once, and counts what a person would want to know before training."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from PIL import Image

from .image import to_rgb
from .image_data import ImageData
from .report import DataReport, Shared, SplitReport
from .scan import in_threads
from .split import Split

_SMALL, _LARGE, _RATIO = 32, 50_000_000, 4
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class _Seen:
    """What one look at an image tells; a reason where it cannot be read."""

    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    odd: tuple[str, ...] = ()
    reason: str = ""


def check_data(
    data: ImageData,
    *,
    apart: Sequence[tuple[str, str]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> DataReport:
    """Decodes and hashes every image of every split.

    Duplicates are images with the same bytes (the same pixels, where the set holds no encoded images): one that was
    encoded again is not found. A split whose files are all in another one, as train800 in train800val200, is meant to
    be so and no duplicate, unless one of the two is a test split.

    Args:
        apart: the pairs of splits that must not share images; None: all, but for those that are meant to.
        progress: is told how many images, over all splits, have been looked at, after each.
    """
    import pandas as pd

    reports = {}
    readable: list[tuple[str, int, int, bytes]] = []
    done = 0
    for name, split in data.splits.items():
        seen: list[_Seen] = []
        for one in in_threads(lambda i, split=split: _look(split, i), len(split), workers=os.cpu_count() or 1):  # type: ignore[misc]
            if one.digest:
                readable.append((name, len(seen), split.labels[len(seen)], one.digest))
            seen.append(one)
            done += 1
            if progress is not None:
                progress(done)
        reports[name] = _summary(split, seen, len(data.classes))
    images = pd.DataFrame(readable, columns=["part", "number", "label", "digest"])
    images["content"] = pd.factorize(images["digest"])[0]  # counted in the order in which they are first met
    of = {name: images[images["part"] == name] for name in data.splits}
    pairs = [pair for pair in combinations(data.splits, 2) if not _nested(data, *pair)] if apart is None else apart
    within = {name: _repeated(data, part, part[part.duplicated("content")]) for name, part in of.items()}
    between = {(a, b): _repeated(data, of[a], of[b][of[b]["content"].isin(of[a]["content"])]) for a, b in pairs}
    return DataReport(
        spec=data.spec,
        classes=data.classes,
        splits=reports,
        copies={name: copies for name, copies in within.items() if copies.count},
        shared={pair: shared for pair, shared in between.items() if shared.count},
        contradictions=_contradictions(data, images),
        unlabelled=data.unlabelled,
    )


def _look(split: Split, index: int) -> _Seen:
    try:
        with split.naming(index):
            opened, content = split.stored(index)
            with opened as image:
                odd = _odd(image)
                to_rgb(image)
                return _Seen(hashlib.sha256(content).digest(), image.size, odd)
    except ValueError as error:
        return _Seen(reason=str(error))


def _odd(image: Image.Image) -> tuple[str, ...]:
    width, height = image.size
    kinds = {
        f"mode {image.mode}": image.mode != "RGB",
        "turned by EXIF": image.getexif().get(_ORIENTATION, 1) not in (0, 1),
        "several frames": getattr(image, "is_animated", False),
        f"smaller than {_SMALL} px": min(width, height) < _SMALL,
        f"longer than {_RATIO}:1": max(width, height) > _RATIO * min(width, height),
        f"over {_LARGE // 1_000_000} megapixels": width * height > _LARGE,
    }
    return tuple(kind for kind, true in kinds.items() if true)


def _summary(split: Split, seen: list[_Seen], classes: int) -> SplitReport:
    counts = Counter(split.labels)
    sizes = sorted((one.size for one in seen if not one.reason), key=lambda size: (size[0] * size[1], size))
    return SplitReport(
        images=len(split),
        class_counts=tuple(counts[label] for label in range(classes)),
        unreadable={index: one.reason for index, one in enumerate(seen) if one.reason},
        odd=dict(Counter(kind for one in seen for kind in one.odd).most_common()),
        sizes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else None,
    )


def _nested(data: ImageData, first: str, second: str) -> bool:
    a, b = data.splits[first], data.splits[second]
    if a.open != b.open or first.startswith("test") or second.startswith("test"):
        return False
    names = set(a.names), set(b.names)
    return names[0] <= names[1] or names[1] <= names[0]


def _repeated(data: ImageData, images: Any, again: Any) -> Shared:
    """How many images are there again, and the first example: rows `again` have the content of other rows `images`."""
    if again.empty:
        return Shared(0, None)
    content = again["content"].min()
    one, other = (rows[rows["content"] == content].iloc[0] for rows in (images, again))
    return Shared(len(again), (_where(data, one), _where(data, other)))


def _contradictions(data: ImageData, images: Any) -> tuple[str, ...]:
    """One line per content that stands under several labels: where it is, and as what."""
    firsts = images.drop_duplicates(["content", "label"]).sort_values(["content", "label"])
    return tuple(
        ", ".join(f"{_where(data, row)} ({data.classes[row.label]})" for row in rows.itertuples())
        for _, rows in firsts.groupby("content")
        if len(rows) > 1
    )


def _where(data: ImageData, row: Any) -> str:
    split = data.splits[row.part]
    return split.locate(split.names[row.number])
