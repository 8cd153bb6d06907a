"""Mixtures: one pass in which each example goes through the modules of its own adapter, and the rest is shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import is_linear, operand
from .names import slots
from .variant import Change, Variant
from .wrapper import Wrapper


class Groups:
    """Which examples of the batch at hand are whose: (variant, how many examples) in the order of the batch."""

    def __init__(self) -> None:
        self.current: list[tuple[int, int]] = []

    @contextmanager
    def as_now(self, groups: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Within the block the batch has these."""
        outer, self.current = self.current, [*groups]
        try:
            yield
        finally:
            self.current = outer


class Mixed(Wrapper):
    """`y = [f_1(x_1); ...; f_K(x_K)]` for the groups x_k of a batch (B, ...), each with a module of its own.

    Modules that make windows or heads part of the batch (B * n, ...) are right too, as long as an example's stay
    together. Further arguments are split if they have at least three dimensions and begin with the batch.

    Args:
        base: what the base has in this slot.
        members: what each variant has there.
        groups: the groups of the batch at hand, shared by all slots of a model.

    Outputs that differ in their last dimension alone, logits of several numbers of classes, are padded with -inf. Other
    outputs of different shapes raise a ValueError.
    """

    adds = "several adapters"

    def __init__(self, base: nn.Module, members: Sequence[nn.Module], groups: Groups, name: str) -> None:
        super().__init__(base)
        self.members = nn.ModuleList(members)
        self.groups, self.name = groups, name

    def __getattr__(self, name: str) -> Any:
        """Attributes of the base that are no tensors; a weight, which is another for each member, is refused."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(super().__getattr__("base"), name)
        if isinstance(value, Tensor):
            raise TypeError(_refusal(f"the model reads the {name} of {self.name!r} instead of calling it"))
        return value

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        groups = self.groups.current
        if len(groups) == 1:
            return self.members[groups[0][0]](*args, **kwargs)
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        rows, left = divmod(len(first), sum(count for _, count in groups))
        if left:
            raise ValueError(_refusal(f"{self.name!r} gets {len(first)} rows, no multiple of the batch"))
        if (factors := self._factors([member for member, _ in groups])) is not None:
            return add_grouped(self.base(*args, **kwargs), first, factors, [count for _, count in groups])
        outputs, start = [], 0
        for group in groups:
            part = slice(start, start + rows * group[1])
            start = part.stop
            with self.groups.as_now([group]):  # for modules within this one
                own = [_part(value, first, part) for value in args]
                outputs.append(
                    self.members[group[0]](*own, **{key: _part(value, first, part) for key, value in kwargs.items()})
                )
        return self._joined(outputs)

    def _factors(self, members: Sequence[int]) -> list[tuple[Tensor, Tensor] | None] | None:
        """(A, B) of each member that adds B A to a linear base, None for the base itself; None if one is neither.

        In training a member may draw dropout.
        """
        if self.training or not is_linear(self.base):
            return None
        factors: list[tuple[Tensor, Tensor] | None] = []
        for module in (self.members[member] for member in members):
            low_rank = isinstance(module, Wrapper) and module.base is self.base
            factors.append(module.linear_factors() if low_rank else None)  # type: ignore[operator]
            if factors[-1] is None and module is not self.base:
                return None
        return factors

    def _joined(self, outputs: list[Any]) -> Any:
        if isinstance(outputs[0], tuple):
            return tuple(self._joined([*values]) for values in zip(*outputs, strict=True))
        if not isinstance(outputs[0], Tensor):
            return outputs[0]
        if len({output.shape[1:-1] for output in outputs}) > 1:
            shapes = " and ".join(str(tuple(output.shape[1:])) for output in outputs)
            raise ValueError(_refusal(f"what they compute at {self.name!r} has the shapes {shapes}"))
        widest = max(output.shape[-1] for output in outputs)
        padded = [F.pad(y, (0, widest - y.shape[-1]), value=-torch.inf) if y.shape[-1] < widest else y for y in outputs]
        return torch.cat(padded)


def add_grouped(y: Tensor, x: Tensor, factors: Sequence[tuple[Tensor, Tensor] | None], counts: Sequence[int]) -> Tensor:
    """`y_e + B_g A_g x_e` for the examples e of each group g: two batched products, whatever the number of groups.

    Args:
        y: (rows, ..., out), overwritten where nothing is differentiated.
        x: (rows, ..., in), whose rows are those of `sum(counts)` examples, equally many of each, in order.
        factors: A (R, in) and B (out, R) of each group, of any rank R; None adds nothing.
        counts: examples of each group.
    """
    present = [pair for pair in factors if pair is not None]
    if not present:
        return y
    rank, (some_down, some_up) = max(len(down) for down, _ in present), present[0]
    nothing = some_down.new_zeros(0, some_down.shape[1]), some_up.new_zeros(len(some_up), 0)
    pairs = [nothing if pair is None else pair for pair in factors]
    downs = torch.stack([F.pad(down, (0, 0, 0, rank - len(down))) for down, _ in pairs])
    ups = torch.stack([F.pad(up, (0, rank - up.shape[1])) for _, up in pairs])
    group = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(x.device)  # of each example
    tokens = operand(x, downs).reshape(len(group), -1, x.shape[-1])
    hidden = tokens @ downs[group].mT  # (B, N, R)
    total, ups = y.reshape(len(group), -1, y.shape[-1]).to(hidden.dtype), ups[group].mT.to(hidden.dtype)
    total = torch.baddbmm(total, hidden, ups) if torch.is_grad_enabled() else total.baddbmm_(hidden, ups)
    return total.view(y.shape).to(y.dtype)


def mixture(model: nn.Module, variants: Sequence[Variant], groups: Groups) -> Variant:
    """The variant of a base model that has a `Mixed` in each slot where one of these variants differs.

    Raises ValueError if one changes a parameter of the model itself, which stands in no slot, or a layer of the model
    takes tokens before examples.
    """
    changed = {(c.owner, c.key) for variant in variants for c in variant.changes if c.holder == "_modules"}
    owners = {c.owner: c.key for v in variants for c in v.changes if c.holder in ("_parameters", "_buffers")}
    if model in owners:
        raise ValueError(_refusal(f"one changes {owners[model]} of the {type(model).__name__} itself"))
    for module in model.modules():
        if getattr(module, "batch_first", True) is False:  # of torch: (N, B, D), where dimension 0 is no batch
            raise ValueError(_refusal(f"a {type(module).__name__} of the model has batch_first=False"))
    mixed = []
    names = {module: name for name, module in slots(model)}
    for parent in list(model.modules()):
        for leaf, base in parent._modules.items():
            if base is not None and ((parent, leaf) in changed or base in owners):
                members = [variant.member(parent, leaf, base) for variant in variants]
                here = Mixed(base, members, groups, names.get(base, leaf)).train(parent.training)
                mixed.append(Change(parent, "_modules", leaf, base, here))
    return Variant(tuple(mixed))


def _part(value: Any, first: Tensor, part: slice) -> Any:
    """The rows of an argument that are those of the group; of what does not begin with the batch, all."""
    splits = isinstance(value, Tensor) and value.dim() >= min(3, first.dim()) and len(value) == len(first)
    return value[part] if splits else value


def _refusal(reason: str) -> str:
    return f"these adapters cannot share a pass: {reason}; call bank.use(name) for one after the other"
