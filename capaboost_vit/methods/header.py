"""The header of an adapter file: required keys, types and ranges."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..io.options import check_value
from .index import make_method

_MOST = 100_000  # for any size: beyond it a list of so many numbers is made before anything can be compared
_MOST_BRANCHES = 10_000  # without masks no tensor of the file shows their number

_Fields = Mapping[str, tuple[Any, Mapping[str, Any]]]  # type and valid values by name, as `check_value` takes them
_HEADER: _Fields = {
    "base": (dict, {}),
    "methods": (tuple[dict, ...], {}),
    "head": (tuple[str, ...], {}),
    "trained_head": (tuple[str, ...], {}),
    "inside": (str, {}),
    "masks": (dict, {}),
    "class_names": (tuple[str, ...], {}),
    "num_classes": (int, {"low": 0, "high": 10_000_000}),
    "num_labels": (int, {"low": 0, "high": 10_000_000}),
    "model_args": (dict, {}),
    "input": (dict, {}),
    "text": (dict, {}),
    "temperature": (float, {"above": 0}),
}
_BASE: _Fields = {
    "architecture": (str, {}),
    "tag": (str | None, {}),
    "fingerprint": (str, {}),
    "merged": (tuple[dict, ...], {}),
    "folder": (str, {}),
}
_MERGED: _Fields = {"methods": (tuple[dict, ...], {}), "digest": (str, {})}
_MASK: _Fields = {"shape": (tuple[int, ...], {"low": 0}), "signed": (bool, {}), "first_is_ones": (bool, {})}
_TEXT: _Fields = {
    "task": (str | None, {}),
    "max_length": (int | None, {"low": 1, "high": _MOST}),
    "segments": (int | None, {"low": 1, "high": _MOST}),
    "no_answer_threshold": (float, {}),
}
_INPUT: _Fields = {
    "input_size": (tuple[int, int, int], {"low": 1, "high": _MOST}),
    "mean": (tuple[float, ...], {}),
    "std": (tuple[float, ...], {"above": 0}),
    "interpolation": (str, {}),
    "crop_pct": (float, {"above": 0, "high": 100}),
    "crop_mode": (str, {}),
    "task": (str, {"choices": ("classification", "multi-label", "regression")}),
    "scale": (tuple[float, float], {}),
}


class AdapterFileError(ValueError):
    """An adapter file that cannot be read, or that does not fit the model."""


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """A context in which any error that the content of a file causes becomes an AdapterFileError of one line."""
    try:
        yield
    except AdapterFileError:
        raise
    except Exception as error:  # by way of a header a file can make any code fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise AdapterFileError(f"{path} cannot be used: {reason[:500]}") from error


def completed(header: Mapping[str, Any]) -> dict[str, Any]:
    """A header with the keys that files of earlier releases lack: class names, temperature, trained head, its place."""
    earlier = {"class_names": [], "temperature": 1.0, "inside": "", "trained_head": header.get("head", [])}
    return {**earlier, **header}


def check_header(header: Mapping[str, Any]) -> None:
    """Checks the types and ranges of a header; keys that are not listed here are left to the reader.

    Raises ValueError, TypeError: a key is missing, a value has another type, is out of its range or not finite, or a
    method or option does not exist.
    """
    needed = {"base", "methods", "head", "masks"} | ({"num_classes", "input"} if "model_args" in header else set())
    _check("", header, _HEADER, needed)
    _check("base.", header["base"], _BASE, {"architecture", "fingerprint"})
    for entry in header["base"].get("merged", []):
        _check("base.merged.", entry, _MERGED, _MERGED)
    for name, mask in header["masks"].items():
        check_value(f"masks.{name}", mask, dict, {})
        _check(f"masks.{name}.", mask, _MASK, {"shape", "signed"})
    if "text" in header:
        _check("text.", header["text"], _TEXT, {"task", "max_length"})
    _check("input.", header.get("input", {}), _INPUT, ())
    for value in _leaves(header):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"it holds a number that is not finite, {value}")
    for record in header["methods"]:
        check_value("a method's name", record.get("method"), str, {})
        check_value(f"num_branches of {record['method']}", record.get("num_branches"), Any, {"high": _MOST_BRANCHES})
        make_method(**record)
    for part in ("base", "methods", "model_args"):
        check_small(part, header.get(part, {}))


def origin(header: Mapping[str, Any]) -> str:
    """The base, methods and number of classes of a file, for error messages."""
    base = header["base"]
    name = ".".join(part for part in (base.get("architecture"), base.get("tag")) if part) or "an unknown base"
    methods = " + ".join(method["method"] for method in header["methods"]) or "no method"
    classes = f", {header['num_classes']} classes" if "num_classes" in header else ""
    return f"it was made for {name} ({methods}{classes})"


def _check(prefix: str, values: Mapping[str, Any], fields: _Fields, needed: Collection[str]) -> None:
    for name, (hint, valid) in fields.items():
        if name in values:
            check_value(f"{prefix}{name}", values[name], hint, valid)
        elif name in needed:
            raise ValueError(f"{prefix}{name} is missing")


def check_small(what: str, values: Any) -> None:
    """Bounds the values that cost time before a size can be compared with a tensor, such as a long pattern."""
    leaves = list(_leaves(values))
    for leaf in leaves:
        if what == "model_args" and isinstance(leaf, (int, float)) and abs(leaf) > _MOST:
            raise ValueError(f"{what} has the number {leaf}, beyond {_MOST}")
    texts = [leaf for leaf in leaves if isinstance(leaf, str)]
    if len(leaves) > 1000 or any(len(text) > 1000 or not text.isprintable() for text in texts):
        raise ValueError(f"{what} has more than 1000 values, or one of more than 1000 characters or with control codes")


def _leaves(value: Any) -> Iterator[Any]:
    """The values of nested dicts and lists."""
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value
