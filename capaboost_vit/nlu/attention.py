"""Wrappers of transformers' attention layers: learned keys and values in front of theirs, and a look at the padding."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.gate import Padding
from ..core.inject import features
from ..core.virtual_tokens import VirtualTokens
from ..core.wrapper import Wrapper, sharing, unwrap
from .disentangled import disentangled, is_disentangled
from .encoder import real_positions, with_keys


def takes_prefix(attention: nn.Module) -> bool:
    """Whether an attention layer is BERT's, in an encoder, and takes keys and values from outside, or is DeBERTa-v2's.

    Its layers call the widths of their heads alike; those of decoders, which take a cache too, do not.
    """
    layer = unwrap(attention)
    known = all(hasattr(layer, name) for name in ("num_attention_heads", "all_head_size"))
    return known and _cache_keyword(attention) is not None and not getattr(layer, "is_decoder", False)


def _cache_keyword(attention: nn.Module) -> str | None:
    """The argument by which a layer takes keys and values from outside: `cache`, or `past_key_values` before 5.24."""
    if is_disentangled(attention):
        return "cache"
    parameters = inspect.signature(unwrap(attention).forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in parameters), None)


class PrefixAttention(Wrapper):
    """`softmax(scale * q [K_p; K]^T) [V_p; V]`: P learned keys and values in front of an attention layer's own.

    They go in where a cache of earlier keys and values would (`cache.update`), which encoders have no other
    use for, so the layer's own projections, attention function (eager, sdpa, flash) and dropout stay. The vectors are
    (P, 2 * H * D): keys, then values. With P = 0 this is the base. A gate of the tokens, if there is one, scales both.

    Args:
        base: a self-attention layer of BERT, RoBERTa or another encoder whose layers take a cache; or DeBERTa-v2's,
            whose prefix has no position: its scores have no relative part.
        make_tokens: builds the virtual tokens of a given width.

    Raises:
        TypeError: an attention layer of another kind.
    """

    adds = "a prefix"

    def __init__(self, base: nn.Module, make_tokens: Callable[[int], VirtualTokens]) -> None:
        if not takes_prefix(base):
            raise TypeError(f"prefixes need an encoder's attention layer that takes a cache, got {type(base).__name__}")
        super().__init__(base)
        inner: Any = unwrap(base)
        self.heads: int = inner.num_attention_heads
        self.head_dim: int = inner.all_head_size // self.heads
        self.tokens = make_tokens(2 * inner.all_head_size)
        self.cache_keyword = str(_cache_keyword(inner))
        self.train(base.training)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        tokens = self.tokens()
        prefix = tokens.view(-1, 2, self.heads, self.head_dim).permute(1, 2, 0, 3).unsqueeze(1)  # (2, 1, H, P, D)
        if self.tokens.gate is not None:
            prefix = prefix * self.tokens.gate(hidden_states).unsqueeze(-1)
        # not len(), which would make the size of the batch a constant of an exported graph
        keys, values = prefix.expand(-1, hidden_states.shape[0], -1, -1, -1)
        kwargs[self.cache_keyword] = _Front(keys, values, kwargs.get(self.cache_keyword))
        mask = with_keys(_unambiguous(attention_mask, self.base), self.tokens.length)
        return _attend(self.base, hidden_states, mask, *args, **kwargs)

    def gate_widths(self) -> dict[str, int]:
        """The gate looks at the layer's input."""
        return {"tokens": features(self)[0]}

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The prefix is in front of the keys of the first queries, too; a gate sees all rows as ever."""
        return sharing(self, base=base)


class WatchedAttention(Wrapper):
    """An attention layer that tells gates where the padding is, from its mask, before it computes.

    It stands in each layer, in front of all that has a gate there, so that recomputation (gradient checkpointing) sees
    the padding of its own batch. Where DeBERTa's table of positions goes through the projections of the words, their
    gates take the mean over the table.

    Raises:
        TypeError: an attention layer that takes no prefix, whose mask may mean anything.
    """

    adds = "a look at the padding for gates"

    def __init__(self, base: nn.Module, padding: Padding) -> None:
        if not takes_prefix(base):
            raise TypeError(f"gates have to know the padding, but the masks of {type(base).__name__} are not known")
        super().__init__(base)
        self.padding = padding
        self.train(base.training)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        attention_mask = _unambiguous(attention_mask, self.base)
        self.padding.real = real_positions(attention_mask)
        if is_disentangled(self.base):
            kwargs["paddings"] = (self.padding, *kwargs.get("paddings", ()))
        return _attend(self.base, hidden_states, attention_mask, *args, **kwargs)

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """It sees the whole mask as ever."""
        return sharing(self, base=base)


class _Front:
    """What an attention layer takes for a cache: it puts a prefix before the keys and values (B, H, N, D).

    `inner` is that of another prefix around this one, whose keys and values stand nearer to the layer's own.
    """

    def __init__(self, keys: Tensor, values: Tensor, inner: Any) -> None:
        self.keys, self.values, self.inner = keys, values, inner

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.inner is not None:
            keys, values = self.inner.update(keys, values, *args, **kwargs)
        keys = torch.cat([self.keys.to(keys.dtype), keys], dim=2)
        return keys, torch.cat([self.values.to(values.dtype), values], dim=2)


def _unambiguous(mask: Tensor | None, attention: nn.Module) -> Tensor | None:
    """DeBERTa's mask of ones and zeros, which may be floating, as bool; others as they are."""
    return mask.bool() if mask is not None and is_disentangled(attention) else mask


def _attend(base: nn.Module, hidden_states: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any) -> Any:
    """The next wrapper or the layer; DeBERTa's, which knows no prefix, is computed here."""
    if is_disentangled(base) and not isinstance(base, Wrapper):
        return disentangled(base, hidden_states, attention_mask, *args, **kwargs)
    return base(hidden_states, attention_mask, *args, **kwargs)
