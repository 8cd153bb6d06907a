"""The one door to the frozen layers: their widths, device and dense weight, whatever kind of linear layer they are."""

from __future__ import annotations

from functools import singledispatch
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer maps (..., in_features) to (..., out_features), and says so: nn.Linear and its like.

    Quantised and sharded layers are among them. Tables and layers of other kinds are not: they lack one of the widths.
    """
    return all(isinstance(getattr(layer, name, None), int) for name in ("in_features", "out_features"))


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, from `out_features` and `in_features`: a packed weight has another shape.

    Raises TypeError if it is no linear layer.
    """
    if not is_linear(layer):
        raise TypeError(f"only linear layers take a low-rank update, got {type(layer).__name__}")
    return cast(int, layer.out_features), cast(int, layer.in_features)


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer is a normalisation layer with parameters of its own: torch's, or known by its class.

    Others, such as timm's, have Norm in the name of their class or of one that it comes of, and no layer in them has
    parameters.
    """
    own_parameters = len(list(layer.parameters(recurse=False)))
    if isinstance(layer, (_NormBase, nn.LayerNorm, nn.GroupNorm)):
        return own_parameters > 0
    named = any("Norm" in kind.__name__ for kind in type(layer).__mro__)
    return named and own_parameters > 0 and own_parameters == len(list(layer.parameters()))


@singledispatch
def dense(layer: Any) -> Tensor:
    """The weight (out, in) of a layer as floating-point numbers.

    Kinds of layers that store it otherwise plug in with `dense.register(TheirClass, function)`. Raises TypeError if
    there is none (the weight is made of integers, say).
    """
    if lack := _lack(layer):
        raise TypeError(lack)
    return layer.weight


def why_not_dense(layer: nn.Module) -> str | None:
    """Why an update cannot be written into a layer's weight, in words; None where it can.

    An update that is added to integers would be rounded away.
    """
    lack = _lack(layer)
    if lack and isinstance(getattr(layer, "weight", None), Tensor):
        return f"{lack}, where an update vanishes: keep the adapter"
    return lack


def _lack(layer: nn.Module) -> str | None:
    """What a layer lacks of a floating-point weight, in words; None where it has one."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return f"a {type(layer).__name__} has no weight of its own"
    if not weight.is_floating_point():
        return f"the weight of a {type(layer).__name__} is {str(weight.dtype).removeprefix('torch.')}"
    return None


def device_and_dtype(module: nn.Module) -> dict[str, Any]:
    """Where what is attached to a module has to live: the device and dtype of its first floating-point parameter.

    Without one, as in a quantised layer, the device is that of any parameter or buffer and the dtype float32.
    """
    floating = next((p for p in module.parameters() if p.is_floating_point()), None)
    if floating is not None:
        return {"device": floating.device, "dtype": floating.dtype}
    tensor = next(chain(module.parameters(), module.buffers()), torch.empty(0))
    return {"device": tensor.device, "dtype": torch.float32}
