"""Attention masks as transformers hands them to encoders and attention layers, made longer at the front."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def with_keys(mask: Tensor | None, count: int) -> Tensor | None:
    """The mask with `count` more keys in front that every query sees.

    Args:
        mask: (B, M) of keys, or (B, 1, N, M); bool, 0 and 1, or what is added to the scores; None hides nothing.
    """
    if mask is None or count == 0:
        return mask
    return F.pad(mask, (count, 0), value=_seen(mask))


def with_tokens(mask: Tensor | None, count: int) -> Tensor | None:
    """The mask with `count` more tokens in front: keys that every query sees, and queries that see what is real."""
    mask = with_keys(mask, count)
    if mask is None or count == 0 or mask.dim() < 4:
        return mask
    return torch.cat([mask[..., :1, :].expand(*mask.shape[:-2], count, -1), mask], dim=-2)


def real_positions(mask: Tensor | None) -> Tensor | None:
    """Which positions are no padding, (B, M) bool, or None for all."""
    if mask is None:
        return None
    keys = mask if mask.dim() < 4 else mask[:, 0, 0]
    return keys if keys.dtype == torch.bool else keys == _seen(mask)


def _seen(mask: Tensor) -> float:
    """The value of a key that is seen: one, or zero where the mask is added to the scores."""
    return 0.0 if mask.is_floating_point() and mask.dim() == 4 else 1.0
