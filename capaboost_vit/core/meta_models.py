"""Outlines: models as shapes alone, on the meta device, to compare sizes before any memory is taken for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode


@contextmanager
def outlines(*, parameters: int | None = None, entries: int | None = None) -> Iterator[None]:
    """Within the block new tensors have shapes alone, and filling them costs nothing.

    Args:
        parameters: the most parameters that modules may get within the block. entries: the most entries of all.

    Raises ValueError at the first parameter beyond.
    """
    limits = {"parameters": parameters, "entries of parameters": entries}
    counts = dict.fromkeys(limits, 0)

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        sizes = (1, 0 if parameter is None else parameter.numel())
        for (what, limit), size in zip(limits.items(), sizes, strict=True):
            counts[what] += size
            if limit is not None and counts[what] > limit:
                raise ValueError(f"a model with more than {limit} {what} was asked for, which is too large to be right")

    with ExitStack() as stack:
        handle = register_module_parameter_registration_hook(count)
        stack.callback(handle.remove)
        stack.enter_context(torch.device("meta"))
        stack.enter_context(_NothingFilled())
        yield


class _NothingFilled(TorchFunctionMode):
    """Leaves out methods that change the values of a tensor without any: of a large model they take seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))
