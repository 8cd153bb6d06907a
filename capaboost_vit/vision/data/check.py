"""Looks at every image of a data set, once, and counts what a person would want to know before training."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain, combinations
from typing import Any, NamedTuple

from PIL import Image

from .image_data import ImageData
from .look_alikes import look_alikes, thumbnail
from .pixels import Values, content_of, decode, own_range, to_rgb, values_of
from .report import DataReport, Pair, Shared, SplitReport
from .split import Fingerprint, Split

_SMALL, _LARGE, _RATIO = 32, 50_000_000, 4
_ORIENTATION = 0x0112
_AHEAD = 1000  # images that are given to the threads at once


class _Look(NamedTuple):
    """What one look at an image tells; a reason where it cannot be read."""

    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    odd: tuple[str, ...] = ()
    values: Values | None = None
    thumbnail: bytes = b""
    reason: str = ""
    content: bytes = b""


def unreadable(split: Split, *, workers: int = 0) -> dict[int, str]:
    """Why an image cannot be read, by its index; every image is decoded, by so many threads."""
    return {index: look.reason for index, look in enumerate(_looks(split, workers)) if look.reason}


def check_data(
    data: ImageData,
    *,
    apart: Sequence[tuple[str, str]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> DataReport:
    """Decodes and hashes every image of every split.

    Duplicates are images with the same bytes (the same pixels, where the set holds no encoded images): one that was
    encoded again is not found. A split whose files are all in another one, as train800 in train800val200, is meant to
    be so and no duplicate, unless one of the two is a test split. Others that look alike are no problem, but pairs to
    look at (see `look_alikes`).

    Args:
        apart: the pairs of splits that must not share images; None: all, but for those that are meant to.
        progress: is told how many images, over all splits, have been looked at, after each.
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    fingerprints = {name: Fingerprint(split) for name, split in data.splits.items()}
    for name, split in data.splits.items():
        for number, look in enumerate(_looks(split, os.cpu_count() or 1)):
            fingerprints[name].add(look.content)
            rows.append((name, number, split.labels[number], *look[:-1]))  # contents would fill the memory
            if progress is not None:
                progress(len(rows))
    looked_at = pd.DataFrame(rows, columns=["part", "number", "label", *_Look._fields[:-1]])
    images = looked_at[looked_at["reason"] == ""].copy()
    images["content"] = pd.factorize(images["digest"])[0]  # counted in the order in which they are first met
    of = {name: images[images["part"] == name] for name in data.splits}
    pairs = [pair for pair in combinations(data.splits, 2) if not _nested(data, *pair)] if apart is None else apart
    within = {name: _repeated(data, part, part[part.duplicated("content")]) for name, part in of.items()}
    between = {(a, b): _repeated(data, of[a], of[b][of[b]["content"].isin(of[a]["content"])]) for a, b in pairs}
    return DataReport(
        spec=data.spec,
        classes=data.classes,
        splits={
            name: _summary(looked_at[looked_at["part"] == name], len(data.classes), fingerprint)
            for name, fingerprint in fingerprints.items()
        },
        copies={name: copies for name, copies in within.items() if copies is not None},
        shared={pair: shared for pair, shared in between.items() if shared is not None},
        contradictions=_contradictions(data, images),
        unlabelled=data.unlabelled,
        left_out=data.left_out,
        values=_values(data, images),
        advice=tuple(_advice(data, images)),
        look_alikes=_pairs(data, images.drop_duplicates("content"), pairs),
    )


def _looks(split: Split, workers: int) -> Iterator[_Look]:
    """A look at each image, in their order, by several threads, as PIL decodes outside Python's lock."""
    Image.init()  # its plug-ins, before there are threads
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(split), _AHEAD):  # a pool that is given all of a million images at once takes a GB
            yield from pool.map(partial(_look, split), range(start, min(start + _AHEAD, len(split))))


def _look(split: Split, index: int) -> _Look:
    try:
        with split.naming(index):
            stored = split.open(split.names[index])
            with decode(stored) as image:
                odd, values = _odd(image), values_of(image)
                # values beyond their range are a problem of the set, not of each of its images
                wide = (values.low, values.high) if values.low < values.high else None
                rgb = to_rgb(image, split.value_range or wide if own_range(image) else None)
                content = content_of(stored)
                digest = hashlib.sha256(content).digest()
                return _Look(digest, image.size, odd, values, thumbnail(rgb), content=content)
    except ValueError as error:
        return _Look(reason=str(error))


