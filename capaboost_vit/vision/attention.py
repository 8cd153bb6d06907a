"""timm's plain attention, computed here: with a prefix, for the first rows alone, or both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.first_rows import outputs
from ..core.virtual_tokens import VirtualTokens
from ..core.wrapper import Wrapper, sharing


class FirstRowsAttention(Attention):
    """timm's attention for the first queries alone: (B, N, D) to (B, rows, D).

    Attributes:
        split: whether queries are projected for these rows alone, keys and values apart from them.
    """

    rows: int
    split: bool

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no mask: who gives one reads all rows
        return attend(self, x)


def attend(base: Attention, x: Tensor, *, prefix: Tensor | None = None, attn_mask: Tensor | None = None) -> Tensor:
    """`softmax(scale * q [K_p; K]^T) [V_p; V]` with the layer's projections, norms, gate and dropouts around it.

    Args:
        base: of a `FirstRowsAttention` the first rows are computed.
        x: (B, N, D).
        prefix: K_p and V_p, (2, H, P, D / H), which enter behind the norm of the keys; None: without.
        attn_mask: as in timm, (..., N, N).
    """
    B, N, _ = x.shape
    rows = base.rows if isinstance(base, FirstRowsAttention) else None
    heads, width = base.num_heads, base.attn_dim
    if isinstance(base, FirstRowsAttention) and base.split:
        q = outputs(base.qkv, x[:, :rows], 0, width).reshape(B, -1, heads, base.head_dim).transpose(1, 2)
        kv = outputs(base.qkv, x, width, 3 * width).reshape(B, N, 2, heads, base.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
    else:
        q, k, v = base.qkv(x).reshape(B, N, 3, heads, base.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q = q[:, :, :rows]
    q, k = base.q_norm(q), base.k_norm(k)
    if prefix is not None:
        prefix_k, prefix_v = prefix.to(k.dtype).unsqueeze(1).expand(-1, B, -1, -1, -1)  # (B, H, P, D / H) each
        k, v = torch.cat([prefix_k, k], dim=2), torch.cat([prefix_v, v], dim=2)
        if attn_mask is not None:  # every token sees the prefix
            seen = 1.0 if attn_mask.dtype == torch.bool else 0.0
            attn_mask = F.pad(attn_mask, (prefix.shape[2], 0), value=seen)
    dropout = base.attn_drop.p if base.training else 0.0
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)
    y = base.norm(y.transpose(1, 2).reshape(B, -1, width))
    if base.gate is not None:
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
        self.train(base.training)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if is_causal:
            raise ValueError("a prefix does not work with causal attention")
        prefix = self.tokens().reshape(-1, 2, self.base.num_heads, self.base.head_dim).permute(1, 2, 0, 3)
        return attend(self.base, x, prefix=prefix, attn_mask=attn_mask)

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The prefix is in front of the keys of the first queries, too."""
        return sharing(self, base=base)
