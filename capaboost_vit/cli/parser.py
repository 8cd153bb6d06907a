"""The parser behind every command: from the dataclass of a configuration and back, and options that several share."""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from ..io.options import flag, hints_of, nearest, tuples
from ..methods import METHODS
from ..methods.index import takes_several


class Parser(ArgumentParser):
    """Says what is wrong in one line, with the nearest option, and exits with 2.

    `below` are its own subcommands, by name: parser and help.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.below: dict[str, tuple[Callable[[], Parser], str]] = {}

    def add_commands(self, commands: Mapping[str, tuple[Callable[[], Parser], str]], *, required: bool) -> None:
        """Adds subcommands and those below them, from the top as jsonargparse wants it."""
        added = self.add_subcommands(required=required)
        for name, (make_parser, text) in commands.items():
            parser = make_parser()
            added.add_subcommand(name, parser, help=text)
            if parser.below:
                parser.add_commands(parser.below, required=True)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", self)
        text = " ".join(str(message).split())
        start, required, names = text.partition("arguments are required: ")
        if required:
            parser, names = parser._locate(names.split(", "))
            text = f"{start}{required}{names}"
        missing = re.match(r'expected "([\w.]+\.)subcommand" to be one of \{(.*)\}', text)
        if missing:
            parser = parser._locate([missing[1]])[0]
            text = f"a command is missing: {missing[2].replace(',', ', ')}"
        prog = parser.prog.replace(" [options]", "")
        self.exit(2, f"{prog}: error: {text}{parser._nearest(text)}; see {prog} --help\n")

    def _locate(self, names: list[str]) -> tuple[Parser, str]:
        """The parser of the subcommand that misses what is called `eval.adapter` at the top, and how it calls it."""
        parser, prefix = self, ""
        for word in names[0].split("."):
            action = parser._subcommands_action
            if action is None or word not in action.choices:
                break
            parser, prefix = action.choices[word], f"{prefix}{word}."
        short = [name.removeprefix(prefix) for name in names]
        return parser, ", ".join(
            f"--{name}" if f"--{name}" in parser._option_string_actions else name for name in short
        )

    def _nearest(self, text: str) -> str:
        """What an unknown word in an error may have meant: a flag, the name of a YAML key, or a command elsewhere."""
        command = re.search(r"invalid choice: '([\w-]+)'", text)
        if command and self._subcommands_action:
            top = getattr(self, "parent_parser", self)  # an attribute that jsonargparse gives subcommands
            for parser in top._subcommands_action.choices.values():  # type: ignore[union-attr]
                if command[1] in parser.below:
                    return f" (did you mean {parser.prog.replace(' [options]', '')} {command[1]}?)"
        wrong = re.search(r"(unrecognized arguments: --|not accept option ')([\w.-]+)", text)
        if wrong is None:
            return ""
        names = {option.strip("-").replace("-", "_"): option for option in self._option_string_actions}
        name = wrong[2].replace("-", "_")
        longer = [option for option in names if option.startswith(name)]
        near = longer[0] if longer else nearest(name, names, cutoff=0.7)
        if near is None:
            return ""
        return f" (did you mean {names[near] if '--' in wrong[1] else repr(near)}?)"


def add_option(parser: Parser, flag: str, hint: Any, default: Any, text: str) -> None:
    """One option; a switch needs no value on the command line, as in timm, but takes true or false."""
    extra: dict[str, Any] = {"nargs": "?", "const": True} if hint is bool else {}
    parser.add_argument(flag, type=hint, default=default, help=text, **extra)


def parser_of(config: type[Any], *, but: Collection[str] = ()) -> Parser:
    """Every field of a configuration as an option, `but` some; lists take several words, or none."""
    parser = Parser(description=(config.__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with any of these options; flags win over it")
    hints = hints_of(config)
    for field in dataclasses.fields(config):
        if field.name in but:
            continue
        default: Any = field.default_factory() if callable(field.default_factory) else field.default
        name, text, hint = flag(field.name), field.metadata["help"], hints[field.name]
        lists = [kind for kind in (hint, *typing.get_args(hint)) if typing.get_args(kind)[1:] == (...,)]
        if lists:
            several = None if default is None else list(default)
            parser.add_argument(name, type=typing.get_args(lists[0])[0], nargs="*", default=several, help=text)
        else:
            add_option(parser, name, hint, default, text)
    return parser


def values_of(arguments: Namespace) -> dict[str, Any]:
    """The fields of a configuration; lists are tuples in it."""
    values = arguments.as_dict()
    values.pop("config")
    return tuples(values)


def add_method_options(parser: Parser) -> None:
    """`--method.name` and the options of all methods, each with the words and the type of every method that has it.

    Those left out keep the method's default. What is given is checked by the method itself (`make_method`).
    """
    parser.add_argument("--method.name", type=str | None, default=None, help=f"one of {', '.join(METHODS)}")
    uses: dict[str, dict[tuple[str, Any], list[str]]] = {}  # by option: methods by their words and type
    for name, method in METHODS.items():
        for field in dataclasses.fields(method):
            key = field.metadata["help"], hints_of(method)[field.name]
            uses.setdefault(field.name, {}).setdefault(key, []).append(name)
    for option, kinds in uses.items():
        text = "; ".join(f"{', '.join(names)}: {words}" for (words, _), names in kinds.items())
        hints = [hint for _, hint in kinds]
        if any(map(takes_several, hints)):
            parser.add_argument(f"--method.{option}", type=str, nargs="+", default=None, help=text)
        else:
            hint = functools.reduce(operator.or_, hints)
            parser.add_argument(f"--method.{option}", type=hint | None, default=None, help=text)


def method_options(arguments: Namespace) -> dict[str, Any]:
    """What was given of the options that `add_method_options` adds."""
    return {name: value for name, value in arguments.method.as_dict().items() if value is not None}
