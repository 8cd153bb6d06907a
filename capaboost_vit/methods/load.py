"""Loading adapter files into a model, which is adapted first if it is not yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..core.meta_models import outlines
from ..core.names import get, slots
from ..core.record import check_no_peft, is_adapted
from .adapter_file import AdapterFile, check_tensors, load_adapter_file, read_adapter_file
from .header import AdapterFileError, explained
from .rollback import restored, unchanged_on_error


def load_into(
    model: nn.Module,
    file: str | Path | AdapterFile,
    *,
    architecture: str,
    adapt: Callable[..., Any],
    head_names: Callable[[nn.Module], tuple[str, ...]],
    force: bool = False,
) -> None:
    """Loads an adapter file into a model, which is adapted first if it is not yet.

    Args:
        architecture: of the model, as in adapter files.
        adapt: `adapt(model, **record)` applies a method from its record in a file.
        head_names: a function that returns the names of the classifier's modules.
        force: accept base weights whose fingerprint differs.

    Raises:
        AdapterFileError, FileNotFoundError: see `read_adapter_file` and `load_adapter_file`; the model is unchanged.
    """
    file = read_adapter_file(file)
    check_no_peft(model)
    part = _part(model, file)
    with unchanged_on_error(part):
        if not is_adapted(model):
            base = file.header["base"]["architecture"]
            if architecture != base:
                raise AdapterFileError(f"{file.path} was made for {base}, this model is {architecture}")
            check_outline(model, file, adapt=adapt, head_names=head_names)
            with explained(file.path):
                _add_methods(part, file, adapt)
        load_adapter_file(model, file, head=head_names(model), force=force)


def check_outline(
    model: nn.Module,
    file: AdapterFile,
    *,
    adapt: Callable[..., Any],
    head_names: Callable[[nn.Module], tuple[str, ...]],
) -> None:
    """Compares the sizes in a file's header with its tensors, before anything of these sizes is created.

    The model is adapted on the meta device, and restored. Raises AdapterFileError.
    """
    part = _part(model, file)
    with restored(part), explained(file.path):
        # each parameter is a tensor of the file; those that are shared were made for each layer first
        with outlines(parameters=4 * (len(file.tensors) + sum(1 for _ in part.modules()))):
            _add_methods(part, file, adapt, autocast_adapter_dtype=False)
        check_tensors(model, file, head=head_names(model))


def _part(model: nn.Module, file: AdapterFile) -> nn.Module:
    """The module that carries a file's methods: the model, or the one inside it that the header names."""
    name = file.header["inside"]
    try:
        return get(model, name)
    except AttributeError as error:
        made_for = file.header["base"]["architecture"]
        raise AdapterFileError(
            f"{file.path} was made for the {name[:100]!r} of {made_for}, which this {type(model).__name__} has not"
        ) from error


def _add_methods(model: nn.Module, file: AdapterFile, adapt: Callable[..., Any], **options: Any) -> None:
    """Adds the methods that a file records; what it has trained of the head is trained, as far as the model has it."""
    inside = f"{file.header['inside']}." if file.header["inside"] else ""
    trained = [name.removeprefix(inside) for name in file.header["trained_head"] if name.startswith(inside)]
    present = {name for name, module in slots(model) if next(module.parameters(), None) is not None}
    for record in file.header["methods"]:
        adapt(model, **record, head=[name for name in trained if name in present], **options)
