"""Room for what is kept of a split between epochs: images, or what a frozen front makes of them."""

from __future__ import annotations

import torch

MEMORY = 1 << 30  # bytes of one split that are kept in memory
_SHARE = 0.1  # of a GPU's free memory, for one split


def room_for(cache: str, needed: int, device: torch.device) -> tuple[int, torch.device]:
    """How many of the needed bytes are kept, and where.

    Args:
        cache: `memory` keeps the first GiB in memory, `device` all on the device, `none` nothing; `auto` is `device` on
            a GPU of whose free memory they take a tenth at most, else `memory`.
    """
    fits = device.type == "cuda" and needed <= _SHARE * _free(device)
    if cache == "device" or (cache == "auto" and fits):
        return needed, device
    return 0 if cache == "none" else MEMORY, torch.device("cpu")


def _free(device: torch.device) -> int:
    """Bytes of a GPU that nobody has taken."""
    return torch.cuda.mem_get_info(device)[0]
