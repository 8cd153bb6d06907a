"""Quantised layers: frozen bases whose weight is stored as integers with scales."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, cast

import torch
from torch import Tensor, nn

from .base import dense, dequantizes, is_linear, shape_of


def is_quantised(layer: nn.Module) -> bool:
    """Whether a linear layer stores its weight as integers, or as a tensor that can `dequantize` (torchao)."""
    weight = layer._parameters.get("weight", layer._buffers.get("weight"))  # not one that a wrapper would compute
    if not isinstance(weight, Tensor) or not is_linear(layer):
        return False
    return not weight.is_floating_point() or weight.dtype.itemsize == 1 or dequantizes(weight)


def check_trainable(model: nn.Module, within: str = "") -> None:
    """Raises ValueError if a quantised layer is in the model (or module, called `within`): none of them is trained."""
    for name, module in model.named_modules(prefix=within):
        if is_quantised(module):
            raise ValueError(
                f"{name!r} is to be trained, but it is quantised ({type(module).__name__}): leave it out when the "
                "model is quantised (transformers: llm_int8_skip_modules), or train branches alone"
            )


def can_dequantize(layer: nn.Module) -> bool:
    """Whether `dense` knows the weight of a quantised layer: its kind is registered there, or its tensor knows how."""
    registered = dense.dispatch(type(layer)) is not dense.dispatch(object)
    return is_quantised(layer) and (registered or dequantizes(cast(Tensor, layer.weight)))


@torch.no_grad()
def dequantized(layer: nn.Module) -> nn.Linear:
    """The plain linear layer with the weight that a quantised one stands for, frozen, in the dtype that `dense` gives.

    It computes the same but for what the quantised layer rounds besides its weight (its inputs, in 8 bits).
    """
    weight, bias = dense(layer), cast("Tensor | None", getattr(layer, "bias", None))
    rows, columns = shape_of(layer)
    plain = nn.Linear(columns, rows, bias=bias is not None, device=weight.device, dtype=weight.dtype)
    plain.weight.copy_(weight)
    if bias is not None:
        plain.bias.copy_(bias)
    return plain.requires_grad_(False).train(layer.training)


@singledispatch
def prepare_backward(layer: Any) -> None:
    """Makes a frozen layer pass on gradients, where it would not: called for each layer of a model that is adapted.

    Kinds of layers that have to be told plug in with `prepare_backward.register(TheirClass, function)`.
    """
