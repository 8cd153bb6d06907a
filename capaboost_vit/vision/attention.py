"""timm's plain attention, computed here: with a prefix, for the first rows alone, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.base import shape_of
from ..core.first_rows import outputs, splits
from ..core.virtual_tokens import VirtualTokens
from ..core.wrapper import Wrapper, sharing, unwrap


class FirstRowsAttention(Attention):
    """timm's attention for the first queries alone: (B, N, D) to (B, rows, D)."""

    rows: int

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        q, k, v = _queries_keys_values(self, x)
        return attend(self, x, q, k, v, *args, **kwargs)


def _queries_keys_values(base: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normed queries, of a `FirstRowsAttention` the first, normed keys, and values: (B, H, N, D / H) each."""
    q, k, v = (by_head(base, part) for part in project(base.qkv, x, getattr(base, "rows", None)))
    return base.q_norm(q), base.k_norm(k), v


def project(qkv: Any, x: Tensor, rows: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """The first queries (B, rows, D), or all, and all keys and values (B, N, D) of a fused layer."""
    width = shape_of(unwrap(qkv))[0] // 3
    if rows is None or not splits(qkv, width):
        q, k, v = qkv(x).chunk(3, dim=-1)
        return q[:, :rows], k, v
    k, v = outputs(qkv, x, width, 3 * width).chunk(2, dim=-1)
    return outputs(qkv, x[:, :rows], 0, width), k, v


def by_head(base: Any, x: Tensor) -> Tensor:
    """(B, N, H * D) to (B, H, N, D), D the width of the layer's heads."""
    return x.unflatten(-1, (-1, base.head_dim)).transpose(1, 2)


def attend(
    base: Any, x: Tensor, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """`softmax(scale * q k^T) v` with an attention layer's norm, gate, projection and dropouts around it.

    Args:
        base: a layer with timm's names for these.
        x: what the layer sees, (B, N, D); its gate, the rows that have queries.
        q: of the first rows, or of all: (B, H, rows, D / H).
        attn_mask: as in timm, (..., N, N).
    """
    rows = q.shape[2]
    if attn_mask is not None:
        attn_mask = attn_mask[..., :rows, :]
    y = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=attn_mask,
        dropout_p=base.attn_drop.p if base.training else 0.0,
        is_causal=is_causal,
        scale=None if base.fused_attn else base.scale,  # which timm's fused path does not read
    )
    y = y.transpose(1, 2).flatten(2)
    if hasattr(base, "norm"):  # BEiT's has neither
        y = base.norm(y)
    if getattr(base, "gate", None) is not None:
        y = y * base.gate(x[:, :rows]).sigmoid()
    return base.proj_drop(base.proj(y))


class PrefixAttention(Wrapper):
    """timm's plain attention with P learned keys and values in front of its own, per head.

    `softmax(scale * q [K_p; K]^T) [V_p; V]`, the base's own projections, norms, gate and dropouts around it. K_p enters
    behind the key norm. The vectors are (P, 2 * H * D): keys, then values. With P = 0 this is the base.

    Args:
        base: timm's `Attention`.
        make_tokens: builds the virtual tokens of a given width.

    Raises:
        TypeError: any other attention class.
        ValueError: a layer that has a prefix already; or in a causal call.
    """

    adds = "a prefix"
    base: Attention

    def __init__(self, base: nn.Module, make_tokens: Callable[[int], VirtualTokens]) -> None:
        if isinstance(base, PrefixAttention):
            raise ValueError("an attention layer carries a prefix already: detach it first, or leave it out of targets")
        if type(base) is not Attention:
            raise TypeError(f"prefixes need timm's plain Attention, got {type(base).__name__}")
        super().__init__(base)
        self.tokens = make_tokens(2 * base.attn_dim)
        self.head_dim: int = base.head_dim
        self.train(base.training)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if is_causal:
            raise ValueError("a prefix does not work with causal attention")
        q, k, v = _queries_keys_values(self.base, x)
        prefix = self.tokens().to(k.dtype).reshape(-1, 2, self.base.num_heads, self.base.head_dim)
        prefix = prefix.permute(1, 2, 0, 3).unsqueeze(1).expand(-1, x.shape[0], -1, -1, -1)  # (2, B, H, P, D / H)
        k, v = torch.cat([prefix[0], k], dim=2), torch.cat([prefix[1], v], dim=2)
        if attn_mask is not None:  # every token sees the prefix
            seen = 1.0 if attn_mask.dtype == torch.bool else 0.0
            attn_mask = F.pad(attn_mask, (prefix.shape[3], 0), value=seen)
        return attend(self.base, x, q, k, v, attn_mask=attn_mask)

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The prefix is in front of the keys of the first queries, too."""
        return sharing(self, base=base)
