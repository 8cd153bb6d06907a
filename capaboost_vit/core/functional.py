"""Low-rank branches beside a frozen linear layer, as one autograd function: in token space or in weight space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .products import as_autocast, linear, linear_plus, transposed_product, with_signature, without_autocast

EXECUTIONS = ("auto", "weight", "token", "plain")

Part = tuple[int, int, float]  # rows of the layer from .. to, scaling


def weight_space_pays(tokens: int, out_features: int, in_features: int) -> bool:
    """Whether forming `W + dW` costs less than carrying the tokens through both factors.

    Forming it in the forward and in the backward pass takes 2 * R * out * in multiply-adds, the tokens
    2 * N * R * (out + in). Measured break-even on a CPU: 0.8 to 1.2 times that, for widths from 192 to 3072.
    """
    return tokens * (out_features + in_features) > out_features * in_features


def updated_weight(weight: Tensor, parts: Sequence[Part], down: Tensor, ups: Sequence[Tensor]) -> Tensor:
    """`W + s_p B_p A_p` in the rows of each part p, (out, in), formed in at least float32.

    Args:
        weight: (out, in).
        parts: rows and scaling of each part that has an update.
        down: A_p of all parts, one after the other, (sum of R_p, in).
        ups: B_p of each part, (rows of p, R_p).
    """
    exact = torch.promote_types(weight.dtype, torch.float32)
    weight = weight.to(exact)
    downs = down.to(exact).split([up.shape[1] for up in ups])
    rows, at = [], 0
    for (start, stop, scaling), down_of_part, up in zip(parts, downs, ups, strict=True):
        if start > at:
            rows.append(weight[at:start])
        rows.append(linear_plus(weight[start:stop], scaling * up.to(exact), down_of_part.t()))
        at = stop
    if at < len(weight):
        rows.append(weight[at:])
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def low_rank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    parts: Sequence[Part],
    down: Tensor,
    ups: Sequence[Tensor],
    *,
    in_weight_space: bool,
) -> Tensor:
    """`y = x W^T + b`, and in the rows of each part p `+ s_p (x A_p^T) B_p^T`; (..., in) to (..., out).

    In token space that is computed as it stands, the two thin products beside the large one. In weight space
    `W' = W + s B A` is formed (in at least float32, then rounded to the dtype of the product), used for one product,
    let go, and formed again for `dX = dY W'`. The gradients of A and B are low-rank products of X and dY in both; the
    dense dW is never formed. Kept for the backward pass are X and the factors; if `down` needs no gradient, X A^T,
    whose width is the rank, instead of X. Under autocast the products run in its dtype.

    `weight` gets no gradient; `parts`, `down` and `ups` are as in `updated_weight`.
    """
    x = as_autocast(x)
    with without_autocast(x):
        rows = x.reshape(-1, x.shape[-1])
        function = _LowRankLinear.apply if torch.is_grad_enabled() else _LowRankLinear.forward
        y = function(rows, weight, bias, tuple(parts), in_weight_space, down, *ups)
    return y.view(*x.shape[:-1], len(weight))


class _LowRankLinear(torch.autograd.Function):
    """See `low_rank_linear`; X is (N, in) and Y (N, out) here."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        parts: tuple[Part, ...],
        in_weight_space: bool,
        down: Tensor,
        *ups: Tensor,
    ) -> Tensor:
        bias = None if bias is None else bias.to(x.dtype)
        if in_weight_space:
            return linear(x, updated_weight(weight, parts, down, ups).to(x.dtype), bias)
        y = linear(x, weight.to(x.dtype), bias)
        hidden = linear(x, down.to(x.dtype))
        for (start, stop, scaling), hidden_of_part, up in _by_part(parts, hidden, ups):
            y[:, start:stop].addmm_(hidden_of_part, up.to(x.dtype).t(), alpha=scaling)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.parts, ctx.in_weight_space, down, *ups = inputs
        if ctx.needs_input_grad[1]:
            raise ValueError("low_rank_linear is for frozen weights: it has no gradient for them")
        ctx.keeps_input = ctx.needs_input_grad[5]
        kept = x
        if not ctx.keeps_input:
            kept = linear(x, down.to(x.dtype)) if any(ctx.needs_input_grad[6:]) else x.new_empty(0)
        ctx.save_for_backward(kept, weight, down, *ups)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        kept, weight, down, *ups = ctx.saved_tensors
        needs_x, _, needs_bias, _, _, needs_down, *needs_ups = ctx.needs_input_grad
        dx = d_down = d_bias = None
        d_ups: list[Tensor | None] = [None] * len(ups)
        with without_autocast(dy):
            factor = down.to(dy.dtype)
            d_hidden = dy.new_empty(0)
            if needs_down or (needs_x and not ctx.in_weight_space):
                d_hiddens = [
                    linear(dy[:, start:stop], up.t().to(dy.dtype)) * scaling
                    for (start, stop, scaling), up in zip(ctx.parts, ups, strict=True)
                ]
                d_hidden = d_hiddens[0] if len(ups) == 1 else torch.cat(d_hiddens, dim=1)  # (N, sum of R_p)
            if needs_x and ctx.in_weight_space:
                dx = linear(dy, updated_weight(weight, ctx.parts, down, ups).to(dy.dtype).t())
            elif needs_x:
                dx = linear(dy, weight.to(dy.dtype).t()).addmm_(d_hidden, factor)
            if needs_down:
                d_down = transposed_product(d_hidden, kept).to(down.dtype)
            if any(needs_ups):
                hidden = linear(kept, factor) if ctx.keeps_input else kept
                for i, ((start, stop, scaling), hidden_of_part, up) in enumerate(_by_part(ctx.parts, hidden, ups)):
                    if needs_ups[i]:
                        d_up = transposed_product(hidden_of_part, dy[:, start:stop]) * scaling
                        d_ups[i] = d_up.t().to(up.dtype)
            if needs_bias:
                d_bias = dy.sum(0)
        return dx, None, d_bias, None, None, d_down, *d_ups


def _by_part(parts: Sequence[Part], hidden: Tensor, ups: Sequence[Tensor]) -> Iterator[tuple[Part, Tensor, Tensor]]:
    """Each part with its columns of X A^T (N, sum of R_p) and its B."""
    return zip(parts, hidden.split([up.shape[1] for up in ups], dim=-1), ups, strict=True)
