"""From the dataclass of a configuration to a parser, and back."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection
from typing import Any

from jsonargparse import Namespace

from ..io.options import hints_of, tuples
from .parser import Parser, add_option


def parser_of(config: type[Any], *, but: Collection[str] = ()) -> Parser:
    """Every field of a configuration as an option, `but` some; lists take several words, or none."""
    parser = Parser(description=(config.__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with any of these options; flags win over it")
    hints = hints_of(config)
    for field in dataclasses.fields(config):
        if field.name in but:
            continue
        default: Any = field.default_factory() if callable(field.default_factory) else field.default
        flag, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        hint = hints[field.name]
        lists = [kind for kind in (hint, *typing.get_args(hint)) if typing.get_args(kind)[1:] == (...,)]
        if lists:
            several = None if default is None else list(default)
            parser.add_argument(flag, type=typing.get_args(lists[0])[0], nargs="*", default=several, help=text)
        else:
            add_option(parser, flag, hint, default, text)
    return parser


def values_of(arguments: Namespace) -> dict[str, Any]:
    """The fields of a configuration; lists are tuples in it."""
    values = arguments.as_dict()
    values.pop("config")
    return tuples(values)
