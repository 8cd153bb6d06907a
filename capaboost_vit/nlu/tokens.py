"""From texts to token ids, by a fast tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import TextSplit

_AT_ONCE = 1000  # texts given to the tokenizer together


@dataclass(frozen=True, eq=False)
class Encoded:
    """The examples of one split as token ids, without padding.

    Args:
        ids: (N,) int32 of each example.
        types: (N,) int32, to which segment each token belongs, where the tokenizer says so.
        targets: classes (E,) int64, scores (E,) float32, or spans (E, 2) int64; None where masked tokens are asked for.
        names: by which a person finds each example.
        pad_id: of the token that fills up a batch.
        cut: examples that were longer than the model is to read.
        max_length: tokens of the longest example that was allowed; no batch is filled up beyond it.
    """

    ids: tuple[np.ndarray, ...]
    types: tuple[np.ndarray, ...] | None
    targets: Tensor | None
    names: tuple[str, ...]
    pad_id: int
    cut: int = 0
    max_length: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return np.fromiter(map(len, self.ids), dtype=np.int64, count=len(self.ids))


def encode(
    split: TextSplit, tokenizer: Any, *, max_length: int, regression: bool = False, model_length: int | None = None
) -> Encoded:
    """The tokens of each example, with the special ones; of a pair the longer text is cut first.

    Args:
        tokenizer: a fast one of transformers.
        max_length: tokens of an example, with the special ones.
        regression: labels are scores.
        model_length: tokens that the model takes.

    Raises:
        TypeError: the tokenizer is not a fast one.
        ValueError: more tokens than the model takes, or too few for any text; the tokenizer cannot fill up a batch.
    """
    pair = bool(split.texts) and len(split.texts[0]) == 2
    _check(tokenizer, max_length, model_length, segments=2 if pair else 1)
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    cut = 0
    for part in _parts(split.texts):
        segments: tuple[list[str], ...] = tuple(map(list, zip(*part, strict=True)))
        found = tokenizer(
            *segments, truncation="longest_first", max_length=max_length, return_attention_mask=False, verbose=False
        )
        ids += map(_array, found["input_ids"])
        types += map(_array, found.get("token_type_ids", ()))
        cut += sum(bool(encoding.overflowing) for encoding in found.encodings)
    targets = torch.tensor(split.labels, dtype=torch.float32 if regression else torch.int64)
    return Encoded(
        tuple(ids),
        tuple(types) if types else None,
        targets if split.labels or not len(split) else None,
        split.names,
        tokenizer.pad_token_id,
        cut,
        max_length,
    )


def encode_pieces(split: TextSplit, tokenizer: Any, *, max_length: int, model_length: int | None = None) -> Encoded:
    """The documents of a split in pieces of at most `max_length` tokens, each with the special tokens; no targets.

    A document is an example's text, or its two texts with a space between them. A piece is named by its document, and
    by its number there from the second one on: `train.txt:17 (2)`. A piece of special tokens alone is left out.

    Raises:
        As `encode`; ValueError too where nothing is left.
    """
    _check(tokenizer, max_length, model_length, segments=1)
    special = set(tokenizer.all_special_ids)
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    names: list[str] = []
    documents = [" ".join(segments).strip() for segments in split.texts]
    for start, part in enumerate(_parts(documents)):
        found = tokenizer(
            part,
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        number = 0
        before = -1
        for row, (piece, document) in enumerate(
            zip(found["input_ids"], found["overflow_to_sample_mapping"], strict=True)
        ):
            number = number + 1 if document == before else 1
            before = document
            if special.issuperset(piece):
                continue
            ids.append(_array(piece))
            if "token_type_ids" in found:
                types.append(_array(found["token_type_ids"][row]))
            name = split.names[start * _AT_ONCE + document]
            names.append(name if number == 1 else f"{name} ({number})")
    if len(split) and not ids:
        raise ValueError("the tokenizer finds no token in any of the texts")
    return Encoded(
        tuple(ids), tuple(types) if types else None, None, tuple(names), tokenizer.pad_token_id, 0, max_length
    )


def _check(tokenizer: Any, max_length: int, model_length: int | None, *, segments: int) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(f"expected a fast tokenizer of transformers, got {type(tokenizer).__name__}")
    if model_length is not None and max_length > model_length:
        raise ValueError(f"--max-length {max_length}: the model takes {model_length} tokens at most")
    special = tokenizer.num_special_tokens_to_add(segments == 2)
    if max_length < special + segments:
        raise ValueError(
            f"--max-length {max_length} leaves no room: the tokenizer adds {special} special tokens to "
            f"{'a text' if segments == 1 else 'two texts'}"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no padding token: set its pad_token")


def _parts(texts: Any) -> Iterator[Any]:
    return (texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE))


def _array(ids: list[int]) -> np.ndarray:
    return np.asarray(ids, dtype=np.int32)
