"""The blocks and the attention of timm's EVA family (BEiT, EVA-02, DINOv3, ...), computed for the first rows alone."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models import beit
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend, by_head, project


class FirstRowsEvaBlock(EvaBlock):
    """timm's block, of whose output only the first rows are computed: (B, N, D) to (B, rows, D)."""

    rows: int

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.attn(self.norm1(x), *args, **kwargs)
        x = x[:, : self.rows] + self.drop_path1(y if self.gamma_1 is None else self.gamma_1 * y)
        y = self.mlp(self.norm2(x))
        return x + self.drop_path2(y if self.gamma_2 is None else self.gamma_2 * y)


class FirstRowsBeitBlock(beit.Block):
    """BEiT's block, likewise."""

    rows: int
    forward = FirstRowsEvaBlock.forward


class FirstRowsEvaBlockPostNorm(EvaBlockPostNorm):
    """The block with norms behind attention and MLP."""

    rows: int

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x = x[:, : self.rows] + self.drop_path1(self.norm1(self.attn(x, *args, **kwargs)))
        return x + self.drop_path2(self.norm2(self.mlp(x)))


class FirstRowsEvaAttention(EvaAttention):
    """EVA's attention for the first queries alone, which have no position: (B, N, D) to (B, rows, D)."""

    rows: int

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _attend(self, x, *args, **kwargs)


class FirstRowsAttentionRope(AttentionRope):
    """timm's rotary attention for the first queries alone, which have no position: (B, N, D) to (B, rows, D)."""

    rows: int

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _attend(self, x, *args, **kwargs)


class FirstRowsBeitAttention(beit.Attention):
    """BEiT's attention with its relative positions for the first queries alone: (B, N, D) to (B, rows, D)."""

    rows: int

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        bias = shared_rel_pos_bias  # (1, H, N, N)
        if self.relative_position_bias_table is not None:
            bias = self._get_rel_pos_bias() if bias is None else self._get_rel_pos_bias() + bias
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in _project(self, x))
        return attend(self, x, q, k, v, bias)


def _attend(base: Any, x: Tensor, rope: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    q, k, v = (by_head(base, part) for part in _project(base, x))
    q, k = base.q_norm(q), base.k_norm(k)
    if rope is not None:
        prefix = base.num_prefix_tokens  # class and register tokens, in front
        turned = apply_rot_embed_cat(k[:, :, prefix:], rope, half=base.rotate_half)
        q, k = q.type_as(v), torch.cat([k[:, :, :prefix], turned], dim=2).type_as(v)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:  # queries that share their keys and values
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return attend(base, x, q, k, v, *args, **kwargs)


def _project(base: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first queries (B, rows, D), and all keys and values (B, N, D)."""
    if base.qkv is None:
        return base.q_proj(x[:, : base.rows]), base.k_proj(x), base.v_proj(x)
    if getattr(base, "q_bias", None) is None:
        return project(base.qkv, x, base.rows)
    weight, width = base.qkv.weight, len(base.q_bias)  # timm reads the weight here, too
    q = F.linear(x[:, : base.rows], weight[:width], base.q_bias)
    k, v = F.linear(x, weight[width:], torch.cat([base.k_bias, base.v_bias])).chunk(2, dim=-1)
    return q, k, v


FIRST_ROWS: dict[type[nn.Module], type[nn.Module]] = {
    EvaBlock: FirstRowsEvaBlock,
    EvaBlockPostNorm: FirstRowsEvaBlockPostNorm,
    EvaAttention: FirstRowsEvaAttention,
    AttentionRope: FirstRowsAttentionRope,
    beit.Block: FirstRowsBeitBlock,
    beit.Attention: FirstRowsBeitAttention,
}
