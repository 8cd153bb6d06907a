"""Where the roles live in timm models, and how a timm attention takes a prefix. Private timm names stay in here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.inject import Anatomy, Site
from ..core.names import get, norm_names, slots
from ..core.virtual_tokens import VirtualTokens
from ..core.wrapper import Wrapper, unwrap

_QKV = ("q", "k", "v")


def _projection(part: str) -> tuple[Site, ...]:
    return Site("blocks.*.attn.qkv", part, _QKV), Site(f"blocks.*.attn.{part}_proj")


_ROLES = {
    "query": _projection("q"),
    "key": _projection("k"),
    "value": _projection("v"),
    "attn_out": (Site("blocks.*.attn.proj"),),
    "mlp_in": (Site("blocks.*.mlp.fc1"), Site("blocks.*.mlp.fc1_g"), Site("blocks.*.mlp.fc1_x")),
    "mlp_out": (Site("blocks.*.mlp.fc2"),),
    "mlp": (Site("blocks.*.mlp"),),
    "patch_embed": (Site("patch_embed.proj"),),
}


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy of a timm model: its roles, its classifier, and a prefix attention where it is a plain ViT.

    Prefixes and prompts need attention without positions of its own: the roles `attn` and `block` exist only where
    every attention layer is timm's plain `Attention` and, for `block`, the model is a `VisionTransformer`. The role
    `norm` has every normalisation layer with parameters but batch norms.
    """
    model = unwrap(model)
    norms = (name for name in norm_names(model) if not isinstance(unwrap(get(model, name)), _BatchNorm))
    roles = {**_ROLES, "norm": tuple(map(Site, norms))}
    attention = [unwrap(m) for name, m in slots(model) if name.rpartition(".")[2] == "attn"]
    plain = bool(attention) and all(type(m) is Attention for m in attention)
    if plain:
        roles["attn"] = (Site("blocks.*.attn"),)
        if isinstance(model, VisionTransformer):
            roles["block"] = (Site("blocks.*"),)
    return Anatomy(roles, PrefixAttention if plain else None, head=head_names(model))


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of a timm model's classifier modules; none for a model without `get_classifier` or without classes."""
    if not hasattr(model, "get_classifier"):
        return ()
    heads = cast(Any, model).get_classifier()
    heads = heads if isinstance(heads, (tuple, list)) else (heads,)
    trained = [head for head in heads if isinstance(head, nn.Module) and any(True for _ in head.parameters())]
    return tuple(name for name, module in slots(model) if any(module is head for head in trained))


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
        base = self.base
        if is_causal:
            raise ValueError("a prefix does not work with causal attention")
        B, N, _ = x.shape
        q, k, v = base.qkv(x).reshape(B, N, 3, base.num_heads, base.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = base.q_norm(q), base.k_norm(k)
        prefix = self.tokens().to(k.dtype).reshape(-1, 2, base.num_heads, base.head_dim)
        prefix_k, prefix_v = prefix.permute(1, 2, 0, 3).unsqueeze(1).expand(-1, B, -1, -1, -1)  # (B, H, P, D) each
        k, v = torch.cat([prefix_k, k], dim=2), torch.cat([prefix_v, v], dim=2)
        if attn_mask is not None:  # every token sees the prefix
            attn_mask = F.pad(attn_mask, (self.tokens.length, 0), value=1.0 if attn_mask.dtype == torch.bool else 0.0)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=attn_mask, dropout_p=base.attn_drop.p if self.training else 0.0
        )
        y = base.norm(y.transpose(1, 2).reshape(B, N, base.attn_dim))
        if base.gate is not None:
            y = y * base.gate(x).sigmoid()
        return base.proj_drop(base.proj(y))
