"""JSON files that anybody may have damaged or edited: an object, or one line that says what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .options import check_type


def parse_object(text: bytes, types: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The JSON object in some bytes.

    Args:
        types: of the values that it must have, as the annotations of a dataclass give them.

    Raises:
        ValueError: it is no UTF-8, no JSON, no object, or lacks a value of its type.
    """
    try:
        values = json.loads(text.decode("utf-8"))
    except RecursionError:  # no ValueError
        raise ValueError("no JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    for name, hint in types.items():
        if name not in values:
            raise ValueError(f"it has no {name}")
        try:
            check_type(name, values[name], hint)
        except TypeError as error:
            raise ValueError(str(error)) from None
    return values


def read_object(path: Path, types: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError, and ValueError as `parse_object` does, without the path."""
    try:
        text = path.read_bytes()
    except NotADirectoryError:  # what should be a folder above it is a file
        raise FileNotFoundError(path) from None
    except (FileNotFoundError, IsADirectoryError):
        if os.path.lexists(path):
            raise ValueError("a folder, or a link that leads nowhere") from None
        raise
    return parse_object(text, types)
