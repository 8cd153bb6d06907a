"""What the library is measured against: the floor, Hugging Face PEFT, one pass per branch, two plain products."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.adapted_linear import AdaptedLinear
from ..core.inject import features, freeze_base, replace_slots
from ..core.names import get
from .models import Family


def floor(model: nn.Module, *, family: Family) -> None:
    """Freezes a plain model, and lets the tokens that enter its first block require a gradient.

    What trains something in every block computes about this at least: the forward pass, and the gradient of the tokens
    through the blocks. (In the first block it may stop earlier than the floor does: an adapter beside the MLP needs no
    gradient of the first attention, a thirtieth of a ViT-S step.)
    """
    model.requires_grad_(False)
    model.get_submodule(family.blocks(model)[0]).register_forward_pre_hook(_Enter())


class _Enter:
    """Makes the tokens require a gradient."""

    def __init__(self) -> None:
        self.zeros: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        tokens: Tensor = args[0]
        if not torch.is_grad_enabled():
            return None
        if torch.compiler.is_compiling() and self.zeros is not None:
            # a compiled graph cannot give out a tensor that began to require a gradient within it; zeros of the eager
            # call that came first do instead, which the compiler fuses into the addition of the positions
            return (tokens + self.zeros, *args[1:])
        tokens.requires_grad_(True)
        if self.zeros is None:
            self.zeros = torch.zeros_like(tokens, requires_grad=True)
        return None


class LoopOverBranches(nn.Module):
    """The branches of an adapted layer one after the other, `y = base(x) + sum_i s (B * MB_i)(A * MA_i) x`.

    The way of the official CapaBoost code, in its cheapest form: d masked passes are added up, but the d copies of
    the weights are one parameter, so that nothing has to be synchronised. Base and branches are the adapted layer's.
    """

    def __init__(self, adapted: AdaptedLinear) -> None:
        super().__init__()
        self.base = adapted.base
        self.parts = adapted.parts
        self.branches = adapted.branches

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        size = y.shape[-1] // len(self.parts)
        for i, part in enumerate(self.parts):
            if part not in self.branches:
                continue
            branch: Any = self.branches[part]
            for k in range(branch.num_branches):
                down, up = (_masked(factor, k) for factor in (branch.down, branch.up))
                update = branch.scaling * F.linear(F.linear(x, down), up)
                if len(self.parts) == 1:
                    y = y + update
                else:
                    y[..., i * size : (i + 1) * size] += update
        return y


def _masked(factor: Any, k: int) -> Tensor:
    weight: Tensor = factor.weight
    return weight if factor.mask is None else weight * factor.mask[k]


def loop_over_branches(model: nn.Module, *, adapt: Callable[[nn.Module], object]) -> None:
    """Adapts a plain model, and puts a `LoopOverBranches` in the place of each adapted linear layer."""
    adapt(model)
    replace_slots(model, lambda module: LoopOverBranches(module) if isinstance(module, AdaptedLinear) else module)


class TwoProducts(nn.Module):
    """`y = base(x) + s up(relu(down(x)))` with two plain `nn.Linear`, as the library adapters writes it.

    With `behind`, the two are fed with `base(x)` instead of x.
    """

    def __init__(self, base: nn.Module, width: int, *, scale: float, behind: bool = False) -> None:
        super().__init__()
        in_features, out_features = features(base)
        self.base = base
        self.down = nn.Linear(out_features if behind else in_features, width)
        self.up = nn.Linear(width, out_features)
        self.scale = scale
        self.behind = behind
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.up(F.relu(self.down(y if self.behind else x))) * self.scale


def two_products(model: nn.Module, *, family: Family, width: int) -> None:
    """Freezes the model but for its head, and puts a `TwoProducts` around each MLP, placed and scaled as usual."""
    freeze_base(model, family.anatomy(model).head)
    for name in family.places(model, ("mlp",), use=family.placement):
        behind = family.placement == "sequential"
        model.set_submodule(name, TwoProducts(get(model, name), width, scale=family.scale, behind=behind))


def peft_lora(model: nn.Module, *, family: Family, targets: tuple[str, ...], rank: int) -> None:
    """Hugging Face PEFT's LoRA on the targets' linear layers, scaled by one, beside a trained head.

    Raises:
        ModuleNotFoundError: peft is not installed.
    """
    import peft

    head, names = family.anatomy(model).head, family.places(model, targets)
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    peft.inject_adapter_in_model(config, model)  # freezes all but what it adds
    for name in head:
        model.get_submodule(name).requires_grad_(True)


def merged_peft(model: nn.Module, *, adapt: Callable[[nn.Module], object]) -> None:
    """Adapts a plain model with PEFT, and puts its layers back, with W + dW."""
    adapt(model)
    from peft.tuners.tuners_utils import BaseTunerLayer

    def merged(module: Any) -> nn.Module:
        if not isinstance(module, BaseTunerLayer):
            return module
        module.merge()
        return module.get_base_layer()

    replace_slots(model, merged)


def in_last_third(model: nn.Module, *, family: Family, adapt: Callable[[nn.Module], object]) -> None:
    """Adapts a plain model, and puts the first two thirds of its blocks back as they were, frozen."""
    blocks = family.blocks(model)
    front = {name: copy.deepcopy(get(model, name)) for name in blocks[: -max(1, len(blocks) // 3)]}
    adapt(model)
    for name, block in front.items():
        model.set_submodule(name, block.requires_grad_(False))
