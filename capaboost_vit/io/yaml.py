"""YAML as people write it: 1e-3 is a number, as in JSON and YAML 1.2; PyYAML follows 1.1 and takes it for text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


class _Loader(yaml.SafeLoader):
    """PyYAML's safe one, and numbers with an exponent but without a point or a sign behind the e."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """What a text holds: numbers, texts, lists, dicts; nothing is executed. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def read_yaml(path: Path | Traversable) -> Any:
    """What a file holds. Raises FileNotFoundError, or ValueError if it is no YAML."""
    try:
        return parse_yaml(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
