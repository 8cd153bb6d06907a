"""From texts to token ids, by a fast tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..training.outputs import tag_targets
from .data import TextSplit

_AT_ONCE = 1000  # texts given to the tokenizer together


@dataclass(frozen=True, eq=False)
class Encoded:
    """The E examples of one split as token ids, without padding."""

    ids: tuple[np.ndarray, ...]  # of each example (N,) int32
    types: tuple[np.ndarray, ...] | None  # (N,) int32, the segment of each token, where the tokenizer says so
    # classes (E,) int64, scores (E,) and tags (E, C) float32, spans (E, 2) int64; of each token (N,) int64; None:
    # masked ones are asked
    targets: Tensor | tuple[np.ndarray, ...] | None
    names: tuple[str, ...]  # by which a person finds each example
    pad_id: int  # of the token that fills up a batch
    cut: int = 0  # examples that were longer than the model is to read
    max_length: int | None = None  # tokens that were allowed; no batch is filled up beyond them

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return np.fromiter(map(len, self.ids), dtype=np.int64, count=len(self.ids))


def encode(split: TextSplit, tokenizer: Any, *, max_length: int, regression: bool = False, tags: int = 0) -> Encoded:
    """The tokens of each example, with the special ones; of a pair the longer text is cut first.

    More than two texts become one, with the tokenizer's separator between them (`a [SEP] b [SEP] c`), cut at its end.
    The labels of a regression are scores; those of `tags` tags become targets (E, tags) of 0 and 1. Raises ValueError
    as `check_room` does.
    """
    texts = split.texts
    if len(texts[0]) > 2:
        separator = f"{tokenizer.sep_token or tokenizer.eos_token} "  # the space makes a word's first piece of the next
        texts = tuple((separator.join(segments),) for segments in texts)
    check_room(tokenizer, max_length, segments=len(texts[0]))
    tokens = Tokens(tokenizer)
    cut = 0
    pieces_of = tokenized(tokenizer, texts, max_length=max_length, truncation="longest_first")
    for name, (first, *others) in zip(split.names, pieces_of, strict=True):
        tokens.add(first, name)
        cut += bool(others)
    targets = None
    if split.labels and tags:
        targets = tag_targets(split.labels, tags)
    elif split.labels:
        targets = torch.tensor(split.labels, dtype=torch.float32 if regression else torch.int64)
    return Encoded(**tokens.fields(), targets=targets, cut=cut, max_length=max_length)


def encode_pieces(split: TextSplit, tokenizer: Any, *, max_length: int) -> Encoded:
    """The documents of a split in pieces of at most `max_length` tokens, each with the special tokens; no targets.

    A document is an example's text, or its two texts with a space between them. A piece is named by its document, and
    by its number there from the second one on: `train.txt:17 (2)`. A piece of special tokens alone is left out.

    Raises:
        ValueError: see `check_room`; or nothing is left.
    """
    check_room(tokenizer, max_length, segments=1)
    special = set(tokenizer.all_special_ids)
    documents = [(" ".join(segments).strip(),) for segments in split.texts]
    tokens = Tokens(tokenizer)
    pieces_of = tokenized(tokenizer, documents, max_length=max_length, truncation=True)
    for document, pieces in zip(split.names, pieces_of, strict=True):
        for number, piece in enumerate(pieces, start=1):
            if not special.issuperset(piece.ids):
                tokens.add(piece, document, number)
    if not tokens.names:
        raise ValueError("the tokenizer finds no token in any of the texts")
    return Encoded(**tokens.fields(), targets=None, max_length=max_length)


def tokenized(tokenizer: Any, texts: Sequence[tuple[str, ...]], **options: Any) -> Iterator[list[Any]]:
    """Of each text, or pair of them, its pieces: the first one is what truncation leaves, the others are the rest.

    They are encodings of `tokenizers`, which know the offsets in the text: do not keep them, they take many times the
    room of the tokens.
    """
    for start in range(0, len(texts), _AT_ONCE):
        segments = map(list, zip(*texts[start : start + _AT_ONCE], strict=True))
        rows = tokenizer(*segments, return_attention_mask=False, verbose=False, **options)
        yield from ([encoding, *encoding.overflowing] for encoding in rows.encodings)


class Tokens:
    """Collects ids and types of encodings, as arrays, and their names."""

    def __init__(self, tokenizer: Any) -> None:
        self.pad_id: int = tokenizer.pad_token_id
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.ids: list[np.ndarray] = []
        self.types: list[np.ndarray] = []
        self.names: list[str] = []

    def add(self, encoding: Any, name: str, number: int = 1) -> None:
        """Adds the n-th piece of a text, which is called `name`, `name (2)`, ..."""
        self.add_ids(encoding.ids, name, number, types=encoding.type_ids)

    def add_ids(self, ids: Sequence[int], name: str, number: int = 1, *, types: Sequence[int] | None = None) -> None:
        """The same of token ids; without types they are all of the first segment."""
        self.names.append(name if number == 1 else f"{name} ({number})")
        self.ids.append(np.array(ids, dtype=np.int32))
        if self.has_types:
            self.types.append(np.array(types or [0] * len(ids), dtype=np.int32))

    def fields(self) -> dict[str, Any]:
        """The fields of `Encoded` that tell of the texts."""
        types = tuple(self.types) or None
        return {"ids": tuple(self.ids), "types": types, "names": tuple(self.names), "pad_id": self.pad_id}


def check_room(tokenizer: Any, max_length: int, *, segments: int) -> None:
    """Raises ValueError where the special tokens leave no room for one text, or two."""
    special = tokenizer.num_special_tokens_to_add(segments == 2)
    if max_length < special + segments:
        raise ValueError(
            f"--max-length {max_length} leaves no room: the tokenizer adds {special} special tokens to "
            f"{'a text' if segments == 1 else 'two texts'}"
        )
