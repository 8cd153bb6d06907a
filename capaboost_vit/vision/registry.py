"""The timm names: `<family>_capaboost_<method>` for the families below. Importing this file registers them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import timm
from timm.models import generate_default_cfgs, load_pretrained, model_entrypoint, register_model
from torch import nn

from ..io.options import nearest
from ..methods import METHODS
from ..methods.index import no_option, on_register, option_names, owner_of
from ..methods.method import Method

# family: (timm architecture, whether its attention layers are timm's plain ones, which take prefixes and prompts)
FAMILIES: dict[str, tuple[str, bool]] = {
    "vit_tiny": ("vit_tiny_patch16_224", True),
    "vit_small": ("vit_small_patch16_224", True),
    "vit_base": ("vit_base_patch16_224", True),
    "vit_large": ("vit_large_patch16_224", True),
    "vit_huge": ("vit_huge_patch14_224", True),
    "vit_giant": ("vit_giant_patch14_224", True),
    "deit3_small": ("deit3_small_patch16_224", True),
    "deit3_base": ("deit3_base_patch16_224", True),
    "deit3_large": ("deit3_large_patch16_224", True),
    "deit3_huge": ("deit3_huge_patch14_224", True),
    "dinov2_small": ("vit_small_patch14_dinov2", True),
    "dinov2_base": ("vit_base_patch14_dinov2", True),
    "dinov2_large": ("vit_large_patch14_dinov2", True),
    "dinov2_giant": ("vit_giant_patch14_dinov2", True),
    "siglip_base": ("vit_base_patch16_siglip_224", True),
    "siglip_so400m": ("vit_so400m_patch14_siglip_224", True),
    "clip_base": ("vit_base_patch16_clip_224", True),
    "clip_large": ("vit_large_patch14_clip_224", True),
    "clip_huge": ("vit_huge_patch14_clip_224", True),
    "dinov3_small": ("vit_small_patch16_dinov3", False),
    "dinov3_base": ("vit_base_patch16_dinov3", False),
    "dinov3_large": ("vit_large_patch16_dinov3", False),
    "eva02_tiny": ("eva02_tiny_patch14_224", False),
    "eva02_small": ("eva02_small_patch14_224", False),
    "eva02_base": ("eva02_base_patch14_224", False),
    "eva02_large": ("eva02_large_patch14_224", False),
    "beit_base": ("beit_base_patch16_224", False),
    "beit_large": ("beit_large_patch16_224", False),
    "beitv2_base": ("beitv2_base_patch16_224", False),
    "beitv2_large": ("beitv2_large_patch16_224", False),
    "swin_tiny": ("swin_tiny_patch4_window7_224", False),
    "swin_small": ("swin_small_patch4_window7_224", False),
    "swin_base": ("swin_base_patch4_window7_224", False),
    "swin_large": ("swin_large_patch4_window7_224", False),
    "swinv2_tiny": ("swinv2_tiny_window8_256", False),
    "swinv2_small": ("swinv2_small_window8_256", False),
    "swinv2_base": ("swinv2_base_window8_256", False),
    "test_vit": ("test_vit", True),  # timm's own tiny test model
}


def methods_of(family: str) -> tuple[str, ...]:
    """The methods that have a timm name in a family."""
    plain = FAMILIES[family][1]
    return tuple(n for n, m in METHODS.items() if m.timm_names and (plain or not m.needs_plain_attention))


def parse_name(name: str) -> tuple[str, str] | None:
    """(base architecture, method) of a registered name, with or without a tag; None for any other name."""
    family, _, method = name.partition(".")[0].partition("_capaboost_")
    if family in FAMILIES and method in methods_of(family):
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
    for key in kwargs:  # others may be timm's own
        if owner_of(key):
            raise TypeError(no_option(name, method, key))


def _nearest_option(method: str, kwargs: dict[str, Any]) -> str:
    """What a misspelt option may have meant, for the error of timm's constructor, which knows only its own."""
    near = {key: nearest(key, option_names(method), cutoff=0.7) for key in kwargs}
    hints = [f"{key!r}: did you mean {near_name!r}?" for key, near_name in near.items() if near_name]
    return f" ({'; '.join(hints)})" if hints else ""


def _register(method: type[Method]) -> None:
    """The timm names of a method, with each base's pretrained configurations; its default tag stays the default."""
    for family, (base, _) in FAMILIES.items():
        if method.name not in methods_of(family):
            continue
        name = f"{family}_capaboost_{method.name}"
        configurations: dict[str, Any] = {f"{name}.{tag}": config for tag, config in _configurations(base).items()}
        default_cfgs.update(generate_default_cfgs(configurations))
        setattr(sys.modules[__name__], name, register_model(_entrypoint(name, base, method.name)))


@functools.cache
def _configurations(base: str) -> dict[str, Any]:
    """A base's pretrained configurations by tag, the default one marked with timm's star; the same for all methods."""
    default = timm.get_pretrained_cfg(base, allow_unregistered=False).tag or ""  # type: ignore[union-attr]
    tags = [tagged.partition(".")[2] for tagged in timm.list_models(f"{base}.*", include_tags=True)]
    return {f"{tag}*" if tag == default else tag: timm.get_pretrained_cfg(f"{base}.{tag}") for tag in tags}


default_cfgs: dict[str, Any] = {}  # where timm's register_model looks
__all__ = ["FAMILIES", "methods_of", "parse_name"]
on_register(_register)
