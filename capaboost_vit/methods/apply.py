"""Applying a method to a model, and folding."""

from __future__ import annotations

import dataclasses
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..core.base import dtype_of, is_shard
from ..core.chain import merged_into
from ..core.heads import find_head, loose_parameters
from ..core.inject import Anatomy, attach, find, freeze_base, wrappers
from ..core.names import get, wrappers_of
from ..core.precision import widen
from ..core.quantised import check_trainable
from ..core.record import check_no_peft, is_adapted, plain_model
from ..core.sharded import check_whole
from ..core.wrapper import unwrap
from .index import make_method
from .method import Method
from .pretrained import save_readably
from .rollback import unchanged_on_error

_log = logging.getLogger("capaboost_vit")


def apply_method(
    model: nn.Module, anatomy: Anatomy, method: Method, *, autocast_adapter_dtype: bool = True
) -> list[str]:
    """Applies a method to a model in place, and freezes the rest; returns the canonical names of the adapted modules.

    Afterwards the added parameters are trained, those of earlier methods too, the modules in `anatomy.head`, and what
    else the method trains. The methods and the head are recorded in `model.capaboost`, for adapter files.

    Args:
        autocast_adapter_dtype: with a bfloat16 or float16 base, added parameters and head are float32; their inputs are
            cast to float32 and their outputs back, as in PEFT. False: they have the dtype of the base. Parameters of
            the base that the method trains (norm, bitfit, full) keep their dtype.

    Raises:
        ValueError, TypeError: what the method refuses; a module that has such a wrapper already; a model with layers of
            PEFT, or wrapped or sharded for training; a method that could add or train something, but finds nothing in
            this model. The model is unchanged.
    """
    if (inner := plain_model(model)) is not model:
        raise ValueError(
            f"this {type(model).__name__} wraps a {type(inner).__name__}: adapt that first, and wrap it afterwards"
        )
    check_no_peft(model)
    check_whole(model, "adapt first, and shard afterwards")
    if adapted := [name for name, part in model.named_modules() if name and "capaboost" in part.__dict__]:
        raise ValueError(
            f"model.{adapted[0]} is adapted already, and an adapter file is of one model: give that, or detach it first"
        )
    earlier = set(model.modules())
    names: dict[str, None] = {}  # in order, each once
    with unchanged_on_error(model):
        for name, wrapper in method.build(model, anatomy):
            slot = wrappers_of(get(model, name))
            if not method.stacks and any(type(other) is type(wrapper) and other in earlier for other in slot):
                raise ValueError(
                    f"{name!r} carries {wrapper.adds} already: detach it first, or leave it out of targets"
                )
            attach(model, name, wrapper)
            names[name] = None
        if not names and type(method).build is not Method.build:
            raise ValueError(f"method {method.name!r} attaches nothing to this {type(model).__name__}")
        base_parameters = list(method.base_parameters(model))
        head = list(dict.fromkeys(place.name for pattern in anatomy.head for place in find(model, pattern)))
        in_head = {parameter for name in head for parameter in get(model, name).parameters()}
        if method.trains_all:
            check_trainable(model)
            model.requires_grad_(True)
        else:
            freeze_base(model, head)
        for parameter in base_parameters:
            parameter.requires_grad_(True)
        idle = type(method).base_parameters is not Method.base_parameters and in_head.issuperset(base_parameters)
        if not names and (idle or not any(parameter.requires_grad for parameter in model.parameters())):
            beside = " beside its head: take head, lora" if in_head else ": name modules with head=, or take lora"
            raise ValueError(f"method {method.name!r} trains nothing of this {type(model).__name__}{beside} or full")
        if not autocast_adapter_dtype:
            for _, wrapper in wrappers(model):
                for parameter in () if wrapper in earlier else wrapper.added_parameters():
                    parameter.data = parameter.data.to(dtype_of(unwrap(wrapper)))
        elif not method.trains_all:
            for name in head:
                widen(model, get(model, name))
    record: dict[str, Any] = getattr(model, "capaboost", {})
    methods = [*record.get("methods", []), method.record()]
    model.capaboost = {**record, "methods": methods, "head": sorted(head)}  # type: ignore[assignment]
    return list(names)


