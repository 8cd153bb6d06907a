"""Dataclass fields that carry their own help text: configurations and the command line's help are one text."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str) -> Any:
    """A dataclass field with a default (copied, if it is a dict) and the help text of the command line."""
    metadata = {"help": help}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)
