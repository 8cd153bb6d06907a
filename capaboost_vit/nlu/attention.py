"""Learned keys and values in front of those of transformers' attention layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.adapted import Wrapper
from ..core.inject import unwrap
from ..core.virtual_tokens import VirtualTokens
from .masks import with_keys


def takes_prefix(attention: nn.Module) -> bool:
    """Whether an attention layer takes keys and values from outside, or is DeBERTa's."""
    return "past_key_values" in inspect.signature(unwrap(attention).forward).parameters or _is_disentangled(attention)


class PrefixAttention(Wrapper):
    """`softmax(scale * q [K_p; K]^T) [V_p; V]`: P learned keys and values in front of an attention layer's own.

    They go in where a cache of earlier keys and values would (`past_key_values.update`), which encoders have no other
    use for, so the layer's own projections, attention function (eager, sdpa, flash) and dropout stay. The vectors are
    (P, 2 * H * D): keys, then values. With P = 0 this is the base. A gate of the tokens, if there is one, scales both.

    Args:
        base: a self-attention layer of BERT, RoBERTa or another encoder with `past_key_values`; or DeBERTa-v2's, whose
            prefix has no position: its scores have no relative part.
        make_tokens: builds the virtual tokens of a given width.

    Raises:
        TypeError: an attention layer of another kind.
    """

    def __init__(self, base: nn.Module, make_tokens: Callable[[int], VirtualTokens]) -> None:
        if not takes_prefix(base):
            raise TypeError(f"prefixes need an attention layer that takes past_key_values, got {type(base).__name__}")
        super().__init__(base)
        inner: Any = unwrap(base)
        self.heads: int = inner.num_attention_heads
        self.tokens = make_tokens(2 * inner.all_head_size)
        self.train(base.training)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        keys, values = self._prefix(hidden_states)
        if _is_disentangled(self.base):
            if isinstance(self.base, Wrapper):
                raise ValueError("DeBERTa's attention takes one prefix: make it longer instead of stacking two")
            return _disentangled(self.base, keys, values, hidden_states, attention_mask, *args, **kwargs)
        kwargs["past_key_values"] = _Front(keys, values, kwargs.get("past_key_values"))
        return self.base(hidden_states, with_keys(attention_mask, self.tokens.length), *args, **kwargs)

    def _prefix(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (B, H, P, D) each."""
        tokens = self.tokens()
        prefix = tokens.view(len(tokens), 2, self.heads, -1).permute(1, 2, 0, 3).unsqueeze(1)  # (2, 1, H, P, D)
        if self.tokens.gate is not None:
            prefix = prefix * self.tokens.gate(hidden_states).unsqueeze(-1)
        keys, values = prefix.expand(-1, len(hidden_states), -1, -1, -1)
        return keys, values


class _Front:
    """What an attention layer takes for a cache: it puts a prefix before the keys and values (B, H, N, D)."""

    def __init__(self, keys: Tensor, values: Tensor, further: Any) -> None:
        self.keys, self.values, self.further = keys, values, further

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys = torch.cat([self.keys.to(keys.dtype), keys], dim=2)
        values = torch.cat([self.values.to(values.dtype), values], dim=2)
        if self.further is None:
            return keys, values
        longer: tuple[Tensor, Tensor] = self.further.update(keys, values, *args, **kwargs)
        return longer


def _is_disentangled(attention: nn.Module) -> bool:
    """Whether this is DeBERTa-v2's attention, which has positions in its scores and takes no cache."""
    return hasattr(unwrap(attention), "disentangled_attention_bias")


def _disentangled(
    base: Any,
    prefix_keys: Tensor,
    prefix_values: Tensor,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """DeBERTa-v2's attention with a prefix: the scores of its keys have the content part alone, on the same scale."""
    B, heads = len(hidden_states), base.num_attention_heads
    asking = hidden_states if query_states is None else query_states
    q = base.transpose_for_scores(base.query_proj(asking), heads)  # (B*H, N, D)
    k = base.transpose_for_scores(base.key_proj(hidden_states), heads)
    v = base.transpose_for_scores(base.value_proj(hidden_states), heads)
    prefix_k, prefix_v = (part.to(k.dtype).flatten(0, 1) for part in (prefix_keys, prefix_values))  # (B*H, P, D)
    terms = 1 + ("c2p" in base.pos_att_type) + ("p2c" in base.pos_att_type)
    scale = (q.shape[-1] * terms) ** 0.5
    scores = q @ k.transpose(-1, -2) / scale
    if base.relative_attention:
        bias = base.disentangled_attention_bias(q, k, relative_pos, base.pos_dropout(rel_embeddings), terms)
        scores = scores + bias.reshape_as(scores)
    scores = torch.cat([q @ prefix_k.transpose(-1, -2) / scale, scores], dim=-1).unflatten(0, (B, heads))
    assert attention_mask is not None  # the encoder always makes one
    seen = F.pad(attention_mask.bool(), (prefix_k.shape[1], 0), value=True)  # (B, 1, N, P+N)
    # padding asks too, and sees nothing of its own: there the scores are all alike, as in the base
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    weights = base.dropout(scores.softmax(-1))
    context = weights.flatten(0, 1) @ torch.cat([prefix_v, v], dim=1)
    context = context.unflatten(0, (B, heads)).transpose(1, 2).flatten(2)  # (B, N, H*D)
    return context, weights if output_attentions else None
