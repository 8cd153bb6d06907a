"""`apply_method`: the only place where a configuration meets a model; METHODS is a dict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from ..core.adapted import Wrapper
from ..core.inject import Anatomy, find, freeze_base, get, replace_slots
from ..core.names import unwrap
from .adapter import adapter
from .config import CONFIGS, Config, make_config
from .ia3 import ia3
from .lora import lora
from .norm import norm
from .prefix import prefix
from .prompt import prompt
from .ssf import ssf
from .unipelt import unipelt


def _nothing(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Adds no branches: what is trained is decided by `apply_method`."""
    return []


METHODS: dict[str, Callable[..., list[str]]] = {
    "lora": lora,
    "adapter": adapter,
    "prefix": prefix,
    "prompt": prompt,
    "ia3": ia3,
    "ssf": ssf,
    "unipelt": unipelt,
    "norm": norm,
    "bitfit": _nothing,
    "head": _nothing,
    "full": _nothing,
}


def apply_method(model: nn.Module, anatomy: Anatomy, config: Config) -> list[str]:
    """Adds a method's branches to a model in place and freezes the rest: the only place where a config meets a model.

    Trained afterwards: every branch, those of earlier methods too, and the modules that `anatomy.head` names; with
    method "full" everything, with "bitfit" every bias, with "norm" every normalisation layer. What was applied is
    remembered in `model.capaboost`, for adapter files.

    Returns:
        The canonical names of the adapted modules.

    Raises:
        ValueError, TypeError: what the method refuses; the model is unchanged.
    """
    name = method_name(config)
    before = {id(module) for module in model.modules()}
    try:
        names = METHODS[name](model, anatomy, **{f.name: getattr(config, f.name) for f in dataclasses.fields(config)})
    except Exception:
        replace_slots(model, lambda module: _older(module, before))
        raise
    if name == "full":
        model.requires_grad_(True)
    else:
        freeze_base(model, anatomy.head)
        if name == "bitfit":
            for parameter_name, parameter in model.named_parameters():
                parameter.requires_grad_(parameter.requires_grad or parameter_name.rpartition(".")[2] == "bias")
        elif name == "norm":
            for norm_name in names:
                for parameter in unwrap(get(model, norm_name)).parameters(recurse=False):
                    parameter.requires_grad_(True)
    options = dataclasses.asdict(config).items()  # lists, as a file's header gives them back
    record = {"method": name, **{key: list(value) if isinstance(value, tuple) else value for key, value in options}}
    known: dict[str, Any] = getattr(model, "capaboost", {})
    model.capaboost = {**known, "methods": [*known.get("methods", []), record]}  # type: ignore[assignment]
    return names


def _older(module: nn.Module, before: set[int]) -> nn.Module:
    """What stood in the slot when the modules with these ids were all that there was."""
    while isinstance(module, Wrapper) and id(module) not in before:
        module = module.base
    return module


def adapt_model(
    model: nn.Module,
    anatomy: Anatomy,
    base: Mapping[str, Any],
    method: str,
    *,
    head: Sequence[str] | None = None,
    **options: Any,
) -> None:
    """`apply_method` with a method by name, and the base noted in `model.capaboost`.

    Args:
        base: what adapter files say of the base, unless an earlier method has noted it.
        head: names or patterns of further modules to train; None takes the anatomy's.

    Raises:
        ValueError, TypeError: an unknown method or option, or a target that matches nothing; the model is unchanged.
    """
    config = make_config(method, **options)
    if head is not None:
        for name in head:
            find(model, name)  # refuses before anything is changed
        anatomy = dataclasses.replace(anatomy, head=tuple(head))
    known = getattr(model, "capaboost", {}).get("base")
    apply_method(model, anatomy, config)
    model.capaboost = {**model.capaboost, "base": known or dict(base)}  # type: ignore[assignment, dict-item]


def method_name(config: Config) -> str:
    """The name under which a configuration's class is registered."""
    return next(name for name, cls in CONFIGS.items() if cls is type(config))