def adapt_model(
    model: nn.Module,
    anatomy: Anatomy,
    base: Mapping[str, Any],
    method: str | Method,
    *,
    head: str | Sequence[str] | None = None,
    autocast_adapter_dtype: bool = True,
    **options: Any,
) -> None:
    """`apply_method` with a method and its options; the base is recorded in `model.capaboost`.

    What is trained is logged (level INFO, logger `capaboost_vit`). If no head is found, a UserWarning says what to
    type.

    Args:
        base: the description of the base for adapter files, unless an earlier method has recorded it.
        method: its name, or a method object, which takes no options.
        head: names or patterns of further modules to train, () for none; None: those of an earlier call, or of the
            anatomy.
        autocast_adapter_dtype: see `apply_method`.

    Raises:
        ValueError, TypeError: an unknown method or option, a target that matches nothing, or a head without parameters;
            the model is unchanged.
    """
    if isinstance(method, str):
        method = make_method(method, **options)
    elif options:
        raise TypeError(f"a method that is made already takes no options, got {', '.join(options)}")
    usual_head = getattr(model, "capaboost", {}).get("head") or anatomy.head if method.trains_head else ()
    chosen = usual_head if head is None else head
    chosen = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    for name in chosen:  # refused before anything is changed
        if not any(True for place in find(model, name) for _ in get(model, place.name).parameters()):
            raise ValueError(f"head={name!r} names nothing with parameters in this {type(model).__name__}")
    loose = loose_parameters(model) if not method.trains_all else ()
    unknown = head is None and not chosen and method.trains_head and not method.trains_all and find_head(model) is None
    names = apply_method(
        model, dataclasses.replace(anatomy, head=chosen), method, autocast_adapter_dtype=autocast_adapter_dtype
    )
    merged = {"merged": chain} if (chain := merged_into(model)) else {}
    model.capaboost = {"base": {**base, **merged}, **model.capaboost}  # type: ignore[assignment, dict-item]
    save_readably(model)
    parameters = [*model.parameters()]
    if not any(parameter.is_meta for parameter in parameters):  # not for an outline, nor twice where a file is loaded
        total = sum(p.numel() for p in parameters)
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        _log.info(
            "%s trains %s of %s parameters of this %s: %d adapted modules, head: %s",
            *(method.name, f"{trained:,}", f"{total:,}", type(model).__name__, len(names), ", ".join(chosen) or "none"),
        )
    if head is None and loose:
        _warn(
            f"{method.name} freezes {', '.join(loose)} of this {type(model).__name__} itself: call "
            f"model.{loose[0]}.requires_grad_(True) afterwards to train it, or name what is trained with head="
        )
    if unknown:
        with_parameters = [(name, child) for name, child in model.named_children() if [*child.parameters()]]
        plain = [name for name, child in with_parameters if not is_adapted(child)]
        _warn(
            f"no head was found in this {type(model).__name__}, so all but what {method.name} adds is frozen: name "
            f"what is trained from the first step, head={tuple(plain[-1:] or ['name'])!r}, or head=() for none"
        )


def _warn(message: str) -> None:
    """A UserWarning at the line outside of this package by which it was called."""
    package, frame, level = __name__.partition(".")[0], sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def fold(model: nn.Module) -> nn.Module:
    """Replaces what only training needs by its result, in place, and returns the model, which computes the same.

    The reparameterisation MLP of prefixes and prompts is replaced by the vectors that it computes, and an adapter of a
    bias (`hiwi`) by the new bias; everything else is unchanged. For roberta-base, a prefix of 10 tokens whose layers
    share an MLP of width 512 has 9,857,024 parameters before, and 184,320 after.

    Raises:
        ValueError: the model has no adapter, or is sharded.
        TypeError: it is no model.

    Examples:
        >>> model = timm.create_model("vit_tiny_patch16_224")
        >>> model = capaboost_vit.adapt(model, "prefix", bottleneck=32)
        >>> model = capaboost_vit.fold(model)
    """
    plain = plain_model(model)
    if not is_adapted(plain):
        raise ValueError(f"this {type(plain).__name__} carries nothing to fold: call capaboost_vit.adapt first")
    if any(is_shard(parameter) for _, wrapper in wrappers(plain) for parameter in wrapper.added_parameters()):
        check_whole(plain, "save_adapter on all processes, then load_adapter and fold in one")
    changed = [wrapper.fold() for _, wrapper in wrappers(plain)]
    for module in plain.modules() if any(changed) else ():
        if record := module.__dict__.get("capaboost"):
            methods = [make_method(**method).folded().record() for method in record["methods"]]
            module.capaboost = {**record, "methods": methods}  # type: ignore[assignment]
    return model
