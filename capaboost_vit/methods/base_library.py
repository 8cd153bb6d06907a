"""Whether the base of an adapter file is a model of transformers or of timm."""

from __future__ import annotations

from pathlib import Path

from .adapter_file import AdapterFile, read_adapter_file
from .header import AdapterFileError


def is_of_transformers(file: AdapterFile) -> bool:
    """Whether its base is a model of transformers, on texts or images; one of timm, or any torch model otherwise."""
    return "text" in file.header or "num_labels" in file.header


def read_of_library(path: str | Path | AdapterFile, function: str, *, of_transformers: bool) -> AdapterFile:
    """`read_adapter_file` for the `function` of models of transformers, or of the others, which refuse each other's.

    Raises AdapterFileError, FileNotFoundError.
    """
    file = read_adapter_file(path)
    known = is_of_transformers(file) or "num_classes" in file.header
    if known and is_of_transformers(file) != of_transformers:
        library = "timm" if of_transformers else "transformers"
        raise AdapterFileError(
            f"{file.path} was made for {file.header['base']['architecture']} of {library}: use it with that, by "
            f"capaboost_vit.{function}"
        )
    return file
