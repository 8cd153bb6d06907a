"""The wrapper: a module in the slot of the frozen module that it contains, which says itself what it adds to it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from .base import is_transposed, plain_copy, why_not_dense

M = TypeVar("M", bound=nn.Module)


class CannotMerge(ValueError):
    """What a wrapper adds, no weight can express."""


class NoShortCut(ValueError):
    """The last block of a model has to be computed for all tokens."""


class Wrapper(nn.Module):
    """A module in the slot of `base`, which it contains: the protocol by which the verbs of this library know it.

    Everything that it holds beside `base` (modules, parameters, buffers) is trained and stored with an adapter; what is
    to differ from that, a subclass says by overriding the methods below: no verb (attach, freeze, merge, fold, save,
    summary) knows a wrapper by its class.

    A checkpoint of the base model loads unchanged: `x.weight` is read as `x.base.weight`, and where a state dict knows
    no wrapper at all the branches keep their values.
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
        """By name below the wrapper what it adds: each child but `base`, of a ModuleDict or ModuleList its entries."""
        children: dict[str, nn.Module] = {}
        for name, child in self.named_children():
            if isinstance(child, (nn.ModuleDict, nn.ModuleList)):
                children |= {f"{name}.{entry}": module for entry, module in child.named_children()}
            elif name != "base":
                children[name] = child
        return children

    def added_state(self, prefix: str = "") -> dict[str, Tensor]:
        """The live tensors of its state outside of `base`, by name behind the prefix."""
        state = self.state_dict(prefix=prefix, keep_vars=True)
        return {name: tensor for name, tensor in state.items() if not name.startswith(f"{prefix}base.")}

    def added_parameters(self) -> list[nn.Parameter]:
        """All parameters outside of `base`, each once."""
        return [p for name, p in self.named_parameters() if not name.startswith("base.")]

    def trained(self) -> Iterable[nn.Parameter]:
        """The parameters that are trained: all that it adds."""
        return self.added_parameters()

    def part_of(self, addition: str) -> str:
        """Which part of a fused layer an addition is for ("q" of "branches.q"); "all" where it is for the whole."""
        return addition.rpartition(".")[2] if "." in addition else "all"

    def gate_widths(self) -> dict[str, int]:
        """The additions that take a gate (in their attribute `gate`), with the width of what the gate looks at."""
        return {}

    def gated(self) -> bool:
        """Whether an addition has a gate, a function of the layer's whole input."""
        gates = (getattr(addition, "gate", None) for addition in self.additions().values())
        return any(gate is not None and not gate.by_row for gate in gates)

    def cannot_merge(self) -> str | None:
        """Why `merged` would raise, in words; None where it would not."""
        if type(self).merged is Wrapper.merged:
            return f"{self.adds} is no change of a weight"
        if self.gated():
            return "a gate depends on the input, which no weight can express"
        return why_not_dense(unwrap(self.base))

    def merged(self, base: nn.Module) -> nn.Module:
        """A plain module that computes what the wrapper computes around `base`, whose own wrappers are merged already.

        `base` is left as it is. Where the wrapper has a `weight` (and a `bias`), this is `merged_weights(self, base)`.
        Raises CannotMerge if no weight can express what it adds.
        """
        raise CannotMerge(self.cannot_merge())

    def linear_factors(self) -> tuple[Tensor, Tensor] | None:
        """(A (R, in), B (out, R)) if all that it does is to add B A to the weight of its base, whatever that is."""
        return None

    def by_row(self) -> bool:
        """Whether it makes each row of its output of the same row of its input, and of what its base makes of that.

        Not known, and so not claimed, unless a subclass says so.
        """
        return False

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """What computes the first rows of its output (B, N, D) around `base`, which gives out only those of its own.

        `sharing(self, base=base)` will do where only the base's output is changed. Raises NoShortCut if it cannot.
        """
        raise NoShortCut(self.needs_all_rows())

    def needs_all_rows(self) -> str:
        """Why there is no short cut, in words."""
        if self.gated():
            return f"{self.adds} there has a gate, which looks at all rows"
        return f"{self.adds} there ({type(self).__name__}) does not say that it acts on each row alone"

    def splits(self, at: int) -> bool:
        """Whether `outputs` knows how to compute the features (of a linear layer) before and from `at` on apart."""
        return False

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """`self(x)[..., start:stop]`, (..., stop - start), where it `splits`; those features alone."""
        return self(x)[..., start:stop]

    def fold(self) -> bool:
        """Replaces what was only needed for training by what it computes; whether there was anything.

        By default that is asked of each addition that can `fold`.
        """
        folds = [getattr(addition, "fold", None) for addition in self.additions().values()]
        return any([fold() for fold in folds if fold is not None])


def sharing(module: M, **children: nn.Module) -> M:
    """A shallow copy of a module with other children, which shares all else with it, parameters and hooks too."""
    alone = copy.copy(module)
    alone._modules = {**module._modules, **children}
    return alone


def unwrap(module: nn.Module) -> nn.Module:
    """The module that stood in this slot before anything was attached."""
    while isinstance(module, Wrapper):
        module = module.base
    return module


@torch.no_grad()
def merged_weights(wrapper: Wrapper, base: nn.Module) -> nn.Module:
    """A copy of `base` with the wrapper's `weight` and `bias`, formed in at least float32 and rounded once.

    Where these were parametrised (weight norm, pruning) the copy stores the result alone, which may be no longer one.
    Raises CannotMerge if the base has no floating-point weight to write to, as a quantised layer has none.
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
    """A module kept in evaluation mode: the running statistics of a frozen batch norm must not move in training."""

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
