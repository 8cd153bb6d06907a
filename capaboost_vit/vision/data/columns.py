"""Which column of a table holds the images, and which the labels."""

from __future__ import annotations

from typing import Any

_IMAGE_NAMES = ("image", "img", "picture", "photo")
_LABEL_NAMES = ("label", "labels", "class", "fine_label", "class_label", "category", "target")


def image_column(spec: str, features: dict[str, Any], asked: str | None = None) -> str:
    """The one column of images by its type; else of bytes, by a usual name.

    Raises:
        ValueError: the column asked for is not there, or there is none or several.
    """
    from datasets import Image, Value

    if asked is not None:
        return _asked(spec, features, asked, "--image-column")
    found = [name for name, kind in features.items() if isinstance(kind, Image)]
    if not found:
        encoded = [name for name, kind in features.items() if kind == Value("binary") or _is_encoded(kind)]
        found = [name for name in encoded if name.lower() in _IMAGE_NAMES]
    return _single(spec, features, found, "image", "--image-column")


def label_column(spec: str, features: dict[str, Any], asked: str | None = None) -> str:
    """The one column of classes by its type; else the first usual name among the others.

    Raises:
        ValueError: the column asked for is not there, or there is none or several, or it holds several labels each.
    """
    from datasets import ClassLabel, Value

    if asked is None:
        found = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
        if not found:
            found = [name for name in features if name.lower() in _LABEL_NAMES]
        asked = _single(spec, features, found, "label", "--label-column")
    _asked(spec, features, asked, "--label-column")
    if not isinstance(features[asked], ClassLabel | Value):
        raise ValueError(f"{spec}: the column {asked!r} holds {features[asked]}, not one label for each image")
    return asked


def _is_encoded(kind: Any) -> bool:
    """How pandas and others write images: {bytes, path}."""
    return isinstance(kind, dict) and set(kind) == {"bytes", "path"}


def _asked(spec: str, features: dict[str, Any], asked: str, flag: str) -> str:
    if asked not in features:
        raise ValueError(f"{flag} {asked}: {spec} has no such column; it has: {', '.join(features)}")
    return asked


def _single(spec: str, features: dict[str, Any], found: list[str], what: str, flag: str) -> str:
    if len(found) == 1:
        return found[0]
    problem = f"has several {what} columns ({', '.join(found)})" if found else f"has no {what} column that is known"
    raise ValueError(f"{spec} {problem}: choose one of its columns with {flag}: {', '.join(features)}")
