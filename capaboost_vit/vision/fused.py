"""How timm's attention layers share out the rows of a fused layer, where these are not three equal parts in a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..core.layout import Layout
from ..core.names import get
from ..core.wrapper import unwrap

_QKV = ("q", "k", "v")


def _by_head(attention: Any, fused: str) -> Layout:
    """Each head's query, key and value, or key and value, where the value has another width."""
    first = 1 if fused == "kv" else 0
    sizes = (attention.key_dim, attention.key_dim, attention.val_dim)
    return Layout(_QKV[first:], sizes[first:], attention.num_heads)


def _one_of_many(attention: Any, fused: str) -> Layout:
    """Each head has a layer of its own."""
    return Layout(_QKV, (attention.key_dim, attention.key_dim, attention.val_dim))


def _head_first(attention: Any, fused: str) -> Layout:
    """MaxViT's, whose option `head_first` says which."""
    if attention.head_first:
        return Layout(_QKV, (attention.dim_head,) * 3, attention.num_heads)
    return Layout(_QKV, (attention.num_heads * attention.dim_head,) * 3)


def _in_groups(attention: Any, fused: str) -> Layout:
    """EfficientViT's of MIT, whose heads have `dim` rows of each."""
    heads = attention.qkv.conv.out_channels // (3 * attention.dim)
    return Layout(_QKV, (attention.dim,) * 3, heads)


def _single_query(attention: Any, fused: str) -> Layout:
    """MobileViTv2's."""
    return Layout(_QKV, (1, attention.embed_dim, attention.embed_dim))


def _single_head(attention: Any, fused: str) -> Layout:
    """SHViT's."""
    return Layout(_QKV, (attention.qk_dim, attention.qk_dim, attention.pdim))


def _global_query(attention: Any, fused: str) -> Layout:
    """GCViT's; the global query comes from outside."""
    parts = _QKV[1:] if attention.use_global else _QKV
    return Layout(parts, (attention.num_heads * attention.head_dim,) * len(parts))


# by file of timm.models (or timm.layers) and class, not by the classes: a release of timm may lack one
_LAYOUTS: dict[str, Callable[[Any, str], Layout]] = {
    "attention2d.Attention2d": _head_first,
    "efficientformer.Attention": _by_head,
    "efficientvit_mit.LiteMLA": _in_groups,
    "efficientvit_msra.CascadedGroupAttention": _one_of_many,
    "gcvit.WindowAttentionGlobal": _global_query,
    "levit.Attention": _by_head,
    "levit.AttentionDownsample": _by_head,
    "maxxvit.Attention2d": _head_first,
    "maxxvit.AttentionCl": _head_first,
    "mobilevit.LinearSelfAttention": _single_query,
    "shvit.SHSA": _single_head,
    "tiny_vit.Attention": _by_head,
}


def fused_layout(model: nn.Module, name: str) -> Layout | None:
    """The layout of a fused layer, by the attention layer that it belongs to; None for equal parts."""
    owner = name
    while owner:
        owner, _, child = owner.rpartition(".")
        module = unwrap(get(model, owner))
        kind = f"{type(module).__module__.rpartition('.')[2]}.{type(module).__name__}"
        if kind in _LAYOUTS:
            return _LAYOUTS[kind](module, child)
    return None
