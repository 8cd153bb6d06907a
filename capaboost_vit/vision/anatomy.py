"""The anatomy of a timm model: its roles, its classifier, and support of prefixes and prompts."""

from __future__ import annotations

from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.heads import head_names
from ..core.inject import Anatomy, Site
from ..core.names import get, norm_names, slots
from ..core.sites import roles_of
from ..core.wrapper import unwrap
from .attention import PrefixAttention
from .dispatched_block import DispatchedBlock
from .families import with_families
from .fused import fused_layout
from .internal_prompt import InternallyPrompted
from .retrieval import RetrievingBlock
from .skipping import SkippableBlock


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy of a timm model: its roles, its head, and a prefix attention if it is a plain ViT.

    Any other torch model has the roles that `core.sites` finds by the names of its modules.

    Prefixes and prompts need attention without its own position encoding: the roles `attn` and `block` exist only if
    every attention layer is timm's plain `Attention` and, for `block`, the model is a `VisionTransformer`. The role
    `norm` has all normalisation layers with parameters except batch norms.
    """
    model = unwrap(model)
    norms = (name for name in norm_names(model) if not isinstance(unwrap(get(model, name)), _BatchNorm))
    roles = {**with_families(model, roles_of(model)), "norm": tuple(map(Site, norms))}
    attention = [unwrap(m) for name, m in slots(model) if name.rpartition(".")[2] == "attn"]
    plain = bool(attention) and all(type(m) is Attention for m in attention)
    if not plain:
        roles.pop("attn", None)
    if not (plain and isinstance(model, VisionTransformer)):
        roles.pop("block", None)
    return Anatomy(
        roles,
        PrefixAttention if plain else None,
        dispatched=DispatchedBlock if "block" in roles else None,
        skippable=SkippableBlock if "block" in roles else None,
        internally_prompted=InternallyPrompted if "block" in roles else None,
        retrieving=RetrievingBlock if "block" in roles else None,
        head=head_names(model),
        layout=fused_layout,
    )
