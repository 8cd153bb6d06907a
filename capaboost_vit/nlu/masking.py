"""BERT's masking: some tokens of a text are hidden or replaced, and the model is asked what they were."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..core.seeds import words

NOT_ASKED = -100


@dataclass(frozen=True)
class Masking:
    """Of the tokens that are not special, each is asked for with a probability; at least one of every example.

    Of those asked for, 80 % become the mask, 10 % another token, drawn from all that are not special, and 10 % stay as
    they are. What is drawn is a function of (seed, epoch, index) on every platform.

    Args:
        mask_id: of the mask token.
        vocab_size: ids are below it.
        special_ids: tokens that are never asked for and never drawn.
        probability: of being asked for.
        seed: keys what is drawn.

    Raises:
        ValueError: a probability outside (0, 1].
    """

    mask_id: int
    vocab_size: int
    special_ids: tuple[int, ...]
    probability: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(f"the probability of masking must lie in (0, 1], got {self.probability}")

    @classmethod
    def of(cls, tokenizer: Any, *, probability: float = 0.15, seed: int = 0) -> Masking:
        """The masking for a tokenizer. Raises ValueError if it has no mask token."""
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has no mask token: its model cannot be asked for masked ones")
        size = max(tokenizer.get_vocab().values()) + 1  # len(tokenizer) is less where ids are left out
        return cls(tokenizer.mask_token_id, size, tuple(tokenizer.all_special_ids), probability, seed)

    def __call__(self, ids: np.ndarray, *, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """From the tokens (N,) of an example to what the model reads, and the tokens asked for, -100 where none is."""
        state = np.random.RandomState(words("masking", self.seed, epoch, index))
        places = np.flatnonzero(self._is_ordinary[ids])
        chosen = places[state.random_sample(len(places)) < self.probability]
        if not len(chosen) and len(places):
            chosen = places[state.randint(len(places), size=1)]
        inputs, targets = ids.copy(), np.full_like(ids, NOT_ASKED)
        targets[chosen] = ids[chosen]
        fate = state.random_sample(len(chosen))
        ordinary = self._ordinary
        drawn = ordinary[state.randint(len(ordinary), size=len(chosen))]
        inputs[chosen] = np.where(fate < 0.8, self.mask_id, np.where(fate < 0.9, drawn, ids[chosen]))
        return inputs, targets

    @cached_property
    def _is_ordinary(self) -> np.ndarray:
        """Whether a token is not special, by id."""
        ordinary = np.ones(self.vocab_size, dtype=bool)
        ordinary[list(self.special_ids)] = False
        return ordinary

    @cached_property
    def _ordinary(self) -> np.ndarray:
        return np.flatnonzero(self._is_ordinary)
