"""YAML as people write it, of JSON's values and of YAML 1.2's numbers: 1e-3 is one, and neither 2:4 nor a date is.

PyYAML follows 1.1, and trusts its input: aliases may stand for gigabytes, the last of two equal keys wins.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_MOST_VALUES, _MOST_DEPTH = 100_000, 50  # with what aliases stand for; each level takes frames of Python's stack
_TAG = "tag:yaml.org,2002:"
_VALUES = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_DIGITS = r"\d+(_\d+)*"
_NUMBERS = {
    f"{_TAG}int": rf"[-+]?{_DIGITS}$",
    f"{_TAG}float": rf"[-+]?({_DIGITS}\.?\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe one, with other numbers and no dates; a key that stands in a mapping twice is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, form) for tag, form in forms if tag not in (*_NUMBERS, f"{_TAG}timestamp")]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _VALUES
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in names:  # "2" is another key than 2
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark)
            names.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


for _tag, _form in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_form), list("-+.0123456789"))
_Loader.add_constructor(f"{_TAG}int", lambda loader, node: int(loader.construct_scalar(node)))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe one, which puts quotes around texts that the loader above would take for something else."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse_yaml(text: str, name: str = "the text") -> Any:
    """What a text holds: numbers, texts, lists, dicts; nothing is executed.

    Args:
        name: of the text, in messages.

    Raises:
        ValueError: it is no YAML, holds a key twice, is nested more than 50 deep, or stands with its aliases for more
            than 100,000 values.
    """
    try:
        _refuse_bombs(text)  # before anything is built, which recurses
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error  # of syntax, characters
        raise ValueError(f"{name} is no YAML: {place}{problem}") from error


def read_yaml(path: Path | Traversable) -> Any:
    """What a file holds. Raises FileNotFoundError, or ValueError as `parse_yaml` does."""
    try:
        return parse_yaml(path.read_text("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error


def format_yaml(values: Any) -> str:
    """The text from which `parse_yaml` reads these values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False)
    return text


def _refuse_bombs(text: str) -> None:
    """Adds up the values that a text stands for, its aliases written out, without building any."""
    sizes: dict[str, int] = {}  # values behind an anchor
    opened: list[tuple[str | None, int]] = []  # anchor, and values before it, of the collections around a place
    values, problem = 0, None
    for event in yaml.parse(text, _Loader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                problem = f"*{anchor} stands for nothing that ends before it"
            values += sizes.get(anchor or "", 0)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes |= {anchor: values - before} if anchor else {}
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((anchor, values - 1))
            elif anchor:
                sizes[anchor] = 1
        if len(opened) > _MOST_DEPTH:
            problem = f"it is nested more than {_MOST_DEPTH} deep"
        if values > _MOST_VALUES:
            problem = f"it holds more than {_MOST_VALUES:,} values"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]
