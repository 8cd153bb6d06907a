"""The wrapper: a module in the slot of the frozen module that it contains, which defines what it adds."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from .base import is_transposed, plain_copy, why_not_dense

M = TypeVar("M", bound=nn.Module)


class CannotMerge(ValueError):
    """No weight can express what a wrapper adds."""


class NoShortCut(ValueError):
    """The last block of a model has to be computed for all tokens."""


class Wrapper(nn.Module):
    """A module in the slot of the frozen module `base`, which it contains: the interface of all that methods add.

    By default everything that it holds except `base` (modules, parameters, buffers) is trained and stored in adapter
    files. A subclass overrides the methods below if it differs; the functions of this library (attach, freeze, merge,
    fold, save, summary) use only these methods, not the class of a wrapper.

    A checkpoint of the base model loads unchanged: `x.weight` is loaded as `x.base.weight`, and if a state dict has no
    tensors of a wrapper, those of the wrapper keep their values.
    """

    adds: ClassVar[str] = "a wrapper"  # what it adds, for messages: "X carries an adapter already"
    base: nn.Module

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # not by a hook, which in a shallow copy would belong to the module that was copied
        if not any(key.startswith(f"{prefix}base.") for key in state_dict):
            added = self.added_state(prefix)
            for key in [key for key in state_dict if key.startswith(prefix) and key not in added]:
                state_dict[f"{prefix}base.{key[len(prefix) :]}"] = state_dict.pop(key)
            if not added.keys() & state_dict.keys():
                state_dict.update(added)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def additions(self) -> dict[str, nn.Module]:
        """The added modules by name: each child except `base`, for a ModuleDict or ModuleList its entries."""
        children: dict[str, nn.Module] = {}
        for name, child in self.named_children():
            if isinstance(child, (nn.ModuleDict, nn.ModuleList)):
                children |= {f"{name}.{entry}": module for entry, module in child.named_children()}
            elif name != "base":
                children[name] = child
        return children

    def added_state(self, prefix: str = "") -> dict[str, Tensor]:
        """The tensors of its state outside of `base`, by name with the prefix; not copied."""
        state = self.state_dict(prefix=prefix, keep_vars=True)
        return {name: tensor for name, tensor in state.items() if not name.startswith(f"{prefix}base.")}

    def added_parameters(self) -> list[nn.Parameter]:
        """All parameters outside of `base`, each once."""
        return [p for name, p in self.named_parameters() if not name.startswith("base.")]

    def trained(self) -> Iterable[nn.Parameter]:
        """The parameters that are trained: by default all that it adds."""
        return self.added_parameters()

    def part_of(self, addition: str) -> str:
        """The part of a fused layer that an addition is for ("q" of "branches.q"), or "all" for the whole layer."""
        return addition.rpartition(".")[2] if "." in addition else "all"

    def gate_widths(self) -> dict[str, int]:
        """The additions that take a gate (in their attribute `gate`), with the width of the gate's input."""
        return {}

    def gated(self) -> bool:
        """Whether an addition has a gate that depends on the layer's whole input."""
        gates = (getattr(addition, "gate", None) for addition in self.additions().values())
        return any(gate is not None and not gate.by_row for gate in gates)

    def cannot_merge(self) -> str | None:
        """The reason why `merged` would raise; None if it would not."""
        if type(self).merged is Wrapper.merged:
            return f"{self.adds} is no change of a weight"
        if self.gated():
            return "a gate depends on the input, which no weight can express"
        return why_not_dense(unwrap(self.base))

    def merged(self, base: nn.Module) -> nn.Module:
        """A plain module that computes the same as the wrapper around `base`, whose own wrappers are merged already.

        `base` is not changed. If the wrapper has a `weight` (and a `bias`), this is `merged_weights(self, base)`.
        Raises CannotMerge if no weight can express what it adds.
        """
        raise CannotMerge(self.cannot_merge())

    def linear_factors(self) -> tuple[Tensor, Tensor] | None:
        """(A (R, in), B (out, R)) if the wrapper only adds B A to the weight of its base; otherwise None."""
        return None

    def by_row(self) -> bool:
        """Whether each row of its output depends only on the same row of its input and of its base's output.

        The default is False: a subclass has to state it.
        """
        return False

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """A module that computes the first rows of its output (B, N, D) around `base`, which returns only those.

        If only the base's output is changed, this is `sharing(self, base=base)`. Raises NoShortCut if it is not
        supported.
        """
        raise NoShortCut(self.needs_all_rows())

    def needs_all_rows(self) -> str:
        """The reason for NoShortCut."""
        if self.gated():
            return f"{self.adds} there has a gate, which looks at all rows"
        return f"{self.adds} there ({type(self).__name__}) does not say that it acts on each row alone"

    def splits(self, at: int) -> bool:
        """Whether `outputs` can compute the features (of a linear layer) before and from `at` separately."""
        return False

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """`self(x)[..., start:stop]`, (..., stop - start); if it `splits` there, only these features are computed."""
        return self(x)[..., start:stop]

    def fold(self) -> bool:
        """Replaces what only training needs by its result; returns whether there was anything to replace.

        By default it calls `fold` of each addition that has it.
        """
        folds = [getattr(addition, "fold", None) for addition in self.additions().values()]
        return any([fold() for fold in folds if fold is not None])


def sharing(module: M, **children: nn.Module) -> M:
    """A shallow copy of a module with other children; it shares everything else, parameters and hooks too."""
    alone = copy.copy(module)
    alone._modules = {**module._modules, **children}
    return alone


def unwrap(module: nn.Module) -> nn.Module:
    """The module in a slot without its wrappers."""
    while isinstance(module, Wrapper):
        module = module.base
    return module


@torch.no_grad()
def merged_weights(wrapper: Wrapper, base: nn.Module) -> nn.Module:
    """A copy of `base` with the wrapper's `weight` and `bias`, computed in at least float32 and rounded once.

    If these were parametrised (weight norm, pruning), the copy has plain ones. Raises CannotMerge if the base has no
    floating-point weight, such as a quantised layer.
    """
    if reason := why_not_dense(base):
        raise CannotMerge(reason)
    merged = plain_copy(base)
    exact = torch.promote_types(cast(Tensor, merged.weight).dtype, torch.float32)
    alone = copy.deepcopy(sharing(wrapper, base=merged)).to(exact).eval()
    for name in ("weight", "bias"):
        if getattr(merged, name, None) is not None:
            value = getattr(alone, name)
            getattr(merged, name).copy_(value.t() if name == "weight" and is_transposed(merged) else value)
    return merged.train(wrapper.training)


class Frozen(Wrapper):
    """A module that stays in evaluation mode, so that the running statistics of a frozen batch norm do not change."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.train(base.training)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)

    def by_row(self) -> bool:
        """It does nothing."""
        return True

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """Itself around another base."""
        return sharing(self, base=base)

    def cannot_merge(self) -> None:
        """It adds nothing."""

    def merged(self, base: nn.Module) -> nn.Module:
        """The base itself."""
        return base
