"""The timm names `<family>_capaboost_<method>`; importing this file registers them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import timm
from timm.layers import register_notrace_module
from timm.models import FeatureListNet, generate_default_cfgs, load_pretrained, model_entrypoint, register_model
from timm.models._features import FeatureGetterNet  # not exported by timm.models
from timm.models._features_fx import FeatureGraphNet  # likewise
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn

from ..core.wrapper import Wrapper
from ..io.options import nearest
from ..methods import METHODS
from ..methods.index import no_option, on_register, option_names, owner_of
from ..methods.method import Method

# families of a name: timm's architecture for a size, its sizes, and whether all attention layers are timm's plain ones,
# which take prefixes and prompts
_ARCHITECTURES = (
    ("vit", "vit_{}_patch16_224", "tiny small base large", True),
    ("vit", "vit_{}_patch14_224", "huge giant", True),
    ("deit3", "deit3_{}_patch16_224", "small base large", True),
    ("deit3", "deit3_{}_patch14_224", "huge", True),
    ("dinov2", "vit_{}_patch14_dinov2", "small base large giant", True),
    ("siglip", "vit_{}_patch16_siglip_224", "base", True),
    ("siglip", "vit_{}_patch14_siglip_224", "so400m", True),
    ("clip", "vit_{}_patch16_clip_224", "base", True),
    ("clip", "vit_{}_patch14_clip_224", "large huge", True),
    ("dinov3", "vit_{}_patch16_dinov3", "small base large", False),
    ("eva02", "eva02_{}_patch14_224", "tiny small base large", False),
    ("beit", "beit_{}_patch16_224", "base large", False),
    ("beitv2", "beitv2_{}_patch16_224", "base large", False),
    ("swin", "swin_{}_patch4_window7_224", "tiny small base large", False),
    ("swinv2", "swinv2_{}_window8_256", "tiny small base", False),
)
# by family, such as vit_base: (timm architecture, whether its attention is plain)
FAMILIES: dict[str, tuple[str, bool]] = {
    f"{name}_{size}": (architecture.format(size), plain)
    for name, architecture, sizes, plain in _ARCHITECTURES
    for size in sizes.split()
}
FAMILIES["test_vit"] = ("test_vit", True)  # timm's own tiny test model
_FEATURE_OPTIONS = ("features_only", "out_indices", "feature_cls", "norm", "output_fmt")


def methods_of(family: str) -> tuple[str, ...]:
    """The methods with a timm name in a family."""
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
        from .adapters import adapt
        from .weights import checkpoint_filter

        options = {key: kwargs.pop(key) for key in option_names(method) if key in kwargs}
        for key in kwargs:  # others may be timm's own
            if owner_of(key):
                raise TypeError(no_option(name, method, key))
        features = {key: kwargs.pop(key) for key in _FEATURE_OPTIONS if key in kwargs}
        if features.get("features_only") and options.get("deep") is False:
            raise ValueError(
                "features_only needs deep prompts, as shallow ones stay in the outputs of inner blocks: say deep=True"
            )
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
        return _feature_net(model, features) if features.pop("features_only", False) else model

    create.__name__ = create.__qualname__ = name
    create.__module__ = __name__
    create.__doc__ = f"{base} adapted by {method}; options: {', '.join(option_names(method))}."
    return create


def _nearest_option(method: str, kwargs: dict[str, Any]) -> str:
    """What a misspelt option may have meant, for the error of timm's constructor, which knows only its own."""
    near = {key: nearest(key, option_names(method), cutoff=0.7) for key in kwargs}
    hints = [f"{key!r}: did you mean {near_name!r}?" for key, near_name in near.items() if near_name]
    return f" ({'; '.join(hints)})" if hints else ""


def _feature_net(model: Any, options: dict[str, Any]) -> nn.Module:
    """What timm's builder returns for features_only=True, with its defaults: a list for Swin, else a getter."""
    listed = isinstance(model, (SwinTransformer, SwinTransformerV2))
    kind = options.pop("feature_cls", "list" if listed else "getter")
    if kind not in ("list", "getter", "fx"):
        raise ValueError(f"feature_cls must be 'list', 'getter' or 'fx', got {kind!r}")
    metadata = {name: getattr(model, name) for name in ("_traits", "in_chans") if hasattr(model, name)}
    options = {"out_indices": tuple(range(model.num_layers)) if listed else 3, **options}
    net: Any
    if kind == "list":
        layout = getattr(model, "output_fmt", "NCHW")
        net = FeatureListNet(model, flatten_sequential=True, **{"output_fmt": layout, **options})
        net.capaboost = model.capaboost  # of the model it keeps the children alone, under other names
    elif kind == "fx":
        net = FeatureGraphNet(model, **options)
        net.graph_module.capaboost = model.capaboost  # which holds the children under their names
    else:
        net = FeatureGetterNet(model, **options)
    for name, value in metadata.items():
        setattr(net, name, value)
    dropped = ("num_classes", "classifier", "global_pool")
    net.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in dropped}
    net.default_cfg = net.pretrained_cfg
    return net


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
register_notrace_module(Wrapper)  # torch.fx, by which timm extracts features, takes each as one node
