"""Merging: a plain model whose weights are W + dW; and what computes the logits of a trained model soonest."""

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
    """A model without wrappers whose weights are W + dW, or scaled, formed in at least float32 and rounded once.

    What was merged is noted on the model, so that a file of an adapter that is trained on it next names its base.

    Layers whose weight was parametrised (weight norm, spectral norm, orthogonal, pruned) are plain afterwards where
    something was merged into them.

    Args:
        model: the adapted model, also behind torch.compile or DistributedDataParallel; unless `inplace` it is copied
            and stays as it is: undoing needs no arithmetic.
        dequantize: quantised layers with an update become plain ones, as large as they were before they were quantised;
            those without one stay quantised.

    Raises CannotMerge, a ValueError that says where, if it carries something that no weight can express (an adapter, a
    prefix, a gate), or a layer whose weights are integers; ValueError, TypeError if it carries nothing or is sharded.
    The model is as it was.

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
    """What computes the logits of a trained model with the least work: merged where its methods merge, then a twin.

    The model itself is merged, so it is for those who neither train nor write it afterwards. Logits are the same but
    for rounding. A sharded model is given back as it is.

    Args:
        logits_only: makes the twin, where it is known how; else the merged model is it.
    """
    if is_sharded(model):
        return model
    if is_adapted(model) and not unmergeable(model):
        model = merge(model, inplace=True)
    with suppress(NoShortCut):
        return logits_only(model)
    return model


def unmergeable(model: nn.Module, *, dequantize: bool = False) -> dict[str, str]:
    """Why a slot cannot be merged, by its canonical name; empty where all can. With `dequantize` see `merge`."""
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
