"""Merging: a plain model with the weights W + dW, and the fastest model for the logits of a trained one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch
from torch import nn

from .base import copied, why_not_dense
from .chain import chain_with, note_chain
from .inject import replace_slots
from .names import slots, wrappers_of
from .precision import narrow
from .quantised import can_dequantize, dequantized
from .record import check_no_peft, forget, is_adapted, plain_model
from .sharded import check_whole, is_sharded
from .wrapper import CannotMerge, NoShortCut, Wrapper, unwrap


@torch.no_grad()
def merge(model: nn.Module, *, inplace: bool = False, dequantize: bool = False) -> nn.Module:
    """A model without wrappers, with the updated weights W + dW, computed in at least float32 and rounded once.

    The model records what was merged, so that the file of an adapter that is trained on it names its base. Parametrised
    layers (weight norm, spectral norm, orthogonal, pruned) become plain ones if an update is merged into them.

    Args:
        model: the adapted model, also in torch.compile or DistributedDataParallel.
        inplace: change the model itself; False: a copy, so the adapted model is unchanged.
        dequantize: quantised layers with an update become plain ones, of the size before quantisation; those without
            update stay quantised.

    Raises:
        CannotMerge: a ValueError that names the place: an addition that no weight can express (an adapter, a prefix, a
            gate), or a layer with an integer weight.
        ValueError: the model has nothing to merge, has layers of PEFT, or is sharded.
        TypeError: it is no model.

    The model is unchanged after an error.

    Examples:
        >>> plain = capaboost_vit.merge(model)  # W + dW, a timm model without wrappers; `model` stays as it is
        >>> torch.allclose(plain(images), model(images), atol=1e-4)
        True
    """
    model = plain_model(model)
    check_no_peft(model)
    if not is_adapted(model):
        raise ValueError(f"this {type(model).__name__} carries nothing to merge: call capaboost_vit.adapt first")
    check_whole(model, "save_adapter on all processes, then load_adapter and merge in one")
    refusals = unmergeable(model, dequantize=dequantize)
    if refusals:
        name, reason = next(iter(refusals.items()))
        others = f", and likewise at {len(refusals) - 1} other places" if len(refusals) > 1 else ""
        # at all places alike
        known = not dequantize and not unmergeable(model, dequantize=True)
        hint = ", or merge(model, dequantize=True) for plain layers" if known else ""
        raise CannotMerge(f"cannot merge {name!r}: {reason}{others}{hint}")
    model, chain = model if inplace else copied(model), chain_with(model)
    replace_slots(model, partial(_merged, dequantize=dequantize))
    narrow(model)
    forget(model)
    note_chain(model, chain)
    return model


def fastest(model: nn.Module, logits_only: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The model that computes the logits of a trained one with the least work: merged, with a shortened last block.

    The model itself is merged, so do not train or save it afterwards. Logits are the same up to rounding. A sharded
    model is returned as it is.

    Args:
        logits_only: returns the model with the shortened last block, or raises NoShortCut; then it is the merged one.
    """
    if is_sharded(model):
        return model
    if is_adapted(model) and not unmergeable(model):
        model = merge(model, inplace=True)
    with suppress(NoShortCut):
        return logits_only(model)
    return model


def unmergeable(model: nn.Module, *, dequantize: bool = False) -> dict[str, str]:
    """Reasons why slots cannot be merged, by canonical name; empty if all can be. For `dequantize` see `merge`."""
    reasons = {}
    for name, module in slots(model):
        for wrapper in wrappers_of(module):
            base = unwrap(wrapper.base)
            asked = dequantize and can_dequantize(base)
            reason = wrapper.cannot_merge()
            if reason and not (asked and reason == why_not_dense(base)):
                reasons[name] = reason
    return reasons


def _merged(module: nn.Module, *, dequantize: bool = False, updated: bool = False) -> nn.Module:
    """What stands in a slot, its wrappers merged from the inside out; `updated`: it stands in one."""
    if isinstance(module, Wrapper):
        return module.merged(_merged(module.base, dequantize=dequantize, updated=True))
    return dequantized(module) if dequantize and updated and can_dequantize(module) else module
