"""Where the roles live in timm models. Names of their modules stay in here and in `attention`."""

from __future__ import annotations

from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.heads import head_names
from ..core.inject import Anatomy, Site
from ..core.names import get, norm_names, slots
from ..core.wrapper import unwrap
from .attention import PrefixAttention

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
    """The anatomy of a timm model: its roles, its head, and a prefix attention where it is a plain ViT.

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
