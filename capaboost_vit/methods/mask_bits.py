"""Masks as adapter files hold them: packed bits, and in the header the shape and whether a zero bit stands for -1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def packed(mask: Tensor) -> Tensor:
    """The bits of a mask of 0 and 1, or of -1 and 1: uint8."""
    return torch.from_numpy(np.packbits((mask.cpu().numpy() > 0).reshape(-1)))


def entry(mask: Tensor) -> dict[str, Any]:
    """What the header says of it."""
    return {"shape": list(mask.shape), "signed": bool((mask < 0).any())}


def unpacked(bits: Tensor | None, entry: Mapping[str, Any]) -> Tensor | None:
    """The mask, int8; None if these are not its bits."""
    count = math.prod(entry["shape"])
    if bits is None or bits.dtype != torch.uint8 or bits.numel() != -(-count // 8):
        return None
    values = np.unpackbits(bits.numpy(), count=count).astype(np.int8)
    return torch.from_numpy((2 * values - 1 if entry["signed"] else values).reshape(entry["shape"]))