def _odd(image: Image.Image) -> tuple[str, ...]:
    width, height = image.size
    several = True
    with suppress(Exception):  # frames behind the first one may be damaged: nothing reads them
        several = getattr(image, "is_animated", False)
    kinds = {
        f"mode {image.mode}": image.mode != "RGB",
        "turned by EXIF": image.getexif().get(_ORIENTATION, 1) not in (0, 1),
        "several frames": several,
        f"smaller than {_SMALL} px": min(width, height) < _SMALL,
        f"longer than {_RATIO}:1": max(width, height) > _RATIO * min(width, height),
        f"over {_LARGE // 1_000_000} megapixels": width * height > _LARGE,
    }
    return tuple(kind for kind, true in kinds.items() if true)


def _summary(looked_at: Any, classes: int, fingerprint: Fingerprint) -> SplitReport:
    """Of the images of one split."""
    labels = looked_at["label"]
    counts = Counter(chain(*labels) if any(isinstance(label, tuple) for label in labels) else labels)
    unreadable = looked_at[looked_at["reason"] != ""]
    sizes = sorted(looked_at["size"].drop(unreadable.index), key=lambda size: (size[0] * size[1], size))
    return SplitReport(
        images=len(looked_at),
        class_counts=tuple(counts[label] for label in range(classes)),
        unreadable=dict(zip(unreadable["number"], unreadable["reason"], strict=True)),
        odd=dict(Counter(kind for kinds in looked_at["odd"] for kind in kinds).most_common()),
        sizes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else None,
        record=None if len(unreadable) else fingerprint.record(),
    )


def _values(data: ImageData, images: Any) -> dict[str, tuple[Values, ...]]:
    """The values of each class, by their kind; nothing where all images have 8 bits."""
    joined: dict[tuple[int, str], Values] = {}
    for label, values in zip(images["label"], images["values"], strict=True):
        joined[label, values.kind] = values.joined(joined.get((label, values.kind), values))
    if all(kind == "8 bit" for _, kind in joined):
        return {}
    return {
        name: tuple(values for (label, _), values in sorted(joined.items()) if label == number)
        for number, name in enumerate(data.classes)
    }


def _advice(data: ImageData, images: Any) -> Iterator[str]:
    """A line for each kind of values that does not go with the range by which it is read."""
    joined: dict[str, Values] = {}
    for values in images["values"]:
        joined[values.kind] = values.joined(joined.get(values.kind, values))
    if all(split.value_range is None for split in data.splits.values()):
        yield from filter(None, (values.advice() for values in joined.values()))


def _pairs(data: ImageData, images: Any, apart: Sequence[tuple[str, str]]) -> tuple[Pair, ...]:
    """Images that look alike: first those under two labels, then those in two splits."""
    rows = list(images.itertuples())
    pairs = []
    for first, second, correlation in look_alikes(list(images["thumbnail"])):
        one, other = rows[first], rows[second]
        across = (one.part, other.part) in apart or (other.part, one.part) in apart
        places = ((one.part, one.number), (other.part, other.number))
        pairs.append(
            Pair(places, (_where(data, one), _where(data, other)), correlation, across, one.label != other.label)
        )
    return tuple(sorted(pairs, key=lambda pair: (not pair.contradicts, not pair.across, -pair.correlation)))


def _nested(data: ImageData, first: str, second: str) -> bool:
    a, b = data.splits[first], data.splits[second]
    if a.open != b.open or first.startswith("test") or second.startswith("test"):
        return False
    names = set(a.names), set(b.names)
    return names[0] <= names[1] or names[1] <= names[0]


def _repeated(data: ImageData, images: Any, again: Any) -> Shared | None:
    """How many images are there again, and the first example: rows `again` have the content of other rows `images`."""
    if again.empty:
        return None
    content = again["content"].min()
    one, other = (rows[rows["content"] == content].iloc[0] for rows in (images, again))
    return Shared(len(again), (_where(data, one), _where(data, other)))


def _contradictions(data: ImageData, images: Any) -> tuple[str, ...]:
    """One line per content that stands under several labels: where it is, and as what."""
    firsts = images.drop_duplicates(["content", "label"]).sort_values(["content", "label"])
    return tuple(
        ", ".join(f"{_where(data, row)} ({data.label_text(row.label)})" for row in rows.itertuples())
        for _, rows in firsts.groupby("content")
        if len(rows) > 1
    )


def _where(data: ImageData, row: Any) -> str:
    split = data.splits[row.part]
    return split.locate(split.names[row.number])
