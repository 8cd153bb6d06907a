"""`apply_method`: the only place where a method meets a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..core.inject import Anatomy, attach, find, freeze_base, get, replace_slots
from ..core.names import wrappers_of
from ..core.wrapper import Wrapper
from .index import make_method
from .method import Method


def apply_method(model: nn.Module, anatomy: Anatomy, method: Method) -> list[str]:
    """Adds a method's branches to a model in place and freezes the rest.

    Trained afterwards: every branch, those of earlier methods too, the modules that `anatomy.head` names, and what else
    the method trains. What was applied is remembered in `model.capaboost`, for adapter files.

    Returns:
        The canonical names of the adapted modules.

    Raises:
        ValueError, TypeError: what the method refuses, a module that carries such a wrapper already, or a method that
            attaches nothing though it has wrappers to attach; the model is unchanged.
    """
    before = {id(module) for module in model.modules()}
    trained = [p for p in model.parameters() if p.requires_grad]
    names: dict[str, None] = {}  # in order, each once
    try:
        for name, wrapper in method.build(model, anatomy):
            if not method.stacks:
                _refuse_second(model, name, wrapper, before)
            attach(model, name, wrapper)
            names[name] = None
        if not names and type(method).build is not Method.build:
            raise ValueError(f"method {method.name!r} attaches nothing to this {type(model).__name__}")
        base_parameters = list(method.base_parameters(model))
        if method.trains_all:
            model.requires_grad_(True)
        else:
            freeze_base(model, anatomy.head)
        for parameter in base_parameters:
            parameter.requires_grad_(True)
    except Exception:
        replace_slots(model, lambda module: _older(module, before))
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        raise
    known: dict[str, Any] = getattr(model, "capaboost", {})
    methods = [*known.get("methods", []), method.record()]
    model.capaboost = {**known, "methods": methods}  # type: ignore[assignment]
    return list(names)


def _refuse_second(model: nn.Module, name: str, wrapper: Wrapper, before: set[int]) -> None:
    """Raises ValueError where a wrapper of the same class stands already, put there by an earlier method."""
    for other in wrappers_of(get(model, name)):
        if type(other) is type(wrapper) and id(other) in before:
            raise ValueError(f"{name!r} carries {wrapper.adds} already: detach it first, or leave it out of targets")


def _older(module: nn.Module, before: set[int]) -> nn.Module:
    """What stood in the slot when the modules with these ids were all that there was."""
    while isinstance(module, Wrapper) and id(module) not in before:
        module = module.base
    return module


def adapt_model(
    model: nn.Module,
    anatomy: Anatomy,
    base: Mapping[str, Any],
    method: str | Method,
    *,
    head: Sequence[str] | None = None,
    **options: Any,
) -> None:
    """`apply_method` with a method by name, and the base noted in `model.capaboost`.

    Args:
        base: what adapter files say of the base, unless an earlier method has noted it.
        method: its name, with its options; or the method itself.
        head: names or patterns of further modules to train; None takes the anatomy's.

    Raises:
        ValueError, TypeError: an unknown method or option, or a target that matches nothing; the model is unchanged.
    """
    if isinstance(method, str):
        method = make_method(method, **options)
    elif options:
        raise TypeError(f"a method that is made already takes no options, got {', '.join(options)}")
    if head is not None:
        for name in head:
            find(model, name)  # refuses before anything is changed
        anatomy = dataclasses.replace(anatomy, head=tuple(head))
    known = getattr(model, "capaboost", {}).get("base")
    apply_method(model, anatomy, method)
    model.capaboost = {**model.capaboost, "base": known or dict(base)}  # type: ignore[assignment, dict-item]
