"""The head of a model: the modules that are trained from the first step, found by the structure of the model."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any, cast

from torch import nn

from .names import get, slots
from .wrapper import unwrap

# what people call a head: fc, head, heads, segmentation_head, aux_classifier, qa_outputs; torchvision's auxiliary ones
_HEAD = re.compile(r"(^|_)(fc|heads?|classifier|score|qa_outputs)$|^(AuxLogits|aux\d)$")
# of timm's models and nets of features, of transformers' models
_BACKBONE = ("get_classifier", "feature_info", "base_model_prefix")


def find_head(model: nn.Module) -> tuple[str, ...] | None:
    """Canonical names of the head's modules; () for a model that has no head, None if it is not known.

    The kind of a model is known by its attributes, not by its class:

    - timm (`get_classifier`): its classifier. Feature extractors (`feature_info`) and `num_classes=0` have no head.
    - transformers (`base_model_prefix`): the modules beside the encoder that were not pretrained with it. The head of a
      language model was: its output matrix is that of the embeddings. Modules that `create_text_model` did not find in
      the pretrained weights (`fresh_modules`) are part of the head. An encoder alone has none.
    - both towers of CLIP (`encode_image`): no head.
    - a module that contains such models, at any depth: their heads, and what is trainable beside them.
    - a `backbone` or `encoder` of another kind: the modules after it, if one of them has the name of a head.
    - children with the name of a head, beside others: `fc`, `classifier`, `heads`, `segmentation_head`, ...
    - a module with a single child: the head of that child.

    A list or dict of modules is named by its entries; modules without parameters are left out.
    """
    model = unwrap(model)
    if hasattr(model, "get_classifier"):
        return _classifier(model)
    if hasattr(model, "base_model_prefix"):
        return _beside_the_encoder(model)
    if hasattr(model, "feature_info") or hasattr(model, "encode_image"):
        return ()
    children = _children(model)
    if nested := {name: find_head(child) for name, child in children.items() if _contains_backbone(child)}:
        heads = [f"{name}.{head}" for name, inner in nested.items() for head in inner or ()]
        heads += _entries(model, children.keys() - nested.keys())
        no_head = () if len(nested) == len(children) and () in nested.values() else None
        return tuple(name for name in heads if _is_trained(get(model, name))) or no_head
    if named := _named(model):
        base = next((name for name in ("backbone", "encoder") if name in children), None)
        behind = [*children][[*children].index(base) + 1 :] if base else []
        return _entries(model, behind if any(name in behind for name in named) else named)
    if len(children) == 1 and not model._parameters:
        ((name, child),) = children.items()
        inner = find_head(child)
        return None if inner is None else tuple(f"{name}.{head}" for head in inner)
    return None


def head_names(model: nn.Module) -> tuple[str, ...]:
    """The same as `find_head`, with () if it is not known."""
    return find_head(model) or ()


def head_of(model: nn.Module) -> tuple[str, ...]:
    """The head recorded by a method, or that of `head_names` for a model without a record."""
    return tuple(getattr(model, "capaboost", {}).get("head", ())) or head_names(model)


def loose_parameters(model: nn.Module) -> tuple[str, ...]:
    """Names of trainable parameters that belong directly to a module around a backbone, and so to no head."""
    if any(hasattr(model, name) for name in (*_BACKBONE, "encode_image")) or not _contains_backbone(model):
        return ()
    return tuple(name for name, parameter in model.named_parameters(recurse=False) if parameter.requires_grad)


def _classifier(model: nn.Module) -> tuple[str, ...]:
    try:
        heads = cast(Any, model).get_classifier()
    except AttributeError:  # an encoder in timm's words that has lost its classifier
        return ()
    heads = heads if isinstance(heads, (tuple, list)) else (heads,)
    trained = [head for head in heads if isinstance(head, nn.Module) and next(head.parameters(), None) is not None]
    return tuple(name for name, module in slots(model) if any(module is head for head in trained))


def _beside_the_encoder(model: Any) -> tuple[str, ...]:
    """The head of a model of transformers."""
    fresh: tuple[str, ...] = getattr(model, "fresh_modules", ())
    if model.get_output_embeddings() is not None:
        return fresh
    prefix = model.base_model_prefix
    encoder = getattr(model, prefix or "-", None)
    if "embeddings" in model._modules:  # DINOv3's model, whose `model` is the part behind these
        encoder = None
    if encoder is None:  # it is one itself, whose `head` may be pretrained, or calls it otherwise: CLIPForImage...
        return tuple(dict.fromkeys((*(_named(model) if "For" in type(model).__name__ else ()), *fresh)))
    own = _classifier(encoder) if hasattr(encoder, "get_classifier") else ()  # of timm, with its classifier inside
    beside = [name for name, child in _children(model).items() if unwrap(child) is not unwrap(encoder)]
    return tuple(dict.fromkeys((*_entries(model, beside), *(f"{prefix}.{name}" for name in own), *fresh)))


def _named(model: nn.Module) -> tuple[str, ...]:
    """The children that are called as heads are, beside others."""
    children = _children(model)
    named = [name for name in children if _HEAD.search(name)]
    return _entries(model, named) if len(named) < len(children) else ()


def _children(model: nn.Module) -> dict[str, nn.Module]:
    """The children with parameters by name; one that stands in two slots is there twice."""
    children = ((name, child) for name, child in unwrap(model)._modules.items() if child is not None)
    return {name: child for name, child in children if next(child.parameters(), None) is not None}


def _entries(model: nn.Module, names: Container[str]) -> tuple[str, ...]:
    """These children, and for a list or dict of modules, which is never called itself, its entries."""
    entries: list[str] = []
    for name, child in _children(model).items():
        if name not in names:
            continue
        listed = isinstance(child, nn.ModuleList | nn.ModuleDict)
        entries += [f"{name}.{entry}" for entry in _entries(child, _children(child))] if listed else [name]
    return tuple(entries)


def _contains_backbone(module: nn.Module) -> bool:
    return any(hasattr(inner, name) for inner in module.modules() for name in _BACKBONE)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
