"""From texts to token ids, by a fast tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        regression: labels are scores.

    Raises:
        TypeError, ValueError: see `check_tokenizer`.
    """
    check_tokenizer(tokenizer, max_length, model_length, segments=len(split.texts[0]) if split.texts else 1)
    tokens = Tokens(tokenizer)
    cut = 0
    for first, *others in tokenized(tokenizer, split.texts, max_length=max_length, truncation="longest_first"):
        tokens.add(first)
        cut += bool(others)
    targets = None
    if split.labels or not len(split):
        targets = torch.tensor(split.labels, dtype=torch.float32 if regression else torch.int64)
    return Encoded(**tokens.fields(), targets=targets, names=split.names, cut=cut, max_length=max_length)


def encode_pieces(split: TextSplit, tokenizer: Any, *, max_length: int, model_length: int | None = None) -> Encoded:
    """The documents of a split in pieces of at most `max_length` tokens, each with the special tokens; no targets.

    A document is an example's text, or its two texts with a space between them. A piece is named by its document, and
    by its number there from the second one on: `train.txt:17 (2)`. A piece of special tokens alone is left out.

    Raises:
        TypeError, ValueError: see `check_tokenizer`; ValueError too where nothing is left.
    """
    check_tokenizer(tokenizer, max_length, model_length, segments=1)
    special = set(tokenizer.all_special_ids)
    documents = [(" ".join(segments).strip(),) for segments in split.texts]
    tokens = Tokens(tokenizer)
    names: list[str] = []
    pieces_of = tokenized(tokenizer, documents, max_length=max_length, truncation=True)
    for document, pieces in zip(split.names, pieces_of, strict=True):
        for number, piece in enumerate(pieces, start=1):
            if not special.issuperset(piece.ids):
                tokens.add(piece)
                names.append(piece_name(document, number))
    if len(split) and not names:
        raise ValueError("the tokenizer finds no token in any of the texts")
    return Encoded(**tokens.fields(), targets=None, names=tuple(names), max_length=max_length)


def tokenized(tokenizer: Any, texts: Sequence[tuple[str, ...]], **options: Any) -> Iterator[list[Any]]:
    """Of each text, or pair of them, its pieces: the first one is what truncation leaves, the others are the rest.

    They are encodings of `tokenizers`, which know the offsets in the text: do not keep them, they take many times the
    room of the tokens.
    """
    for start in range(0, len(texts), _AT_ONCE):
        segments = map(list, zip(*texts[start : start + _AT_ONCE], strict=True))
        rows = tokenizer(*segments, return_attention_mask=False, verbose=False, **options)
        yield from ([encoding, *encoding.overflowing] for encoding in rows.encodings)


def piece_name(name: str, number: int) -> str:
    """The name of the n-th piece of a text: `name`, `name (2)`, ..."""
    return name if number == 1 else f"{name} ({number})"


class Tokens:
    """Collects ids and types of encodings, as arrays."""

    def __init__(self, tokenizer: Any) -> None:
        self.pad_id: int = tokenizer.pad_token_id
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.ids: list[np.ndarray] = []
        self.types: list[np.ndarray] = []

    def add(self, encoding: Any) -> None:
        """Adds one encoding."""
        self.ids.append(np.array(encoding.ids, dtype=np.int32))
        if self.has_types:
            self.types.append(np.array(encoding.type_ids, dtype=np.int32))

    def fields(self) -> dict[str, Any]:
        """The fields `ids`, `types` and `pad_id` of `Encoded`."""
        return {"ids": tuple(self.ids), "types": tuple(self.types) or None, "pad_id": self.pad_id}


def check_tokenizer(tokenizer: Any, max_length: int, model_length: int | None, *, segments: int) -> None:
    """Checks a tokenizer, and the length of an example, special tokens included.

    Args:
        model_length: tokens that the model takes; None for any number.
        segments: texts of an example, one or two.

    Raises:
        TypeError: the tokenizer is no fast one of transformers.
        ValueError: more tokens than the model takes, or too few for any text; the tokenizer cannot fill up a batch.
    """
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
