"""The anatomy of a model of transformers: its roles, its head, and support of prefixes and prompts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..core.heads import head_names
from ..core.inject import Anatomy, Site
from ..core.layout import Layout
from ..core.names import get, matching, norm_names, slots
from ..core.sites import roles_of
from ..core.wrapper import unwrap
from .attention import PrefixAttention, WatchedAttention, takes_prefix
from .encoder import PromptedEncoder
from .image_layers import PrefixedAttention, PromptedBlock, is_plain_attention, is_plain_block


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy of a model of transformers, for texts or images: its roles, by `core.sites`, and its head.

    Adapters with `targets=("mlp",)` are Pfeiffer's, with `("attn", "mlp")` Houlsby's; sequential ones are before the
    dropout. Prefixes and prompts need layers that support any number of keys (no windows, blocks or rotary positions),
    and no decoder, whose tokens may not use later ones. They are supported by BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA,
    DeBERTa-v2 and v3, where a prompt is added to the encoder as a whole (role `block`), and by ViT, DeiT, DINOv2, and
    the image models of CLIP and SigLIP, with prompts in each block; BEiT supports a prefix. In a model with other
    names, use name patterns such as `model.layers.*.self_attn.qkv_proj` as targets of lora, adapter and ia3.
    """
    norms = tuple(map(Site, norm_names(model)))
    roles = {**roles_of(model), **({"norm": norms} if norms else {})}
    attentions = _modules(model, [site for site in roles.get("attn", ()) if site.only == "prefix"])
    if takes_images(model):
        plain = bool(attentions) and all(map(is_plain_attention, attentions))
        prompted = plain and all(map(is_plain_block, _modules(model, roles.get("block", ()))))
        return Anatomy(
            roles,
            prefix_attention=PrefixedAttention if plain else None,
            prompted=PromptedBlock if prompted else None,
            head=head_names(model),
        )
    takes_keys = bool(attentions) and all(map(takes_prefix, attentions))
    return Anatomy(
        roles,
        prefix_attention=PrefixAttention if takes_keys else None,
        prompted=PromptedEncoder if takes_keys else None,
        watching=WatchedAttention,
        head=head_names(model),
        layout=_layout,
    )


def _layout(model: nn.Module, name: str) -> Layout | None:
    """Of DeBERTa's `in_proj`: q, k and v of the first head, then of the second, ...; other fused layers are thirds."""
    owner, _, leaf = name.rpartition(".")
    if leaf != "in_proj":
        return None
    attention: Any = unwrap(get(model, owner))
    return Layout(("q", "k", "v"), 3 * (attention.attention_head_size,), attention.num_attention_heads)


def _modules(model: nn.Module, sites: Iterable[Site]) -> list[nn.Module]:
    names = [name for name, _ in slots(model)]
    return [get(model, name) for site in sites for name in matching(names, site.pattern)]


def is_transformers_model(model: nn.Module) -> bool:
    """Whether a model is one of transformers, by attributes that all of them have."""
    return hasattr(getattr(model, "config", None), "model_type") and hasattr(model, "base_model_prefix")


def takes_images(model: Any) -> bool:
    """Whether the only input of a model of transformers are images."""
    return getattr(model, "main_input_name", "") == "pixel_values"
