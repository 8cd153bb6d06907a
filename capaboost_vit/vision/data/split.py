"""A split: names and labels of its images, and how to read the i-th."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from PIL import Image

from .pixels import ValueRange, Values, content_of, decode, has_deep_colour, own_range, to_rgb, values_of

_HASHED_BYTES = 1 << 30
_SAMPLE = 64


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Args:
        names: one per image; they do not depend on where the data lies.
        labels: one per image: its class, from 0; or the numbers of its tags, in order; or a float.
        open: from a name to encoded bytes, or to a PIL image; it must survive pickling, for loader processes.
        locate: from a name to the words by which a person finds the image, such as its full path.
        value_range: see `to_rgb`.
    """

    names: tuple[str, ...]
    labels: tuple[Any, ...]
    open: Callable[[str], bytes | Image.Image] = field(repr=False)
    locate: Callable[[str], str] = field(default=str, repr=False)
    value_range: ValueRange | None = None

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """The image as RGB, upright. Raises ValueError that names the file if it cannot be read."""
        with self.naming(index), decode(self.open(self.names[index])) as image:
            return to_rgb(image, self.value_range)

    def content(self, index: int) -> bytes:
        """The `content_of` the image as it is stored. Raises ValueError that names the file."""
        with self.naming(index):
            return content_of(self.open(self.names[index]))

    @contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Turns any exception of the block into a ValueError that names the file."""
        try:
            yield
        except Exception as error:  # decoders raise whatever the damaged bytes lead them to
            reason = str(error) or type(error).__name__
            raise ValueError(f"cannot read the image {self.locate(self.names[index])}: {reason}") from error

    def record(self) -> dict[str, int | str]:
        """The fingerprint that is stored with a result.

        `images`: their number; `sha256`: over all names, all labels, and the contents in order until a GiB has been
        read; `hashed_images`: how many contents went in.
        """
        fingerprint = Fingerprint(self)
        while fingerprint.hashed_images < len(self) and not fingerprint.full:
            fingerprint.add(self.content(fingerprint.hashed_images))
        return fingerprint.record()

    def only(self, indices: Iterable[int]) -> Split:
        """Some images of the split, in the order of the indices."""
        kept = tuple(indices)
        return replace(self, names=tuple(self.names[i] for i in kept), labels=tuple(self.labels[i] for i in kept))


def of_sources(sources: Mapping[str, Split], names: Sequence[str], labels: Sequence[Any]) -> Split:
    """A split whose images, called `source: name`, are opened as those of the sources are."""
    alone = {source: replace(split, names=(), labels=()) for source, split in sources.items()}
    value_range = next(iter(alone.values())).value_range
    return Split(tuple(names), tuple(labels), partial(_open, alone), partial(_locate, alone), value_range)


def join_splits(sources: Mapping[str, Split], *, starts: Sequence[int]) -> Split:
    """The images of several splits, one split after the other; to the labels of each its start is added."""
    names = [f"{source}: {name}" for source, split in sources.items() for name in split.names]
    labels = [start + label for start, split in zip(starts, sources.values(), strict=False) for label in split.labels]
    return of_sources(sources, names, labels)


def _open(sources: Mapping[str, Split], name: str) -> bytes | Image.Image:
    """Opens `source: name` as the source does."""
    source, _, name = name.partition(": ")
    return sources[source].open(name)


def _locate(sources: Mapping[str, Split], name: str) -> str:
    source, _, name = name.partition(": ")
    return sources[source].locate(name)


class Fingerprint:
    """The `record` of a split for whoever reads its images anyway: it is given their contents in order."""

    def __init__(self, split: Split) -> None:
        self._digest = hashlib.sha256()
        for name, label in zip(split.names, split.labels, strict=True):
            self._digest.update(f"{name}\0{label}\n".encode("utf-8", "surrogateescape"))
        self._images, self._read = len(split), 0
        self.hashed_images = 0

    @property
    def full(self) -> bool:
        """Whether a GiB has been read: what is added after that changes nothing."""
        return self._read >= _HASHED_BYTES

    def add(self, content: bytes) -> None:
        if self.full:
            return
        self._digest.update(f"{len(content)}\n".encode())
        self._digest.update(content)
        self.hashed_images += 1
        self._read += len(content)

    def record(self) -> dict[str, int | str]:
        return {"images": self._images, "sha256": self._digest.hexdigest(), "hashed_images": self.hashed_images}


def few_shot(split: Split, shots: int, *, seed: int, classes: Sequence[str]) -> Split:
    """`shots` images of each class: those with the lowest SHA-256 of (seed, name), in the order of the split.

    So the draw depends neither on the order of the images nor on any generator, and with the same seed fewer shots are
    a part of more.

    Args:
        classes: the names of all classes, in the order of the labels.

    Raises:
        ValueError: a class has fewer images.
    """
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(split.labels):
        by_label[label].append(index)
    drawn: list[int] = []
    for label, name in enumerate(classes):
        indices = by_label[label]
        if len(indices) < shots:
            few = [classes[i] for i in range(len(classes)) if len(by_label[i]) < shots]
            others = f", and {len(few) - 1} more have too few" if len(few) > 1 else ""
            raise ValueError(f"--shots {shots}: class {name!r} has {len(indices)} training images{others}")
        drawn += sorted(indices, key=lambda i: (name_digest(split.names[i], "few-shot", seed), i))[:shots]
    return split.only(sorted(drawn))


def refuse_narrow(split: Split) -> None:
    """Raises ValueError where images of more than 8 bits fill less than a quarter of their range, or leave it.

    Looks at 64 images, evenly spread; with a `value_range` at none.
    """
    sample: dict[str, Values] = {}
    for index in range(0, len(split), max(1, len(split) // _SAMPLE)) if split.value_range is None else ():
        with suppress(Exception), decode(split.open(split.names[index])) as image:  # whoever reads it names it
            if own_range(image) is not None or has_deep_colour(image):
                values = values_of(image)
                sample[values.kind] = values.joined(sample.get(values.kind, values))
    for values in sample.values():
        if advice := values.advice():
            raise ValueError(f"in a sample, {advice}")


def name_digest(name: str, *key: str | int) -> bytes:
    """The SHA-256 of `key:key:name`: sorted by it, names are mixed, for each key in another way."""
    return hashlib.sha256(":".join([*map(str, key), name]).encode("utf-8", "surrogateescape")).digest()
