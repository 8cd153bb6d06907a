"""The options of all methods, as `--method.name` and `--method.OPTION`."""

from __future__ import annotations

import dataclasses
import functools
import operator
from argparse import SUPPRESS
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from ..io.options import arguments_of, flag, hints_of
from ..methods import METHODS
from ..methods.index import takes_several
from .parser import Parser, add_option
from .values import Typed


def add_method_options(parser: Parser) -> None:
    """`--method.name` and the options of all methods, each with the words and the type of every method that has it.

    Those left out are in no namespace, and keep the method's default: null is a value of some of them. What is given is
    checked by the method itself (`make_method`).
    """
    add_option(
        parser, "--method.name", str | None, None, f"one of {', '.join(METHODS)}; null: that in the model's name"
    )
    uses: dict[str, dict[tuple[str, Any], dict[str, Any]]] = {}  # by option: by words and type, defaults by method
    for name, method in METHODS.items():
        for field in dataclasses.fields(method):
            key = field.metadata["help"], hints_of(method)[field.name]
            default = field.default_factory() if callable(field.default_factory) else field.default
            uses.setdefault(field.name, {}).setdefault(key, {})[name] = default
    for option, kinds in uses.items():
        name = flag(f"method.{option}")
        texts = [f"{', '.join(defaults)}: {text} ({_defaults(defaults)})" for (text, _), defaults in kinds.items()]
        hints = [hint for _, hint in kinds]
        if any(map(takes_several, hints)):
            item = Typed(name, arguments_of(hints[0], tuple)[0], {})
            parser.add_argument(name, type=item, nargs="+", default=SUPPRESS, help="; ".join(texts))
        else:
            add_option(parser, name, functools.reduce(operator.or_, hints), SUPPRESS, "; ".join(texts))


def _defaults(by_method: Mapping[str, Any]) -> str:
    """`default: 8; neat: 7`: the default of most methods, as it is typed, and those of the others."""
    methods: dict[str, list[str]] = {}
    for method, default in by_method.items():
        methods.setdefault(_as_typed(default), []).append(method)
    (usual, _), *others = sorted(methods.items(), key=lambda item: -len(item[1]))
    return "; ".join([f"default: {usual}", *(f"{', '.join(names)}: {default}" for default, names in others)])


def _as_typed(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def method_options(arguments: Namespace) -> dict[str, Any]:
    """What was given of the options that `add_method_options` adds."""
    values: dict[str, Any] = arguments.method.as_dict()
    return {name: value for name, value in values.items() if (name, value) != ("name", None)}
