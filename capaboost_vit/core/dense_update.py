"""A frozen linear layer whose weight is changed by a dense function of few numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..io.options import check_value
from .base import dense, device_and_dtype, is_linear, is_plain_linear, kind_of, meets, operand, shape_of
from .branch import LowRankBranch
from .first_rows import outputs, splits
from .inject import Anatomy, find_parts
from .layout import Layout, layout_of
from .names import get
from .products import without_autocast
from .wrapper import Wrapper, merged_weights, unwrap


class WeightUpdate(Protocol):
    """An addition that is an update of a weight (out, in), in general of full rank."""

    def delta(self, weight: Callable[[], Tensor]) -> Tensor: ...  # (out, in), beside the `weight()` that it changes


class HadamardUpdate(nn.Module):
    """`dW = W * dW_low`, elementwise, for the dW_low of a low-rank branch: of rank up to rank(W) rank(dW_low).

    Zeros of W stay zero. Source: HiRA (ICLR 2025), PEFT's HiraConfig.
    """

    def __init__(self, factors: LowRankBranch) -> None:
        super().__init__()
        self.factors = factors

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in), in at least float32 if the factors are. Raises what `weight` and `delta_weight` raise."""
        return weight() * self.factors.delta_weight()


class DenseUpdate(Wrapper):
    """`y = x (W + dW)^T + b`, or `base(x) + dropout(x) dW^T`; one update per adapted part of a (fused) linear layer.

    W is the weight of `base`, with the updates of its own wrappers, so that merging from the inside out is exact. dW is
    computed without autocast, in the dtype of the update's parameters.

    Args:
        base: the linear layer, also in wrappers.
        updates: a `WeightUpdate` for each adapted part, by name.
        parts: the names of all parts in the order of the rows, such as q, k and v of a fused qkv, if they are equal
            parts; otherwise a layout.
        dropout: probability of dropping an entry of the updates' input, in training.

    Raises:
        TypeError: base is not a linear layer.
        ValueError: rows that cannot be divided into the parts, an update for an unknown part, or a dropout outside [0,
            1).
    """

    adds = "a dense update"
    base: Any

    def __init__(
        self,
        base: nn.Module,
        updates: Mapping[str, nn.Module],
        parts: tuple[str, ...] | Layout = ("all",),
        dropout: float = 0.0,
    ) -> None:
        rows, _ = shape_of(unwrap(base))
        layout = layout_of(rows, parts, updates)
        super().__init__(base)
        check_value("dropout", dropout, float, {"low": 0, "below": 1})
        self.out_features, self.layout = rows, layout
        self.parts, self.dropout = layout.parts, dropout
        self.updates = nn.ModuleDict(updates)
        self.train(base.training)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def weight(self) -> Tensor:
        """W + dW, (out, in). An error in here is never an AttributeError, which nn.Module would swallow.

        Raises ValueError in training with dropout, which cannot be had from a weight.
        """
        if self._draws():
            raise ValueError(
                "a dense update draws random numbers in training: use dropout=0 on models that read .weight"
            )
        weight = dense(self.base)
        return self._updated(weight, self.layout).to(weight.dtype)

    def merged(self, base: nn.Module) -> nn.Module:
        """The layer with W + dW."""
        return merged_weights(self, base)

    def by_row(self) -> bool:
        """Yes: it is a linear layer."""
        return True

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x, 0, self.out_features)

    def splits(self, at: int) -> bool:
        """Between its parts: an update is formed, and draws its dropout, once."""
        return self.layout.splits(at) and splits(self.base, at)

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The features from `start` to `stop` of whole parts, (..., stop - start)."""
        layout = self.layout.between(start, stop)
        if not any(part in self.updates for part in layout.parts):
            return outputs(self.base, x, start, stop)
        if self._in_one_product(x):
            weight, bias = self.base.weight[start:stop], self.base.bias
            return F.linear(x, self._updated(weight, layout), None if bias is None else bias[start:stop])
        y = outputs(self.base, x, start, stop)
        pieces = layout.split(y, -1)
        changed = {p: piece + self._change(p, x) if p in self.updates else piece for p, piece in pieces.items()}
        return layout.join(changed, -1).to(y.dtype)

    def _draws(self) -> bool:
        return self.training and self.dropout > 0

    def _in_one_product(self, x: Tensor) -> bool:
        """Whether `x (W + dW)^T` is what calling the base and adding `x dW^T` makes, but for rounding.

        Not beside a weight of low precision, to which W + dW would be rounded: dW is small against W.
        """
        if not is_plain_linear(self.base) or is_traceable_wrapper_subclass(self.base.weight) or self._draws():
            return False
        return self.base.weight.dtype in (torch.float32, torch.float64) and meets(x, self.base.weight)

    def _updated(self, weight: Tensor, layout: Layout) -> Tensor:
        """W + dW for rows of W, whole parts, with their layout."""
        rows = layout.split(weight, 0)
        updated = {part: w + self._delta(part) if part in self.updates else w for part, w in rows.items()}
        return layout.join(updated, 0)

    def _change(self, part: str, x: Tensor) -> Tensor:
        """`dropout(x) dW^T` of a part, (..., size)."""
        delta = self._delta(part)
        return F.linear(F.dropout(operand(x, delta), self.dropout, self.training), delta)

    def _delta(self, part: str) -> Tensor:
        """dW of a part, (size, in)."""
        update = cast(Any, self.updates[part])
        with without_autocast(next(update.parameters())):
            delta: Tensor = update.delta(partial(_rows, self.base, self.layout, part))
        return delta


def linear_parts(
    model: nn.Module, targets: Iterable[str], anatomy: Anatomy
) -> Iterator[tuple[str, nn.Module, Layout, list[str]]]:
    """(canonical name, layer, its layout, the targeted parts) for each layer that the targets name.

    Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
    """
    for name, places in find_parts(model, targets, anatomy).items():
        base = get(model, name)
        layer = unwrap(base)
        if not is_linear(layer):
            raise TypeError(f"only linear layers take a dense update, but {name!r} is a {kind_of(layer)}")
        yield name, base, places[0].layout(shape_of(layer)[0]), [place.site.part for place in places]


def part_shapes(model: nn.Module, targets: Iterable[str], anatomy: Anatomy) -> list[tuple[int, int]]:
    """(out, in) of each targeted part. Raises what `linear_parts` raises."""
    return [
        (layout.rows_of(part), shape_of(unwrap(base))[1])
        for _, base, layout, parts in linear_parts(model, targets, anatomy)
        for part in parts
    ]


def dense_updates(
    model: nn.Module,
    targets: Iterable[str],
    anatomy: Anatomy,
    make: Callable[[Callable[[], Tensor], int, int, str], nn.Module],
    dropout: float = 0.0,
    *,
    reader: str | None = None,
) -> Iterator[tuple[str, DenseUpdate]]:
    """(canonical name, `DenseUpdate`) for each layer that the targets name, with an update for each targeted part.

    Args:
        make: creates the `WeightUpdate` of a part, from a function that returns the rows of the weight that it changes,
            its in_features and out_features, and the path for its random streams.
        reader: the name of the method, if its updates are functions of that weight.

    Raises:
        ValueError: a target that matches nothing.
        TypeError: a target that is no linear layer, or has an integer weight if there is a `reader`.
    """
    for name, base, layout, parts in linear_parts(model, targets, anatomy):
        if reader is not None:
            try:
                dense(base)
            except TypeError as error:
                raise TypeError(f"{reader} is a function of the weight, but {error}: take lora or snell") from error
        columns = shape_of(unwrap(base))[1]
        updates = {}
        for part in parts:
            # bound here: the loop goes on before a function in a closure is called
            rows = partial(_rows, base, layout, part)
            update = make(rows, columns, layout.rows_of(part), f"{name}.{part}")
            updates[part] = update.to(**device_and_dtype(base))
        yield name, DenseUpdate(base, updates, layout, dropout)


def _rows(base: nn.Module, layout: Layout, part: str) -> Tensor:
    """The rows of a layer's dense weight that belong to a part."""
    return layout.split(dense(base), 0)[part]
