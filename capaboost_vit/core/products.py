"""The products of the fast paths: oneDNN's for float32 on CPUs other than Intel's, where PyTorch takes the BLAS."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

Function = TypeVar("Function", bound=Callable[..., Any])


def as_autocast(x: Tensor) -> Tensor:
    """The input of a product in the dtype that autocast, where it is on, gives it; float64 keeps its own."""
    device = x.device.type
    cast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(device)) if cast else x


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Where products are in the dtype of their operands; `torch.autocast` is slow to enter, so only where it is on."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def with_signature(forward: Function) -> Function:
    """The forward of an autograd function beside `setup_context`, whose signature PyTorch works out in each call."""
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b`, (..., in) to (..., out).

    On an AMD EPYC core oneDNN takes 0.6 times as long as the BLAS of PyTorch's wheels, MKL, for thin products (16 rows
    or columns), 0.9 times for large ones; on an Intel Xeon 1.0 to 1.6 and 1.0 to 1.07 times (docs/speed.md), so there
    MKL multiplies. The operator, which torch.compile uses too, has no public name and no derivative; where that
    matters, on other devices and in other dtypes this is `F.linear`.
    """
    if _onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_plus(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`y + x W^T + b`, a new tensor; y (N, out), x (N, in)."""
    if y.dtype == x.dtype and _onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise.binary(x, y, weight, bias, "add")
    if bias is not None:
        return y + F.linear(x, weight, bias)
    return torch.addmm(y, x, weight.t())


def transposed_product(x: Tensor, y: Tensor) -> Tensor:
    """`x^T y`, a sum over the tokens, (a, b); x (N, a) is the thin one, y (N, b)."""
    if _onednn(y, x):
        return linear(x.t().contiguous(), y.t())
    return x.t() @ y


def _onednn(x: Tensor, weight: Tensor) -> bool:
    return bool(
        not torch.compiler.is_compiling()  # first: torch.compile must not see the questions about modes below
        and not _mkl_is_at_home()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() > 0
        and x.is_contiguous()  # its reference kernel, which takes any strides, is ten times slower
        and (weight.is_contiguous() or weight.t().is_contiguous())
        and not torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
        and not is_in_torch_dispatch_mode()  # counters and fake tensors know public operators only
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@cache
def _mkl_is_at_home() -> bool:
    """Whether the BLAS is MKL, and the CPU Intel's: the same for all processes of a machine."""
    vendor = platform.processor()
    with suppress(OSError):
        vendor = Path("/proc/cpuinfo").read_text()
    return torch.backends.mkl.is_available() and "GenuineIntel" in vendor
