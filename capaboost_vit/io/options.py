"""Dataclass fields that carry their own help text, and whether a value is of a field's type."""

from __future__ import annotations

import typing
from dataclasses import field
from numbers import Integral, Real
from typing import Any, Literal


def option(default: Any, help: str) -> Any:
    """A dataclass field with a default (copied, if it is a dict) and the help text of the command line."""
    metadata = {"help": help}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_type(what: str, value: Any, hint: Any) -> None:
    """Raises TypeError if a value is of none of a field's types; an integer, numpy's too, is also a float."""
    if not _fits(value, hint):
        raise TypeError(f"{what} must be {_in_words(hint)}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in kinds
    if origin is dict:
        return isinstance(value, dict)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        several = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
        return len(value) == len(several) and all(map(_fits, value, several))
    if kinds:
        return any(_fits(value, kind) for kind in kinds)
    if isinstance(value, bool):
        return hint is bool
    numbers = {int: Integral, float: Real}
    return isinstance(value, numbers.get(hint, hint))


def _in_words(hint: Any) -> str:
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, kinds))}"
    if origin is tuple:
        return "words" if kinds == (str, ...) else f"{len(kinds)} numbers"
    if origin is dict:
        return "values by name"
    return hint.__name__ if isinstance(hint, type) else str(hint)
