"""The matrices of a model that targets name, in order and by kind: for methods that share tensors between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from .base import is_linear, kind_of, shape_of
from .inject import Anatomy, find, find_parts
from .names import get, pattern_of
from .wrapper import unwrap


@dataclass(frozen=True)
class Matrix:
    """The weight of a linear layer, or the rows of it that are one part of a fused layer.

    Args:
        path: the layer's canonical name, and its part: `blocks.3.attn.qkv.q`.
        shape: (out, in).
        kind: the same for the matrices of one place in all blocks and of one shape: `blocks.*.attn.qkv.q (768, 768)`.
        layer: its index among those of its kind, from 0.
    """

    path: str
    shape: tuple[int, int]
    kind: str
    layer: int


def matrices_of(model: nn.Module, targets: Iterable[str], anatomy: Anatomy) -> dict[str, Matrix]:
    """The matrices that the targets name, by path, in the order in which `dense_updates` changes them.

    Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
    """
    found: dict[str, Matrix] = {}
    layers: dict[str, int] = {}
    for name, places in find_parts(model, targets, anatomy).items():
        layer = unwrap(get(model, name))
        if not is_linear(layer):
            raise TypeError(f"only linear layers take a dense update, but {name!r} is a {kind_of(layer)}")
        rows, columns = shape_of(layer)
        for place in places:
            path = f"{name}.{place.site.part}"
            shape = (place.layout(rows).rows_of(place.site.part), columns)
            kind = f"{pattern_of(path)} {shape}"
            layers[kind] = layers.get(kind, -1) + 1
            found[path] = Matrix(path, shape, kind, layers[kind])
    return found


def names_of(model: nn.Module, role: str, anatomy: Anatomy) -> set[str]:
    """Canonical names of the layers with a role; none if the model has no such layer."""
    try:
        return {place.name for place in find(model, role, anatomy)} if role in anatomy.roles else set()
    except ValueError:
        return set()


def heads_of(model: nn.Module, name: str) -> int | None:
    """The number of heads of the attention around a layer, from its modules or the model's configuration; else None."""
    segments = name.split(".")
    around = [unwrap(get(model, ".".join(segments[:n]))) for n in range(len(segments) - 1, -1, -1)]
    for module in (*around, getattr(model, "config", None)):
        for attribute in ("num_heads", "num_attention_heads"):
            if isinstance(heads := getattr(module, attribute, None), int):
                return heads
    return None
