"""An adapter's bottleneck added to a layer's output, as one autograd function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .products import as_autocast, linear, linear_plus, transposed_product, with_signature, without_autocast

# each activation, and the gradient of its argument h from that of its value
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (F.relu, lambda grad, h: grad * (h > 0)),
    "gelu": (F.gelu, torch.ops.aten.gelu_backward),
    "silu": (F.silu, lambda grad, h: grad * (s := torch.sigmoid(h)) * (1 + h * (1 - s))),
    "tanh": (torch.tanh, lambda grad, h: grad * (1 - torch.tanh(h).square())),
}


def add_bottleneck(
    y: Tensor, x: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor, *, act: str
) -> Tensor:
    """`y + act(x A^T + a) B^T + b`, in one pass over the output; x (..., in), y (..., out).

    A (R, in) is `down`, B (out, R) is `up`, a and b are their biases, `act` is a name in `ACTIVATIONS`.

    Kept for the backward pass are x, `x A^T + a`, whose width is that of the bottleneck, and A, a and B. Under autocast
    the products run in its dtype; the sum has the wider dtype of the two, as `+` has.
    """
    x = as_autocast(x)
    with without_autocast(x):
        tokens, rows = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        total, _ = _AddBottleneck.apply(rows, tokens, down, down_bias, up, up_bias, act)
    return total.view(y.shape)


class _AddBottleneck(torch.autograd.Function):
    """See `add_bottleneck`; x is (N, in) and y (N, out) here, and the second output is h = x A^T + a."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        y: Tensor, x: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor, act: str
    ) -> tuple[Tensor, Tensor]:
        h = linear(x, down.to(x.dtype), down_bias.to(x.dtype))
        return linear_plus(y, ACTIVATIONS[act][0](h), up.to(x.dtype), up_bias.to(x.dtype)), h

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        y, x, down, down_bias, up, _, ctx.act = inputs
        h = output[1]
        ctx.dtype = y.dtype
        ctx.mark_non_differentiable(h)
        ctx.save_for_backward(x, h, down, down_bias, up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Any, ...]:
        x, h, down, down_bias, up = ctx.saved_tensors
        needs_y, needs_x, needs_down, needs_down_bias, needs_up, needs_up_bias, _ = ctx.needs_input_grad
        act, gradient = ACTIVATIONS[ctx.act]
        dx = d_down = d_down_bias = d_up = d_up_bias = None
        with without_autocast(dy):
            down_there = down.to(x.dtype)
            if torch.is_grad_enabled():  # for a second derivative h has to be a function of x
                h = linear(x, down_there, down_bias.to(x.dtype))
            d = dy.to(x.dtype)
            if needs_x or needs_down or needs_down_bias:
                dh = gradient(linear(d, up.to(x.dtype).t()), h)
                dx = linear(dh, down_there.t()) if needs_x else None
                d_down = transposed_product(dh, x).to(down.dtype) if needs_down else None
                d_down_bias = dh.sum(0).to(down.dtype) if needs_down_bias else None
            if needs_up:
                d_up = transposed_product(act(h), d).t().to(up.dtype)
            if needs_up_bias:
                d_up_bias = d.sum(0).to(down.dtype)
        return dy.to(ctx.dtype) if needs_y else None, dx, d_down, d_down_bias, d_up, d_up_bias, None
