"""The cases whose forward pass alone is timed, as in an evaluation."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..core.dispatcher import TokenDispatcher, dispatchers
from ..core.integer_layer import merge_integers
from ..core.merge import merge
from .baselines import merged_peft, peft_lora
from .cases import CLASS_ROW, PEFT, Case, our_lora
from .models import VISION, Family


def inference_cases(family: Family, group: str, rank: int) -> list[Case]:
    """The plain model, the same with CapaBoost's updates merged, and unmerged, and with PEFT's."""
    targets = family.targets[group]
    unmerged = our_lora(family, targets, rank, 2)
    peft = partial(peft_lora, family=family, targets=targets, rank=rank)

    def merged(model: nn.Module) -> nn.Module:
        return merge(unmerged(model), inplace=True)

    return [
        _base(),
        Case("evaluated", "CapaBoost-LoRA d = 2 as an evaluation computes it, merged", merged, CLASS_ROW),
        Case("merged", "CapaBoost-LoRA d = 2, merged, without short cuts", merged),
        Case("unmerged", "CapaBoost-LoRA d = 2, unmerged", unmerged, CLASS_ROW),
        Case(PEFT, "LoRA of PEFT, unmerged", peft),
        Case("peft-merged", "LoRA of PEFT, merged", partial(merged_peft, adapt=peft)),
    ]


def integer_cases(family: Family, rank: int) -> list[Case]:
    """The plain model, IntLoRA on all linear layers, and what it is merged into."""

    def adapted(model: nn.Module, bits: int) -> nn.Module:
        return family.adapt(model, method="intlora", rank=rank, bits=bits, targets=family.targets["all-linears"])

    def merged(model: nn.Module, bits: int) -> nn.Module:
        return merge_integers(adapted(model, bits), inplace=True)

    return [
        _base(),
        Case("intlora-8", "IntLoRA of 8 bits, unmerged", partial(adapted, bits=8)),
        Case("integers-8", "the same, merged into layers of integers", partial(merged, bits=8)),
        Case("integers-4", "IntLoRA of 4 bits, merged into layers of integers", partial(merged, bits=4)),
    ]


def fewer_cases() -> list[Case]:
    """The plain ViT, what computes fewer operations than it, and prompts before and after pruning."""
    dyt = "DyT, whose gates select that share of the patches"
    return [
        _base(),
        Case("dyt-0.7", dyt, partial(_dispatched, rate=0.7)),
        Case("dyt-0.5", dyt, partial(_dispatched, rate=0.5)),
        Case("das-2", "DAS, every sixth block skipped", _skipped),
        Case("e2vpt", "E^2VPT, 10 prompts and 5 keys", partial(VISION.adapt, method="e2vpt")),
        Case("e2vpt-pruned", "E^2VPT, 5 prompts and 5 keys", partial(VISION.adapt, method="e2vpt", pruned_tokens=0.5)),
    ]


def _skipped(model: nn.Module) -> None:
    skipped = range(3, len(VISION.blocks(model)), 6)
    VISION.adapt(model, method="das", skipped=tuple(skipped))


def _dispatched(model: nn.Module, rate: float) -> None:
    """DyT, each gate's bias such that it selects this share of the patches of random images."""
    VISION.adapt(model, method="dyt")

    def select(gate: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(gate, TokenDispatcher)
        gate.bias.data -= gate.logits(arguments[0])[:, gate.always :].quantile(1 - rate)

    hooks = [gate.register_forward_pre_hook(select) for gate in dispatchers(model)]
    height, width = cast(Any, model).patch_embed.img_size
    with torch.no_grad():
        model.eval()(torch.randn(8, 3, height, width))
    for hook in hooks:
        hook.remove()


def _base() -> Case:
    return Case("base", "the plain model", lambda model: model.requires_grad_(False))
