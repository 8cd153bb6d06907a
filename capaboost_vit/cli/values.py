"""Values of options, read from what is typed and from files, and checked; which file means which run."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from jsonargparse import ActionConfigFile

from ..io.options import check_value, flag
from ..io.yaml import parse_yaml, read_yaml


class ConfigFile(ActionConfigFile):
    """`--config FILE`: options by name, checked as those that are typed.

    The config.yaml of a run folder means the run that lies there now, wherever it was when the file was written.
    """

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        path = Path(values)
        try:
            options = read_yaml(path)
            if not isinstance(options, dict):
                raise ValueError(f"{path} holds no options by name, such as `lr: 1e-3`")
            for action, name, value in _flat(options, parser):
                if action is None or action is self or action.dest in ("help", "print_config"):
                    raise ValueError(f"{path}: no option {name!r}{parser.suggest_option(name, typed=False)}")
                try:
                    cfg[action.dest] = _of_file(action, value)
                except WrongValue as error:
                    raise ValueError(f"{path}: {error}") from error
        except OSError as error:
            raise argparse.ArgumentError(None, f"--config {path}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise argparse.ArgumentError(None, str(error)) from error
        if path.name == "config.yaml" and any(path.with_name(name).exists() for name in (".lock", "status.json")):
            cfg["output"] = str(path.parent)


@dataclasses.dataclass(frozen=True, eq=False)  # jsonargparse wants a hash of it
class Typed:
    """Type of an option: reads and checks what was typed, or what a file holds."""

    what: str
    hint: Any
    valid: Mapping[str, Any]

    def __call__(self, value: Any) -> Any:
        value = _read(value, self.hint) if isinstance(value, str) else value
        try:
            check_value(self.what, value, self.hint, self.valid)
        except (TypeError, ValueError) as error:
            raise WrongValue(str(error)) from error
        return float(value) if type(value) is int and float in (self.hint, *typing.get_args(self.hint)) else value

    def __repr__(self) -> str:
        """The type as --help names it: `int or null`."""
        kinds = _kinds_of(self.hint)
        words = typing.get_args(kinds[-1]) if float in kinds else ("str",)  # those of a Literal alone are its metavar
        return " or ".join(
            " or ".join(words) if typing.get_origin(kind) is Literal else "null" if kind is NoneType else kind.__name__
            for kind in kinds
        )


class Numbers(argparse.Action):
    """`--scale 0.5 1`, or as one word as in YAML: `--scale "[0.5, 1]"`; how many, the option's type says."""

    def __init__(self, *, typed: Typed, **kwargs: Any) -> None:
        super().__init__(nargs="+", **kwargs)
        self.typed = typed

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        text = values[0] if len(values) == 1 else f"[{', '.join(values)}]"
        try:
            setattr(cfg, self.dest, self.typed(text))
        except WrongValue as error:
            raise argparse.ArgumentError(None, str(error)) from error


class WrongValue(argparse.ArgumentTypeError, ValueError):
    """argparse shows the text of the one, jsonargparse that of the other."""


def _kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of any other type that alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _read(text: str, hint: Any) -> Any:
    """What a text means where a value of that type is expected."""
    kinds = _kinds_of(hint)
    if NoneType in kinds and text == "null":
        return None
    if all(kind in (str, NoneType) or typing.get_origin(kind) is Literal for kind in kinds):
        return text  # the name 007 is no number
    try:
        value = parse_yaml(text)
    except ValueError:
        return text
    return text if value is None else value


def _flat(options: Mapping[str, Any], parser: Any) -> Iterator[tuple[argparse.Action | None, str, Any]]:
    """The options of a file with their actions, those of a method by their names on the command line."""
    for name, value in options.items():
        action = parser._option_string_actions.get(flag(str(name)))
        if action is None and name == "method" and isinstance(value, Mapping):
            for key, item in value.items():
                yield parser._option_string_actions.get(flag(f"method.{key}")), f"method.{key}", item
        else:
            yield action, str(name), value


def _of_file(action: argparse.Action, value: Any) -> Any:
    """A value as the option's action would have left it."""
    if isinstance(action, Numbers):
        return action.typed(value)
    if action.nargs in ("*", "+"):
        items = value if isinstance(value, list) else [value]
        return None if value is None else [action.type(item) if action.type else item for item in items]  # type: ignore[operator]
    return value if action.type is None else action.type(value)  # type: ignore[operator]
