"""Where the roles live in encoders of transformers. Names of their modules stay in here and in `attention`."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ..core.inject import Anatomy, Site, find, get, slots, unwrap
from .attention import PrefixAttention, takes_prefix
from .encoder import PromptedEncoder, WatchedEncoder


def _projection(name: str) -> tuple[Site, ...]:
    return Site(f"layer.*.attention.self.{name}"), Site(f"layer.*.attention.self.{name}_proj")


def _sub_layer(end: str) -> tuple[Site, ...]:
    """Where an adapter of a sub-layer stands: behind its last linear layer, or beside the whole, before the norm."""
    return Site(f"{end}.dense", only="sequential"), Site(end, only="parallel")


_ROLES = {
    "query": _projection("query"),
    "key": _projection("key"),
    "value": _projection("value"),
    "attn_out": (Site("layer.*.attention.output.dense"),),
    "mlp_in": (Site("layer.*.intermediate.dense"),),
    "mlp_hidden": (Site("layer.*.intermediate"),),
    "mlp_out": (Site("layer.*.output.dense"),),
    "attn": (Site("layer.*.attention.self", only="prefix"), *_sub_layer("layer.*.attention.output")),
    "mlp": _sub_layer("layer.*.output"),
    "block": (Site("encoder"),),
}


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy of an encoder of transformers: BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DeBERTa-v2 and v3, ...

    Adapters are, as `targets=("mlp",)`, Pfeiffer's, and as `("attn", "mlp")`, Houlsby's; dropout comes behind a
    sequential one. The role `block`, which a prompt enters, is the whole encoder. In models with other names there are
    no roles; name patterns such as `transformer.layer.*.attention.q_lin` do as targets of lora, adapter and ia3.
    """
    names = [name for name, _ in slots(unwrap(model))]
    if not any(name.endswith("attention.self") for name in names):
        return Anatomy(head=head_names(model))
    attentions = [get(model, place.name) for place in find(model, "attn", Anatomy(_ROLES), use="prefix")]
    known = all(takes_prefix(unwrap(attention)) for attention in attentions)
    return Anatomy(
        _ROLES,
        prefix_attention=PrefixAttention if known else None,
        prompted=PromptedEncoder,
        watching=WatchedEncoder,
        head=head_names(model),
    )


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of what stands beside the encoder and was not pretrained with it: the classifier, and poolers of its own.

    What `create_text_model` found to be missing in the pretrained weights belongs to it.
    """
    inner = cast(Any, unwrap(model))
    base = getattr(inner, getattr(inner, "base_model_prefix", "") or "-", None)
    if base is None:
        return ()
    base = unwrap(base)
    beside = [(name, unwrap(child)) for name, child in inner.named_children()]
    heads = [name for name, child in beside if child is not base and next(child.parameters(), None) is not None]
    return (*heads, *getattr(inner, "fresh_modules", ()))
