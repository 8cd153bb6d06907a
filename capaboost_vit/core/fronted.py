"""Frozen linear layers whose input goes through a linear bottleneck, which merges into their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

from torch import Tensor, nn
from torch.nn import functional as F

from .base import dense, device_and_dtype, is_linear, kind_of, operand, shape_of
from .first_rows import outputs, splits
from .inject import Anatomy, find_parts
from .names import get
from .products import without_autocast
from .wrapper import Wrapper, merged_weights, sharing, unwrap


class InputAdapter(Protocol):
    """An addition that makes `x + B (A x + a) + b` of an input x (..., D), without an activation."""

    dropout: float  # on the hidden units, in training

    def factors(self) -> tuple[Tensor, Tensor]: ...  # A (h, D) and B (D, h)

    def biases(self) -> tuple[Tensor | None, Tensor | None]: ...  # a (h,) and b (D,); None: there is none


class Fronted(Wrapper):
    """`y = base(x + B (A x + a) + b)` for a linear layer: `W (1 + B A) x + W (B a + b) + c`.

    `weight` and `bias` are those of the linear layer that computes the same.

    Args:
        base: the linear layer, also in wrappers.
        adapter: an `InputAdapter`; layers with the same input may share one.
        part: the part of a fused layer by whose role summaries count it.
    """

    adds = "an adapter in front"
    base: Any
    adapter: Any

    def __init__(self, base: nn.Module, adapter: nn.Module, part: str = "all") -> None:
        super().__init__(base)
        self.adapter, self.part = adapter, part
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """W (1 + B A), (out, in). An error in here is never an AttributeError, which nn.Module would swallow.

        Raises ValueError in training with dropout, which cannot be had from a weight.
        """
        if self.training and self.adapter.dropout > 0:
            raise ValueError(
                "an adapter in front draws random numbers in training: use dropout=0 on models that read .weight"
            )
        weight = dense(self.base)
        down, up = self.adapter.factors()
        with without_autocast(up):
            there = operand(weight, up)
            changed: Tensor = there + (there @ up) @ down
        return changed.to(weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        """c + W (B a + b), or c where the adapter has no biases."""
        bias, (down_bias, up_bias) = cast("Tensor | None", self.base.bias), self.adapter.biases()
        if bias is None or up_bias is None:
            return bias
        with without_autocast(up_bias):
            shift = up_bias if down_bias is None else self.adapter.factors()[1] @ down_bias + up_bias
            there = operand(dense(self.base), shift) @ shift
        return (bias + there).to(bias.dtype)

    def part_of(self, addition: str) -> str:
        """The one it was told, as it is for the whole."""
        return self.part

    def merged(self, base: nn.Module) -> nn.Module:
        """The layer with `weight` and `bias`."""
        return merged_weights(self, base)

    def by_row(self) -> bool:
        """Yes: both are linear."""
        return True

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The base's input is changed as ever."""
        return sharing(self, base=base)

    def splits(self, at: int) -> bool:
        """Where its base does, unless dropout is to be drawn once."""
        return self.adapter.dropout == 0 and splits(self.base, at)

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The features from `start` to `stop` behind the adapter."""
        return outputs(self.base, self.changed(x), start, stop)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(self.changed(x))

    def changed(self, x: Tensor) -> Tensor:
        """The input that the base is given, (..., D), in the dtype of x."""
        (down, up), (down_bias, up_bias) = self.adapter.factors(), self.adapter.biases()
        x_there = operand(x, down)
        hidden = F.dropout(F.linear(x_there, down, down_bias), self.adapter.dropout, self.training)
        return (x_there + F.linear(hidden, up, up_bias)).to(x.dtype)


def adapters_in_front(
    model: nn.Module,
    targets: Iterable[str],
    anatomy: Anatomy,
    make: Callable[[int, bool, str], nn.Module],
    method: str,
) -> Iterator[tuple[str, Fronted]]:
    """(canonical name, `Fronted`) for each layer that the targets name, as a whole.

    Layers of one module with inputs of the same width (query, key and value of BERT, the two layers of a gated MLP)
    have the same input, and share one adapter.

    Args:
        make: creates an `InputAdapter` from the width, whether all its layers have a bias, and the path for its random
            streams.
        method: the name of the method, for messages.

    Raises:
        ValueError: a target that matches nothing, or some parts of a fused layer without the others.
        TypeError: a target that is no linear layer.
    """
    together: dict[tuple[str, int], dict[str, str]] = {}  # of each layer its first part
    for name, places in find_parts(model, targets, anatomy).items():
        layer = unwrap(get(model, name))
        if not is_linear(layer):
            raise TypeError(f"{method} needs linear layers, but {name!r} is a {kind_of(layer)}")
        rows, columns = shape_of(layer)
        parts = places[0].layout(rows).parts
        if missing := [part for part in parts if part not in {place.site.part for place in places}]:
            raise ValueError(
                f"{method} stands in front of the whole of {name!r}, and its {', '.join(missing)} is no target: "
                f"name all of {', '.join(parts)}, or the layer"
            )
        together.setdefault((name.rpartition(".")[0], columns), {})[name] = parts[0]
    for (_, columns), parts_of in together.items():
        bases = {name: get(model, name) for name in parts_of}
        biased = all(getattr(unwrap(base), "bias", None) is not None for base in bases.values())
        path, first = next(iter(bases.items()))
        adapter = make(columns, biased, path).to(**device_and_dtype(first))
        for name, part in parts_of.items():
            yield name, Fronted(bases[name], adapter, part)
