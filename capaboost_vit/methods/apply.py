"""Where methods meet a model: they are applied, loaded with an adapter file, and folded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..core.base import dtype_of
from ..core.inject import Anatomy, attach, find, freeze_base, replace_slots, wrappers
from ..core.names import get, wrappers_of
from ..core.outline import outlines
from ..core.precision import widen
from ..core.quantised import check_trainable
from ..core.wrapper import Wrapper, unwrap
from .adapter_file import AdapterFile, check_tensors, load_adapter_file, read_adapter_file
from .header import AdapterFileError, explained
from .index import make_method
from .method import Method
from .pretrained import save_readably


def apply_method(
    model: nn.Module, anatomy: Anatomy, method: Method, *, autocast_adapter_dtype: bool = True
) -> list[str]:
    """Adds a method's branches to a model in place and freezes the rest; the canonical names of the adapted modules.

    Trained afterwards: every branch, those of earlier methods too, the modules that `anatomy.head` names, and what else
    the method trains. What was applied is remembered in `model.capaboost`, for adapter files.

    Args:
        autocast_adapter_dtype: beside a bfloat16 or float16 base, branches and head are float32, their inputs are cast
            to that and their outputs back, as in PEFT; False: they have the base's dtype. Parameters of the base that
            the method trains (norm, bitfit, full) keep theirs.

    Raises:
        ValueError, TypeError: what the method refuses, a module that carries such a wrapper already, or a method that
            attaches nothing though it has wrappers to attach, or trains nothing; the model is unchanged.
    """
    earlier = set(model.modules())
    names: dict[str, None] = {}  # in order, each once
    with _unchanged_on_error(model):
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
        if method.trains_all:
            check_trainable(model)
            model.requires_grad_(True)
        else:
            freeze_base(model, anatomy.head)
        for parameter in base_parameters:
            parameter.requires_grad_(True)
        if not names and not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                f"method {method.name!r} trains nothing of this {type(model).__name__}: name modules with head=, or "
                "take lora or full"
            )
        if not autocast_adapter_dtype:
            for _, wrapper in wrappers(model):
                for parameter in () if wrapper in earlier else wrapper.added_parameters():
                    parameter.data = parameter.data.to(dtype_of(unwrap(wrapper)))
        elif not method.trains_all:
            for place in (place for pattern in anatomy.head for place in find(model, pattern)):
                widen(model, get(model, place.name))
    record: dict[str, Any] = getattr(model, "capaboost", {})
    methods = [*record.get("methods", []), method.record()]
    model.capaboost = {**record, "methods": methods}  # type: ignore[assignment]
    return list(names)


@contextmanager
def _unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Where the block raises, the model gets back its wrappers, its record, and which parameters are trained."""
    restore = _restoring(model)
    try:
        yield
    except Exception:
        restore()
        raise


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Behind the block the model has its wrappers, its record, and which parameters are trained, as before."""
    restore = _restoring(model)
    try:
        yield
    finally:
        restore()


def _restoring(model: nn.Module) -> Callable[[], None]:
    earlier = set(model.modules())
    trained = [p for p in model.parameters() if p.requires_grad]
    record = getattr(model, "capaboost", None)

    def older(module: nn.Module) -> nn.Module:
        while isinstance(module, Wrapper) and module not in earlier:
            module = module.base
        return module

    def restore() -> None:
        replace_slots(model, older)
        if record is None:
            for name in ("capaboost", "save_pretrained"):
                model.__dict__.pop(name, None)
        else:
            model.capaboost = record
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)

    return restore


def adapt_model(
    model: nn.Module,
    anatomy: Anatomy,
    base: Mapping[str, Any],
    method: str | Method,
    *,
    head: Sequence[str] | None = None,
    autocast_adapter_dtype: bool = True,
    **options: Any,
) -> None:
    """`apply_method` with a method by name, with its options, or as it is; the base is noted in `model.capaboost`.

    Args:
        base: what adapter files say of the base, unless an earlier method has noted it.
        head: names or patterns of further modules to train; None takes the anatomy's.
        autocast_adapter_dtype: see `apply_method`.

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
    apply_method(model, anatomy, method, autocast_adapter_dtype=autocast_adapter_dtype)
    model.capaboost = {"base": dict(base), **model.capaboost}  # type: ignore[assignment, dict-item]
    save_readably(model)


def load_into(
    model: nn.Module,
    file: str | Path | AdapterFile,
    *,
    architecture: str,
    adapt: Callable[..., Any],
    head_names: Callable[[nn.Module], tuple[str, ...]],
    force: bool = False,
) -> None:
    """Loads an adapter file, adding the branches first where the model has none.

    Args:
        architecture: of the model, as files call it.
        adapt: `adapt(model, **record)` adds a method as a file has recorded it.
        head_names: names of the classifier's modules.
        force: accept base weights whose fingerprint differs.

    Raises:
        AdapterFileError, FileNotFoundError: see `read_adapter_file` and `load_adapter_file`; the model is unchanged.
    """
    file = read_adapter_file(file)
    with _unchanged_on_error(model):
        if not hasattr(model, "capaboost"):
            base = file.header["base"]["architecture"]
            if architecture != base:
                raise AdapterFileError(f"{file.path} was made for {base}, this model is {architecture}")
            check_outline(model, file, adapt=adapt, head_names=head_names)
            with explained(file.path):
                for record in file.header["methods"]:
                    adapt(model, **record)
        load_adapter_file(model, file, head=head_names(model), force=force)


def check_outline(
    model: nn.Module,
    file: AdapterFile,
    *,
    adapt: Callable[..., Any],
    head_names: Callable[[nn.Module], tuple[str, ...]],
) -> None:
    """Compares the sizes that a file's header names with its tensors, before anything of these sizes is made.

    The branches are added to the model as shapes alone, and taken off again. Raises AdapterFileError.
    """
    with _restored(model), explained(file.path):
        # each parameter is a tensor of the file; those that are shared were made for each owner first
        with outlines(parameters=4 * len(file.tensors)):
            for record in file.header["methods"]:
                adapt(model, **record, autocast_adapter_dtype=False)
        check_tensors(model, file, head=head_names(model))


def fold(model: nn.Module) -> nn.Module:
    """Replaces each MLP of prefixes and prompts by its vectors, in place; the model computes the same.

    What was a table already is left alone. A prefix of 10 tokens for roberta-base is 184,320 values then, not 9,857,024
    parameters.
    """
    changed = [wrapper.fold() for _, wrapper in wrappers(model)]
    if any(changed) and hasattr(model, "capaboost"):
        record: dict[str, Any] = model.capaboost  # type: ignore[assignment]
        methods = [make_method(**method).folded().record() for method in record["methods"]]
        model.capaboost = {**record, "methods": methods}  # type: ignore[assignment]
    return model
