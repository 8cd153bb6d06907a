"""Texts as batches: token ids, padded to the longest example of their batch, and masked where tokens are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.seeds import words
from ..training.loader import EvalLoader, Part
from .choices import Choices
from .tokens import Encoded

# input_ids, attention_mask[, token_type_ids] (B, N) int64, of multiple choice (B, K, N); targets
Batch = tuple[dict[str, Tensor], Tensor]
# the padding label, that of an example that only stands in: -1 for classes, choices and spans, -100 for tokens, and NaN
# for scores, of which -1 may be one, and tags

NOT_ASKED = -100
MULTIPLE = 8  # of tokens, as GPUs like it


class TokenMasking:
    """Of the tokens that are not special, each is asked for with a probability; at least one of every example.

    Of those asked for, 80 % become the mask, 10 % another token, drawn from all that are not special, and 10 % stay as
    they are. What is drawn is a function of (seed, epoch, index) on every platform.

    Raises:
        ValueError: the tokenizer has no mask token.
    """

    def __init__(self, tokenizer: Any, *, probability: float = 0.15, seed: int = 0) -> None:
        if tokenizer.mask_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no mask token, which --task mlm needs: choose another --model"
            )
        self.mask_id, self.probability, self.seed = tokenizer.mask_token_id, probability, seed
        # whether a token is not special, by its id; len(tokenizer) is less where ids are left out
        self.is_ordinary = np.ones(max(tokenizer.get_vocab().values()) + 1, dtype=bool)
        self.is_ordinary[list(tokenizer.all_special_ids)] = False
        self.ordinary = np.flatnonzero(self.is_ordinary)

    def __call__(self, ids: np.ndarray, *, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """From the tokens (N,) of an example to what the model reads, and the tokens asked for, -100 where none is."""
        state = np.random.RandomState(words("masking", self.seed, epoch, index))
        places = np.flatnonzero(self.is_ordinary[ids])
        chosen = places[state.random_sample(len(places)) < self.probability]
        if not len(chosen) and len(places):
            chosen = places[state.randint(len(places), size=1)]
        inputs, targets = ids.copy(), np.full_like(ids, NOT_ASKED)
        targets[chosen] = ids[chosen]
        fate = state.random_sample(len(chosen))
        drawn = self.ordinary[state.randint(len(self.ordinary), size=len(chosen))]
        inputs[chosen] = np.where(fate < 0.8, self.mask_id, np.where(fate < 0.9, drawn, ids[chosen]))
        return inputs, targets


class TextExamples:
    """The examples of one split, as batches that are filled up to their longest example.

    Targets are the examples' own, or those of a masking, which is drawn anew in each epoch. Raises ValueError if there
    is neither.
    """

    def __init__(self, encoded: Encoded, masking: TokenMasking | None = None) -> None:
        if encoded.targets is None and masking is None:
            raise ValueError("these examples have no labels: give a masking, which asks for masked tokens")
        self.encoded, self.masking = encoded, masking

    def __len__(self) -> int:
        return len(self.encoded)

    def batches(self, parts: Sequence[Part], *, epoch: int = 0) -> Iterator[Batch]:
        """A batch for each part."""
        return (self._batch(part, epoch) for part in parts)

    def widths(self) -> list[int]:
        """The tokens to which each example would be filled up alone."""
        return [_width(length, self.encoded.max_length) for length in self.encoded.lengths.tolist()]

    def read_once(self) -> None:
        """They are in memory before."""

    def close(self) -> None:
        """Nothing is held: no processes, no files."""

    def _batch(self, part: Part, epoch: int) -> Batch:
        encoded, masking = self.encoded, self.masking
        rows = [encoded.ids[index] for index, _ in part]
        width = _width(max(map(len, rows)), encoded.max_length)
        if masking is None:
            assert encoded.targets is not None
            chosen = [index for index, _ in part]
            if isinstance(encoded.targets, tuple):
                targets = _padded([encoded.targets[index] for index in chosen], width, NOT_ASKED)
            else:
                targets = encoded.targets[chosen]
        else:
            drawn = [masking(row, epoch=epoch, index=index) for row, (index, _) in zip(rows, part, strict=True)]
            rows = [inputs for inputs, _ in drawn]
            targets = _padded([asked for _, asked in drawn], width, NOT_ASKED)
        of_tokens = masking is not None or isinstance(encoded.targets, tuple)
        for row, (_, counts) in enumerate(part):
            if not counts:
                targets[row] = NOT_ASKED if of_tokens else math.nan if targets.is_floating_point() else -1
        inputs = {
            "input_ids": _padded(rows, width, encoded.pad_id),
            "attention_mask": _padded([np.ones_like(row) for row in rows], width, 0),
        }
        if encoded.types is not None:
            inputs["token_type_ids"] = _padded([encoded.types[index] for index, _ in part], width, 0)
        return inputs, targets


class ChoiceExamples:
    """The examples of multiple choice, as batches (B, K, N) filled up to the most choices and the longest pair.

    A choice that an example does not have is its first token alone, as no row may be without one; its target is -1.
    """

    def __init__(self, encoded: Choices) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def batches(self, parts: Sequence[Part], *, epoch: int = 0) -> Iterator[Batch]:
        """A batch for each part."""
        return map(self._batch, parts)

    def read_once(self) -> None:
        """They are in memory before."""

    def close(self) -> None:
        """Nothing is held: no processes, no files."""

    def _batch(self, part: Part) -> Batch:
        encoded = self.encoded
        assert isinstance(encoded.targets, tuple)
        chosen = [index for index, _ in part]
        most = max(len(encoded.ends[index]) for index in chosen)

        def rows(of: Sequence[np.ndarray]) -> list[np.ndarray]:
            pairs = [encoded.pairs(index, of) for index in chosen]
            return [row for found in pairs for row in (*found, *[found[0][:1]] * (most - len(found)))]

        ids = rows(encoded.ids)
        width = _width(max(map(len, ids)), encoded.max_length)
        named = {"input_ids": (ids, encoded.pad_id), "attention_mask": ([np.ones_like(row) for row in ids], 0)}
        if encoded.types is not None:
            named["token_type_ids"] = (rows(encoded.types), 0)
        inputs = {name: _padded(of, width, value).view(len(part), most, width) for name, (of, value) in named.items()}
        targets = _padded([encoded.targets[index] for index in chosen], most, -1)
        targets[[row for row, (_, counts) in enumerate(part) if not counts]] = -1
        return inputs, targets


def text_examples(encoded: Encoded, masking: TokenMasking | None = None) -> TextExamples | ChoiceExamples:
    """The examples of a split, of whatever kind."""
    return ChoiceExamples(encoded) if isinstance(encoded, Choices) else TextExamples(encoded, masking)


def text_eval_loader(encoded: Encoded, *, masking: TokenMasking | None = None, **share: Any) -> EvalLoader:
    """Batches of one split for an evaluation, the longest examples first, so that little is filled up.

    The share of a process is that of `EvalLoader`.
    """
    order = np.argsort(-encoded.lengths, kind="stable").tolist()
    return EvalLoader(text_examples(encoded, masking), order=order, **share)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    inputs, targets = batch
    on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
    return on_device, targets.to(device, non_blocking=True)


def _width(longest: int, most: int | None) -> int:
    """The tokens to which a batch is filled up."""
    return max(longest, min(MULTIPLE * math.ceil(longest / MULTIPLE), most or 2**31))


def _padded(rows: Sequence[np.ndarray], width: int, value: int) -> Tensor:
    """Rows of several lengths as a tensor (B, N) int64, padded behind their end."""
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for row, content in zip(padded, rows, strict=True):
        row[: len(content)] = content
    return torch.from_numpy(padded)
