"""Multiple choice as token ids: each choice as a pair with its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from .data import TextSplit
from .tokens import Encoded, Tokens, check_room, tokenized


@dataclass(frozen=True, eq=False)
class Choices(Encoded):
    """Examples of multiple choice: `ids` and `types` hold the pairs of an example one behind the other.

    `targets` has for each example (K,) int64, 1 for the right choice and 0 for the others, and 0 alone where nobody
    says which it is. `cut` counts examples of which a pair is cut.

    Args:
        ends: of each example (K,), where each of its pairs ends.
    """

    ends: tuple[np.ndarray, ...] = field(kw_only=True)

    def pairs(self, index: int, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The K pairs of an example, from its `ids` or `types`."""
        return np.split(rows[index], self.ends[index][:-1])


def encode_choices(split: TextSplit, tokenizer: Any, *, max_length: int) -> Choices:
    """The tokens of `context, choice` for each choice, with the special ones; of a pair the longer text is cut first.

    The texts of an example are its context, then its choices. Raises ValueError as `check_room` does.
    """
    check_room(tokenizer, max_length, segments=2)
    pairs = [(context, choice) for context, *choices in split.texts for choice in choices]
    pieces = tokenized(tokenizer, pairs, max_length=max_length, truncation="longest_first")
    tokens, ends, targets, cut = Tokens(tokenizer), [], [], 0
    for place, (name, (_, *choices)) in enumerate(zip(split.names, split.texts, strict=True)):
        found = [next(pieces) for _ in choices]
        ids = [first.ids for first, *_ in found]
        types = [first.type_ids for first, *_ in found]
        tokens.add_ids([*chain(*ids)], name, types=[*chain(*types)])
        ends.append(np.cumsum([len(row) for row in ids]))
        cut += any(more for _, *more in found)
        targets.append(np.zeros(len(choices), dtype=np.int64))
        if split.labels:
            targets[-1][split.labels[place]] = 1
    return Choices(**tokens.fields(), targets=tuple(targets), cut=cut, max_length=max_length, ends=tuple(ends))
