"""A data set of texts in memory: segments and labels of its examples by split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ...io.tables import VAL_NAMES, find_split

S = TypeVar("S")


@dataclass(frozen=True)
class TextSplit:
    """The examples of one split.

    Args:
        texts: of each example one segment, or two that the model is to see together.
        labels: of each example the class from 0, or the score; none at all where texts are only read.
        names: by which a person finds each example: file and line, such as `train.tsv:17`.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...] | tuple[float, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def record(self) -> dict[str, int | str]:
        """The fingerprint that is stored with a result: number of examples, SHA-256 over all texts and labels."""
        digest = hashlib.sha256()
        for index, segments in enumerate(self.texts):
            for segment in segments:
                content = segment.encode()
                digest.update(b"%d\n" % len(content))
                digest.update(content)
            digest.update(f"{self.labels[index] if self.labels else ''}\n".encode())
        return {"examples": len(self), "sha256": digest.hexdigest()}

    def take(self, indices: Iterable[int]) -> TextSplit:
        """The split of some of its examples, in the order of the indices."""
        chosen = [int(index) for index in indices]
        return TextSplit(
            tuple(self.texts[i] for i in chosen),
            tuple(self.labels[i] for i in chosen) if self.labels else (),
            tuple(self.names[i] for i in chosen),
        )


@dataclass(frozen=True)
class TextData(Generic[S]):
    """The splits of a data set by name, and its class names in the order of the labels (none where labels are none).

    Args:
        splits: TextSplits, or QuestionSplits.
        unlabelled: splits that are there, but whose labels are not: nothing can be done with them here.
        protocol: by which the splits were made.
        left_out: by split, how many broken rows of a published file were left out, where it is known for them.
    """

    spec: str
    classes: tuple[str, ...]
    splits: dict[str, S]
    unlabelled: tuple[str, ...] = ()
    protocol: str = "own"
    left_out: dict[str, int] = field(default_factory=dict)

    def split(self, name: str) -> S:
        """A split by its name, or by a usual alias (val: valid, validation, dev).

        Raises:
            ValueError: there is none, or it has no labels.
        """
        # of questions, split by article, `dev` is none: SQuAD's dev set is the test set here
        aliases = VAL_NAMES if name in VAL_NAMES and self.protocol != "articles" else ()
        return self.splits[find_split(self.spec, (name, *aliases), self.splits, self.unlabelled)]
