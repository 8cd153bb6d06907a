"""Where the roles live in encoders of transformers. Names of their modules stay in here and in `attention`."""

from __future__ import annotations

import re

from torch import nn

from ..core.heads import head_names
from ..core.inject import Anatomy, Site
from ..core.names import norm_names, slots
from ..core.wrapper import unwrap
from .attention import PrefixAttention, WatchedAttention, takes_prefix
from .encoder import PromptedEncoder


def _projection(name: str) -> tuple[Site, ...]:
    return Site(f"layer.*.attention.self.{name}"), Site(f"layer.*.attention.self.{name}_proj")


def _sub_layer(end: str) -> tuple[Site, ...]:
    """Where an adapter of a sub-layer stands: behind its last linear layer, or beside the whole, before the norm."""
    return Site(f"{end}.dense", only="sequential"), Site(end, only="parallel")


_ATTENTION = re.compile(r"(^|\.)layer\.[^.]+\.attention\.self$")
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
    sequential one. The role `block`, which a prompt enters, is the whole encoder. Prefixes and prompts need layers that
    take any number of keys, which not all do (windows, blocks), and no decoder, whose tokens may not see what follows.
    In models with other names there are no roles; name patterns such as `transformer.layer.*.attention.q_lin` do as
    targets of lora, adapter and ia3.
    """
    attentions = [unwrap(module) for name, module in slots(model) if _ATTENTION.search(name)]
    if not attentions:
        return Anatomy(prompted=None, head=head_names(model))
    takes_keys = all(map(takes_prefix, attentions))
    return Anatomy(
        {**_ROLES, "norm": tuple(map(Site, norm_names(model)))},
        prefix_attention=PrefixAttention if takes_keys else None,
        prompted=PromptedEncoder if takes_keys else None,
        watching=WatchedAttention,
        head=head_names(model),
    )
