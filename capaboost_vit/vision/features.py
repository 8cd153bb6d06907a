"""`features_only` of an adapted model: timm's feature nets, wrapped around after the branches are in."""

from __future__ import annotations

from typing import Any

from timm.models import FeatureListNet
from timm.models._features import FeatureGetterNet  # not exported by timm.models
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn

FEATURE_OPTIONS = ("features_only", "out_indices", "feature_cls", "norm", "output_fmt")


def feature_net(model: nn.Module, options: dict[str, Any]) -> nn.Module:
    """What timm's builder returns for features_only=True, with its defaults: lists for Swin, a getter for the others.

    Args:
        model: the adapted model, which becomes part of the net.
        options: timm's `out_indices`, `output_fmt`, for getters `norm`, and `feature_cls` ("list" or "getter").

    Raises:
        ValueError: another `feature_cls`.
    """
    listed = isinstance(model, (SwinTransformer, SwinTransformerV2))
    kind = options.pop("feature_cls", "list" if listed else "getter")
    if kind not in ("list", "getter"):
        raise ValueError(f"feature_cls must be 'list' or 'getter', got {kind!r}")
    metadata = {name: getattr(model, name) for name in ("_traits", "in_chans") if hasattr(model, name)}
    net: nn.Module
    indices = tuple(range(model.num_layers)) if listed else 3  # type: ignore[arg-type]
    options = {"out_indices": indices, **options}
    if kind == "list":
        fmt = {"output_fmt": model.output_fmt} if hasattr(model, "output_fmt") else {}
        net = FeatureListNet(model, flatten_sequential=True, **{**fmt, **options})
    else:
        net = FeatureGetterNet(model, **options)
    for name, value in metadata.items():
        setattr(net, name, value)
    dropped = ("num_classes", "classifier", "global_pool")
    net.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in dropped}  # type: ignore
    net.default_cfg = net.pretrained_cfg
    return net
