"""The timm names: `<family>_capaboost_<method>` for the families below. Importing this file registers them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from typing import Any

import timm
from timm.models import generate_default_cfgs, load_pretrained, model_entrypoint, register_model
from torch import nn

from ..methods.config import CONFIGS, option_names

_ANY = ("lora", "adapter")
_PLAIN = ("lora", "adapter", "prefix", "prompt")  # plain attention: prefixes and prompts fit too

# family: (timm architecture, the methods that fit it)
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "vit_tiny": ("vit_tiny_patch16_224", _PLAIN),
    "vit_small": ("vit_small_patch16_224", _PLAIN),
    "vit_base": ("vit_base_patch16_224", _PLAIN),
    "vit_large": ("vit_large_patch16_224", _PLAIN),
    "vit_huge": ("vit_huge_patch14_224", _PLAIN),
    "vit_giant": ("vit_giant_patch14_224", _PLAIN),
    "deit3_small": ("deit3_small_patch16_224", _PLAIN),
    "deit3_base": ("deit3_base_patch16_224", _PLAIN),
    "deit3_large": ("deit3_large_patch16_224", _PLAIN),
    "deit3_huge": ("deit3_huge_patch14_224", _PLAIN),
    "dinov2_small": ("vit_small_patch14_dinov2", _PLAIN),
    "dinov2_base": ("vit_base_patch14_dinov2", _PLAIN),
    "dinov2_large": ("vit_large_patch14_dinov2", _PLAIN),
    "dinov2_giant": ("vit_giant_patch14_dinov2", _PLAIN),
    "siglip_base": ("vit_base_patch16_siglip_224", _PLAIN),
    "siglip_so400m": ("vit_so400m_patch14_siglip_224", _PLAIN),
    "clip_base": ("vit_base_patch16_clip_224", _PLAIN),
    "clip_large": ("vit_large_patch14_clip_224", _PLAIN),
    "clip_huge": ("vit_huge_patch14_clip_224", _PLAIN),
    "dinov3_small": ("vit_small_patch16_dinov3", _ANY),
    "dinov3_base": ("vit_base_patch16_dinov3", _ANY),
    "dinov3_large": ("vit_large_patch16_dinov3", _ANY),
    "eva02_tiny": ("eva02_tiny_patch14_224", _ANY),
    "eva02_small": ("eva02_small_patch14_224", _ANY),
    "eva02_base": ("eva02_base_patch14_224", _ANY),
    "eva02_large": ("eva02_large_patch14_224", _ANY),
    "beit_base": ("beit_base_patch16_224", _ANY),
    "beit_large": ("beit_large_patch16_224", _ANY),
    "beitv2_base": ("beitv2_base_patch16_224", _ANY),
    "beitv2_large": ("beitv2_large_patch16_224", _ANY),
    "swin_tiny": ("swin_tiny_patch4_window7_224", _ANY),
    "swin_small": ("swin_small_patch4_window7_224", _ANY),
    "swin_base": ("swin_base_patch4_window7_224", _ANY),
    "swin_large": ("swin_large_patch4_window7_224", _ANY),
    "swinv2_tiny": ("swinv2_tiny_window8_256", _ANY),
    "swinv2_small": ("swinv2_small_window8_256", _ANY),
    "swinv2_base": ("swinv2_base_window8_256", _ANY),
    "test_vit": ("test_vit", _PLAIN),  # timm's own tiny test model
}


def parse_name(name: str) -> tuple[str, str] | None:
    """(base architecture, method) of a registered name, with or without a tag; None for any other name."""
    family, _, method = name.partition(".")[0].partition("_capaboost_")
    if family in FAMILIES and method in FAMILIES[family][1]:
        return FAMILIES[family][0], method
    return None


def _entrypoint(name: str, base: str, method: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        # here, as importing timm registers the names: modules of this package may be half imported then
        from .adapt import adapt
        from .features import FEATURE_OPTIONS, feature_net
        from .weights import checkpoint_filter

        options = {key: kwargs.pop(key) for key in option_names(method) if key in kwargs}
        _refuse_foreign_options(name, method, kwargs)
        features = {key: kwargs.pop(key) for key in FEATURE_OPTIONS if key in kwargs}
        if features.get("features_only") and options.get("deep") is False:
            raise ValueError("features_only needs deep prompts: shallow ones stay in the outputs of inner blocks")
        # a saved folder holds the adapted model: its weights are loaded when the branches are there
        source = kwargs.get("pretrained_cfg")
        saved = pretrained and isinstance(source, dict) and source.get("source") in ("hf-hub", "local-dir")
        try:
            model = model_entrypoint(base)(pretrained=pretrained and not saved, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}{_nearest_option(method, kwargs)}") from error
        model.pretrained_cfg["architecture"] = base
        adapt(model, method, **options)
        if saved:
            load_pretrained(
                model,
                num_classes=model.num_classes,
                in_chans=kwargs.get("in_chans", 3),
                filter_fn=checkpoint_filter(model),
            )
        model.pretrained_cfg["architecture"] = name
        return feature_net(model, features) if features.pop("features_only", False) else model

    create.__name__ = create.__qualname__ = name
    create.__module__ = __name__
    create.__doc__ = f"{base} with CapaBoost-{method}; options: {', '.join(option_names(method))}."
    return create


def _refuse_foreign_options(name: str, method: str, kwargs: dict[str, Any]) -> None:
    for other in CONFIGS:
        for key in set(option_names(other)) & kwargs.keys():
            raise TypeError(
                f"{name} has no option {key!r} (that is {other}'s); it has: {', '.join(option_names(method))}"
            )


def _nearest_option(method: str, kwargs: dict[str, Any]) -> str:
    """What a misspelt option may have meant, for the error of timm's constructor, which knows only its own."""
    near = {key: difflib.get_close_matches(key, option_names(method), n=1, cutoff=0.7) for key in kwargs}
    hints = [f"{key!r}: did you mean {names[0]!r}?" for key, names in near.items() if names]
    return f" ({'; '.join(hints)})" if hints else ""


def _default_cfgs() -> dict[str, Any]:
    """Each base's pretrained configurations under our name; the base's default tag stays the default."""
    cfgs: dict[str, Any] = {}
    for family, (base, methods) in FAMILIES.items():
        default = timm.get_pretrained_cfg(base, allow_unregistered=False).tag or ""  # type: ignore[union-attr]
        tags = [name.partition(".")[2] for name in timm.list_models(f"{base}.*", include_tags=True)]
        for method in methods:
            for tag in tags:
                star = "*" if tag == default else ""  # timm's mark of the default tag
                cfgs[f"{family}_capaboost_{method}.{tag}{star}"] = timm.get_pretrained_cfg(f"{base}.{tag}")
    return generate_default_cfgs(cfgs)


default_cfgs = _default_cfgs()
__all__ = ["FAMILIES", "parse_name"]
for _family, (_base, _methods) in FAMILIES.items():
    for _method in _methods:
        _name = f"{_family}_capaboost_{_method}"
        setattr(sys.modules[__name__], _name, register_model(_entrypoint(_name, _base, _method)))
