"""Attention masks as transformers hands them to encoders and attention layers, made longer at the front."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def with_keys(mask: Tensor | None, count: int) -> Tensor | None:
    """The mask with `count` more keys in front that every query sees.

    Args:
        mask: (B, M) of keys, (B, N, M) or (B, 1, N, M); bool, 0 and 1, or what is added to the scores; None hides
            nothing.

    Raises:
        TypeError: the mask is no tensor, as that of flex attention.
    """
    if mask is None or count == 0:
        return mask
    if not isinstance(mask, Tensor):
        kind = type(mask).__name__
        raise TypeError(f"a {kind} as mask cannot be made longer: load the model with attn_implementation='sdpa'")
    return F.pad(mask, (count, 0), value=_seen(mask))


def with_tokens(mask: Tensor | None, count: int) -> Tensor | None:
    """The mask with `count` more tokens in front: keys that every query sees, and queries that see what is real."""
    mask = with_keys(mask, count)
    if mask is None or count == 0 or mask.dim() < 3:
        return mask
    return torch.cat([mask[..., :1, :].expand(*mask.shape[:-2], count, -1), mask], dim=-2)


def real_positions(mask: Tensor | None) -> Tensor | None:
    """Which positions are no padding, (B, M) bool, or None for all: the keys that some query sees."""
    if mask is None:
        return None
    seen = mask if mask.dtype == torch.bool else mask == _seen(mask)
    return seen if seen.dim() < 3 else seen.flatten(1, -2).any(1)


def _seen(mask: Tensor) -> float:
    """The value of a key that is seen: one, or zero where the mask is added to the scores."""
    return 0.0 if mask.is_floating_point() and mask.dim() == 4 else 1.0
