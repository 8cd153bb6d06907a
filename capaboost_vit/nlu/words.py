"""Sentences of words as token ids, and from answers at tokens back to words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from .data import TextSplit
from .loader import NOT_ASKED
from .tokens import Encoded, Tokens, check_room


@dataclass(frozen=True, eq=False)
class Sentences(Encoded):
    """Sentences as token ids, in pieces where they are longer than the model is to read: no word is lost.

    `targets` has for each piece the tag of a word at the first of its tokens, and -100 elsewhere (0 for words without
    tags). `cut` counts words that alone have more tokens than there is room for, and lose the rest of them.

    Args:
        sentence: of each piece, the index of its sentence in the split.
    """

    sentence: tuple[int, ...] = field(kw_only=True)


def encode_words(split: TextSplit, tokenizer: Any, *, max_length: int) -> Sentences:
    """The tokens of the words of each sentence with the special ones, in pieces that end behind a word.

    Each word is tokenized alone, as one that stands behind a space; one without any token becomes the unknown one.
    Raises ValueError as `check_room` does.
    """
    check_room(tokenizer, max_length, segments=1)
    before, behind = _special(tokenizer)
    room = max_length - len(before) - len(behind)
    words = sorted({word for sentence in split.texts for word in sentence})
    # a byte-level tokenizer tells a word inside a text by its space
    space = " " if tokenizer.tokenize(" a")[0].startswith("Ġ") else ""
    rows = tokenizer([space + word for word in words], add_special_tokens=False, verbose=False)["input_ids"]
    tokens_of = {word: ids or [tokenizer.unk_token_id] for word, ids in zip(words, rows, strict=True)}
    tokens, targets, places, cut = Tokens(tokenizer), [], [], 0
    for place, (name, sentence) in enumerate(zip(split.names, split.texts, strict=True)):
        tags = split.labels[place] if split.labels else (0,) * len(sentence)
        pieces: list[tuple[list[int], list[int]]] = [([], [])]
        for word, tag in zip(sentence, tags, strict=True):
            ids = tokens_of[word][:room]
            cut += len(tokens_of[word]) > room
            if len(pieces[-1][0]) + len(ids) > room:
                pieces.append(([], []))
            pieces[-1][0].extend(ids)
            pieces[-1][1].extend([tag, *[NOT_ASKED] * (len(ids) - 1)])
        for number, (ids, asked) in enumerate(pieces, start=1):
            tokens.add_ids([*before, *ids, *behind], name, number)
            targets.append(np.array([*[NOT_ASKED] * len(before), *asked, *[NOT_ASKED] * len(behind)], dtype=np.int64))
            places.append(place)
    return Sentences(**tokens.fields(), targets=tuple(targets), cut=cut, max_length=max_length, sentence=tuple(places))


def _special(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and behind a text."""
    encoding = tokenizer("a").encodings[0]
    words = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
    return encoding.ids[: words[0]], encoding.ids[words[-1] + 1 :]


def tags_of(encoded: Sentences, answers: Tensor) -> list[list[int]]:
    """The tag of each word by sentence, from answers (pieces, N) at their tokens."""
    found: list[list[int]] = [[] for _ in range(encoded.sentence[-1] + 1)]
    assert isinstance(encoded.targets, tuple)
    for place, row, targets in zip(encoded.sentence, answers.numpy(), encoded.targets, strict=True):
        found[place].extend(row[np.flatnonzero(targets >= 0)].astype(int).tolist())
    return found
