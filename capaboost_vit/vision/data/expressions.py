"""Split expressions: parts of a data set that have no name of their own, such as `train[:800]+validation[:200]`.

    expression = part, or parts with + between them, none of whose images is in two of them
    part       = a split's name or mixed(expression), and slices of it in turn: train, train[90%:][:200]
    slice      = [from:to], each an image's number, a percentage or nothing; negative ones count from the end

Numbers and percentages are those of `datasets.ReadInstruction`: a percentage is rounded to the nearest image. But a
bound beyond the last image is an error, percentages included. `mixed` puts the images into a fixed order that only
depends on their names, for sets that are sorted by class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIGNS = frozenset("+[]()")
_NAME = re.compile(r"[^+\[\]()]*[^+\[\]()\s]")
_SLICE = re.compile(r"\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\]\s*$", re.ASCII)
_MIXED = re.compile(r"mixed\((.*)\)", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """A split's name, or what is mixed; and the bounds of its slices, as they were written."""

    text: str
    source: str | tuple[Part, ...]
    slices: tuple[tuple[str | None, str | None], ...]


def is_name(text: str) -> bool:
    """Whether a text has none of the signs of expressions."""
    return not _SIGNS & set(text)


def parse_split(text: str, *, within: str | None = None) -> tuple[Part, ...]:
    """The parts of an expression; its splits need not be there. Raises ValueError for one that is malformed.

    Args:
        within: the expression that it is a part of, for messages.
    """
    pieces, depth = [""], 0
    for sign in text:
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "+" and depth == 0:  # what is in parentheses is parsed with its part
            pieces.append("")
        else:
            pieces[-1] += sign
    return tuple(_parse_part(piece.strip(), within or text) for piece in pieces)


def _parse_part(text: str, expression: str) -> Part:
    source, slices = text, list[tuple[str | None, str | None]]()
    while match := _SLICE.search(source):  # the last one first
        slices.insert(0, (match[1], match[2]))
        source = source[: match.start()].rstrip()
    mixed = _MIXED.fullmatch(source)
    if not mixed and not _NAME.fullmatch(source):
        raise ValueError(
            f"cannot read {text!r} in the split {expression!r}: write names, slices and sums of splits, such as "
            "train[:800], train[90%:][:200], train+val, mixed(train)[:90%]"
        )
    return Part(text, parse_split(mixed[1], within=expression) if mixed else source, tuple(slices))
