"""Merging: a plain model whose weights are W + dW."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from .adapted import Frozen, Wrapper
from .adapted_linear import AdaptedLinear
from .inject import branches, forget, replace_slots, slots
from .layers import LowRankBranch
from .names import carries
from .scaled import Scale, Scaled


@torch.no_grad()
def merge(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """A model without wrappers whose weights are W + dW, or scaled, formed in at least float32 and rounded once.

    Args:
        model: the adapted model; unless `inplace` it is copied and stays as it is: undoing needs no arithmetic.

    Raises:
        ValueError: it carries something that no weight can express (adapter, prefix, prompt, gate); says where.
    """
    gated = [n for n, b in branches(model).items() if isinstance(b, LowRankBranch | Scale) and b.gate is not None]
    if gated:
        raise ValueError(f"{len(gated)} branches have gates, which depend on the input: no merging ({gated[0]})")
    stuck = [name for name, module in slots(model) if not _mergeable(module)]
    if stuck:
        raise ValueError(
            f"only low-rank updates of linear weights can be merged; {len(stuck)} places carry an adapter, a prefix, a "
            f"prompt, or scales and shifts without a weight and a bias that could hold them: {stuck[0]}"
            + (", ..." if len(stuck) > 1 else "")
        )
    model = model if inplace else copy.deepcopy(model)
    replace_slots(model, _merged)
    forget(model)
    return model


def _mergeable(module: nn.Module) -> bool:
    needed = {"weight"} if carries(module, Scaled) else set()
    while isinstance(module, Wrapper):
        if not isinstance(module, (AdaptedLinear, Scaled, Frozen)):
            return False
        if isinstance(module, Scaled) and module.shifted:
            needed.add("bias")
        module = module.base
    return all(getattr(module, name, None) is not None for name in needed)


def _merged(module: nn.Module) -> nn.Module:
    if isinstance(module, Frozen):
        return _merged(module.base)
    if not isinstance(module, (AdaptedLinear, Scaled)):
        return module
    merged = copy.deepcopy(_merged(module.base))
    exact = torch.promote_types(cast(Tensor, merged.weight).dtype, torch.float32)
    alone = copy.copy(module)  # around the base that is merged already, in the exact dtype
    alone._modules = {**module._modules, "base": merged}
    alone = copy.deepcopy(alone).to(exact).eval()
    for name in ("weight", "bias"):
        if getattr(merged, name) is not None:
            getattr(merged, name).copy_(getattr(alone, name))
    return merged.train(module.training)
