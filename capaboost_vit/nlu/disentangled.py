"""DeBERTa-v2's attention, with positions in its scores, computed here: with a prefix, for the first rows, or both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.gate import Padding
from ..core.wrapper import unwrap


def is_disentangled(attention: nn.Module) -> bool:
    """Whether this is DeBERTa-v2's attention, which has positions in its scores and takes no cache."""
    return hasattr(unwrap(attention), "disentangled_attention_bias")


def disentangled(
    base: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
    cache: Any = None,
    paddings: tuple[Padding, ...] = (),
) -> tuple[Tensor, Tensor | None]:
    """DeBERTa-v2's attention with a prefix: the scores of its keys have the content part alone, on the same scale.

    Args:
        base: the layer; a `FirstRowsDisentangled` has queries of the first rows alone.
        attention_mask: (B, 1, N, P+N) bool.
        cache: puts the prefix in front of keys and values.
        paddings: of gates in the projections, which positions have none of.
    """
    B, heads, rows = hidden_states.shape[0], base.num_attention_heads, getattr(base, "rows", None)
    asking = hidden_states if query_states is None else query_states
    q = _by_head(base.query_proj(asking[:, : getattr(base, "rows_asking", None)])[:, :rows], heads)
    k, v = _by_head(base.key_proj(hidden_states), heads), _by_head(base.value_proj(hidden_states), heads)
    keys, values = (k, v) if cache is None else cache.update(k, v)  # (B, H, P+N, D)
    terms = 1 + ("c2p" in base.pos_att_type) + ("p2c" in base.pos_att_type)
    scores = q @ keys.transpose(-1, -2) / _scale(q, terms)  # (B, H, N, P+N)
    if base.relative_attention and terms > 1:
        real_of_words = [padding.real for padding in paddings]
        for padding in paddings:
            padding.real = None
        q, k = q.flatten(0, 1), k.flatten(0, 1)
        bias = base.disentangled_attention_bias(q, k, relative_pos, base.pos_dropout(rel_embeddings), terms)
        for padding, real in zip(paddings, real_of_words, strict=True):
            padding.real = real
        scores = scores + F.pad(bias.unflatten(0, (B, heads)), (keys.shape[2] - k.shape[1], 0))
    # padding asks too, and sees nothing of its own: there the scores are all alike, as in the base
    assert attention_mask is not None  # the encoder always makes one
    scores = scores.masked_fill(~attention_mask[..., :rows, :], torch.finfo(scores.dtype).min)
    weights = base.dropout(scores.softmax(-1))
    context = (weights @ values).transpose(1, 2).flatten(2)  # (B, N, H*D)
    return context, weights if output_attentions else None


class FirstRowsDisentangled(nn.Module):
    """DeBERTa-v2's attention for the first queries alone: (B, N, H*D) to (B, rows, H*D).

    Its attributes are the layer's. transformers' own code is not right for fewer queries than keys, so the part of the
    positions is written here.

    Args:
        rows_asking: how many rows enter the projection of the queries; None: all.
    """

    rows: int
    rows_asking: int | None

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, *args: Any, **kwargs: Any) -> Any:
        return disentangled(self, hidden_states, attention_mask.bool(), *args, **kwargs)

    def disentangled_attention_bias(
        self, q: Tensor, k: Tensor, relative_pos: Tensor, table: Tensor, terms: int
    ) -> Tensor:
        """The scores' part of the positions, (B*H, rows, N): `q_i PK[i-j]^T` ("c2p") and `k_j PQ[i-j]^T` ("p2c").

        Args:
            q, k: (B*H, rows, D) and (B*H, N, D).
            relative_pos: (1, N, N), the distances in buckets.
            table: embeddings of the distances, (2 S, H*D).
        """
        layer: Any = self
        span, heads = layer.pos_ebd_size, layer.num_attention_heads
        table, distances = table[: 2 * span].unsqueeze(0), relative_pos[0].to(q.device)
        shared = layer.share_att_key
        q, k = q.unflatten(0, (-1, heads)), k.unflatten(0, (-1, heads))
        bias = q.new_zeros(())
        if "c2p" in layer.pos_att_type:
            pk = _by_head((layer.key_proj if shared else layer.pos_key_proj)(table), heads)  # (1, H, 2 S, D)
            places = (distances[: self.rows] + span).clamp(0, 2 * span - 1)  # (rows, N)
            bias = (q @ pk.transpose(-1, -2)).gather(-1, places.expand(*q.shape[:2], -1, -1))
        if "p2c" in layer.pos_att_type:
            pq = _by_head((layer.query_proj if shared else layer.pos_query_proj)(table), heads)
            places = (span - distances[:, : self.rows].T).clamp(0, 2 * span - 1)
            bias = bias + torch.einsum("bhnd,hrnd->bhrn", k, pq[0][:, places])
        return bias.flatten(0, 1) / _scale(q, terms)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, N, H*D) to (B, H, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _scale(q: Tensor, terms: int) -> Tensor:
    """`sqrt(D terms)`, rounded to float32 as transformers does."""
    return torch.tensor(q.shape[-1] * terms, dtype=torch.float32).sqrt().to(q.dtype)
