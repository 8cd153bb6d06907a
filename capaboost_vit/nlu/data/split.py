"""A data set of texts in memory: segments and labels by split; and which examples train, choose the epoch, and test.

GLUE's own test sets have no public labels. So the public dev set stands in for them, and what chooses the best epoch is
taken from elsewhere; a result says by which protocol it was made:

- own: the splits as they are in the data;
- drawn: the same, and where there is no val, a fifth of train is val, 5,000 examples at most, which are the sizes in
  "Don't Stop Pretraining" of IMDB and AG News, whose published files have no val; a run on files without val that
  chooses its epoch on val draws it in the same way;
- dev: train, and the public dev set as val; no test;
- halves: all of train; half of the public dev set as val, and the other half as test (for small tasks);
- thousand: 1,000 examples of train as val, the others as train, and the public dev set as test (for large tasks); where
  there is no dev set, the test set of the data stays the test set, if it has one.

What is drawn is a function of the protocol and the seed, on every platform: the permutation of the n examples of a
dev set is cut behind its n // 2 first ones, that of train behind its 1,000 (5,000, n // 5) first ones, and these become
val, in the order of the split. Of MNLI, `val` and `test` are the matched sets, `*_mismatched` the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from ...core.masks import random_state
from ...io.tables import SPLIT_NAMES, find_split

PROTOCOLS = ("own", "drawn", "dev", "halves", "thousand")
_THOUSAND = 1000
_DRAWN = 5000
PREDICT = "`capaboost predict RUN DATA --csv FILE` writes what a run predicts"  # what to do with texts alone
_KINDS = ("", "_mismatched")  # MNLI has a second dev set, and a second test set

S = TypeVar("S")


@dataclass(frozen=True)
class TextSplit:
    """The examples of one split."""

    texts: tuple[
        tuple[str, ...], ...
    ]  # of each one segment, or several that the model is to see together; or the words of a sentence
    labels: tuple[
        Any, ...
    ]  # the class from 0, the score, or the tags (from 0) of the words; none at all where texts are only read
    names: tuple[str, ...]  # by which a person finds each example: file and line, such as `train.tsv:17`

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
    """The splits of a data set by name, TextSplits or QuestionSplits."""

    spec: str
    classes: tuple[str, ...]  # names in the order of the labels; none where labels are none
    splits: dict[str, S]
    unlabelled: tuple[str, ...] = ()  # splits that are there, but whose labels are not
    protocol: str = "own"  # by which the splits were made
    left_out: dict[str, int] = field(default_factory=dict)  # broken rows of a published file that is known for them

    def find(self, name: str) -> str:
        """The name of a split, by itself or by a usual alias (val: valid, validation, dev), without regard to case.

        Raises:
            ValueError: there is none, or it has no labels.
        """
        # of questions, split by article, `dev` is none: SQuAD's dev set is the test set here
        split = None if self.protocol == "articles" else SPLIT_NAMES.get(name.lower())
        aliases = (alias for alias, meant in SPLIT_NAMES.items() if meant == split)
        if name in self.unlabelled or split in self.unlabelled:
            raise ValueError(f"{self.spec}: the split {name!r} has no labels; {PREDICT}")
        return find_split(self.spec, (name, *aliases), self.splits)


def apply_protocol(spec: str, splits: dict[str, TextSplit], *, protocol: str, seed: int) -> dict[str, TextSplit]:
    """The splits of a protocol. Raises ValueError for no dev set to halve, or too few examples."""
    if protocol == "own" or (protocol == "drawn" and ("val" in splits or "train" not in splits)):
        return splits  # a test set alone is evaluated as it is
    if protocol == "drawn":
        train = splits["train"]
        val, train = _cut(spec, train, max(1, min(_DRAWN, len(train) // 5)), protocol, seed)
        return {**splits, "train": train, "val": val}
    needed = "train" if protocol == "thousand" else "val"
    if needed not in splits:
        raise ValueError(
            f"{spec}: the split protocol {protocol!r} needs a {needed} set; there is: {', '.join(splits)}. "
            "Choose own to take the splits as they are"
        )
    if protocol == "dev":
        return {name: split for name, split in splits.items() if not name.startswith("test")}
    if protocol == "halves":
        made = {name: split for name, split in splits.items() if name == "train"}
        for kind in _KINDS:
            if dev := splits.get(f"val{kind}"):
                made[f"val{kind}"], made[f"test{kind}"] = _cut(spec, dev, max(1, len(dev) // 2), protocol, seed)
        return made
    val, train = _cut(spec, splits["train"], _THOUSAND, protocol, seed)
    made = {"train": train, "val": val}
    for kind in _KINDS:
        if test := splits.get(f"val{kind}") or splits.get(f"test{kind}"):
            made[f"test{kind}"] = test
    return made


def _cut(spec: str, split: TextSplit, count: int, protocol: str, seed: int) -> tuple[TextSplit, TextSplit]:
    """As many examples as are asked for, drawn, and the others; both in the order of the split."""
    if len(split) <= count:
        raise ValueError(
            f"{spec}: the split protocol {protocol!r} takes {count:,} examples of a set, and one has only "
            f"{len(split):,}: choose own, dev or halves"
        )
    order = random_state(seed, f"split protocol {protocol}").permutation(len(split))
    return split.take(np.sort(order[:count])), split.take(np.sort(order[count:]))
