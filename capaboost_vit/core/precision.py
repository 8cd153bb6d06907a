"""Modules of a bfloat16 or float16 model that are trained in float32: widened, and narrowed again by a merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .base import dtype_of, operand

_LOW = (torch.bfloat16, torch.float16)
_MARK = "capaboost_model_dtype"  # an empty buffer in the model's dtype, which follows `model.float()`


def widen(model: nn.Module, module: nn.Module) -> None:
    """Makes a module of a low-precision model float32, in place; it still takes and gives the model's dtype.

    One that shares a parameter with another part of the model keeps its dtype, which is that part's too.
    """
    dtype = dtype_of(module)
    inside = set(module.modules())
    outside = {p for other in model.modules() if other not in inside for p in other.parameters(recurse=False)}
    if dtype not in _LOW or not outside.isdisjoint(module.parameters()):
        return
    module.to(torch.float32)
    module.register_buffer(_MARK, torch.empty(0, dtype=dtype, device=next(module.parameters()).device), False)
    module.register_forward_pre_hook(_inputs_in_its_dtype, with_kwargs=True)
    module.register_forward_hook(_output_in_that_of_the_model)


def narrow(model: nn.Module) -> None:
    """Undoes `widen` in each module of a model, in place."""
    for module in model.modules():
        if _MARK in module._buffers:
            module.to(getattr(module, _MARK).dtype)
            del module._buffers[_MARK]
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key in [key for key, hook in hooks.items() if casts(hook)]:
                    del hooks[key]


def _inputs_in_its_dtype(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    weight = next(p for p in module.parameters() if p.is_floating_point())
    return _each((args, kwargs), lambda tensor: operand(tensor, weight))


def _output_in_that_of_the_model(module: nn.Module, args: Any, output: Any) -> Any:
    return _each(output, lambda tensor: tensor.to(getattr(module, _MARK).dtype))


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The value with its floating-point tensors changed, also those in lists, tuples and dicts (a decoder's input)."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)(_each(item, change) for item in value)
    return {key: _each(item, change) for key, item in value.items()} if type(value) is dict else value


def casts(hook: Any) -> bool:
    """Whether a hook is one of those of `widen`."""
    return hook in (_inputs_in_its_dtype, _output_in_that_of_the_model)
