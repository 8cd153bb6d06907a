"""Merging: a plain model whose weights are W + dW."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .adapted import Frozen, Wrapper
from .adapted_linear import AdaptedLinear
from .inject import forget, replace_slots, slots


@torch.no_grad()
def merge(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """A model without wrappers whose linear weights are W + dW, formed in at least float32 and rounded once.

    Args:
        model: the adapted model; unless `inplace` it is copied and stays as it is: undoing needs no arithmetic.

    Raises:
        ValueError: it carries something that no weight can express (adapter, prefix, prompt); lists where.
    """
    stuck = [name for name, module in slots(model) if not _mergeable(module)]
    if stuck:
        raise ValueError(
            f"only low-rank updates of linear weights can be merged; {len(stuck)} places carry an adapter, a prefix or "
            f"a prompt: {stuck[0]}" + (", ..." if len(stuck) > 1 else "")
        )
    model = model if inplace else copy.deepcopy(model)
    replace_slots(model, _merged)
    forget(model)
    return model


def _mergeable(module: nn.Module) -> bool:
    while isinstance(module, Wrapper):
        if not isinstance(module, (AdaptedLinear, Frozen)):
            return False
        module = module.base
    return True


def _merged(module: nn.Module) -> nn.Module:
    if isinstance(module, Frozen):
        return _merged(module.base)
    if not isinstance(module, AdaptedLinear):
        return module
    merged = copy.deepcopy(_merged(module.base))
    weight: Tensor = merged.weight  # type: ignore[assignment]
    exact = torch.promote_types(weight.dtype, torch.float32)
    was_training = module.training
    delta = copy.deepcopy(module).to(exact).eval().delta_weight()
    weight.copy_(weight.to(exact) + delta)
    return merged.train(was_training)
