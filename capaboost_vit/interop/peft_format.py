"""Names of PEFT's format, for export and import."""

from __future__ import annotations

from typing import Any

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # the files of a folder
PREFIX = "base_model.model."  # of its tensors: PEFT's two wrappers around the model


def import_client() -> Any:
    """The package peft. Raises ModuleNotFoundError that says how to install it."""
    try:
        import peft
    except ModuleNotFoundError as error:
        text = f"this needs the package peft, and {error.name} is not installed: pip install 'capaboost_vit[peft]'"
        raise ModuleNotFoundError(text, name="peft") from error
    return peft
