"""`apply_method`: the only place where a configuration meets a model; METHODS is a dict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

from ..core.inject import Anatomy, freeze_base
from .adapter import adapter
from .config import CONFIGS, Config
from .lora import lora
from .prefix import prefix
from .prompt import prompt


def _nothing(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Adds no branches: what is trained is decided by `apply_method`."""
    return []


METHODS: dict[str, Callable[..., list[str]]] = {
    "lora": lora,
    "adapter": adapter,
    "prefix": prefix,
    "prompt": prompt,
    "head": _nothing,
    "full": _nothing,
}


def apply_method(model: nn.Module, anatomy: Anatomy, config: Config) -> list[str]:
    """Adds a method's branches to a model in place and freezes the rest: the only place where a config meets a model.

    Trained afterwards: every branch, those of earlier methods too, and the modules that `anatomy.head` names; with
    method "full" everything. What was applied is remembered in `model.capaboost`, for adapter files.

    Returns:
        The canonical names of the adapted modules.
    """
    name = method_name(config)
    names = METHODS[name](model, anatomy, **{f.name: getattr(config, f.name) for f in dataclasses.fields(config)})
    if name == "full":
        model.requires_grad_(True)
    else:
        freeze_base(model, anatomy.head)
    record: dict[str, Any] = {"method": name, **dataclasses.asdict(config)}
    known = getattr(model, "capaboost", {})
    model.capaboost = {**known, "methods": [*known.get("methods", []), record]}  # type: ignore[assignment]
    return names


def method_name(config: Config) -> str:
    """The name under which a configuration's class is registered."""
    return next(name for name, cls in CONFIGS.items() if cls is type(config))
