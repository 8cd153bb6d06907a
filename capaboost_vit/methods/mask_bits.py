"""Masks as adapter files hold them: packed bits, and in the header what they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def packed(mask: Tensor) -> Tensor:
    """The bits of a mask (K, ...) of 0 and 1, or of -1 and 1: uint8. A first plane of ones has none."""
    stored = mask[1:] if _first_is_ones(mask) else mask
    return torch.from_numpy(np.packbits((stored.cpu().numpy() > 0).reshape(-1)))


def entry(mask: Tensor) -> dict[str, Any]:
    """What the header says of it: shape, whether a zero bit stands for -1, and whether a plane of ones is left out."""
    said = {"shape": list(mask.shape), "signed": bool((mask < 0).any())}
    return {**said, "first_is_ones": True} if _first_is_ones(mask) else said


def unpacked(bits: Tensor | None, entry: Mapping[str, Any]) -> Tensor | None:
    """The mask, int8; None if these are not its bits."""
    shape = entry["shape"]
    left_out = math.prod(shape[1:]) if entry.get("first_is_ones") else 0
    count = math.prod(shape) - left_out
    if bits is None or bits.dtype != torch.uint8 or bits.numel() != -(-count // 8):
        return None
    values = np.unpackbits(bits.numpy(), count=count).astype(np.int8)
    values = 2 * values - 1 if entry["signed"] else values
    return torch.from_numpy(np.concatenate([np.ones(left_out, np.int8), values]).reshape(shape))


def _first_is_ones(mask: Tensor) -> bool:
    """Of a method with coefficients the first branch has no mask: nothing is left out of another sort."""
    return len(mask) > 1 and bool((mask[0] == 1).all())
