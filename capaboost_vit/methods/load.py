"""An adapter file into a model that may not carry its branches yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..core.inject import detach
from .adapter_file import AdapterFile, AdapterFileError, load_adapter_file, read_adapter_file


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
    path, header = file.path, file.header
    if hasattr(model, "capaboost"):
        load_adapter_file(model, file, head=head_names(model), force=force)
        return
    base = header["base"]["architecture"]
    if architecture != base:
        raise AdapterFileError(f"{path} was made for {base}, this model is {architecture}")
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for record in header["methods"]:
            adapt(model, **record)
        load_adapter_file(model, file, head=head_names(model), force=force)
    except Exception:
        detach(model)
        for parameter in trained:
            parameter.requires_grad_(True)
        raise
