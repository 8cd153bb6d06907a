"""Options as dataclass fields: their help, type, range and choices in one place, and the one check of them all."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import operator
import struct
import typing
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Literal


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    off: float | None = None,
    nonzero: bool = False,
    choices: Iterable[str] | Callable[[], Iterable[str]] = (),
    compared: bool = True,
    metavar: tuple[str, ...] = (),
    several: bool = False,
) -> Any:
    """A dataclass field with a default (copied, if it is a dict), the help of the command line, and its valid values.

    None is valid where the type says so; of a tuple each item has to be in the range, or among the choices. Numbers
    are finite in float32, and only 0 is 0 there.

    Args:
        low: the least value. above: a bound that is not reached itself. high, below: likewise from the other side.
        off: a value out of the range that is valid too, as it switches off what the option is for.
        nonzero: 0 is not valid, as what it scales would not be trained.
        choices: the words to choose from, where the type is no Literal that names them. A function gives the names of
            another library, whatever the case of their letters; it is not called for the default.
        compared: of a method: whether an adapter file and the model that loads it must agree on the option. Not on one
            that the stored tensors show themselves (shapes, masks), or that matters in training only.
        metavar: what its values are called in the help of the command line.
        several: of a text that may be given as several words, which the configuration joins.
    """
    names = choices if callable(choices) else tuple(choices)
    valid = {"low": low, "above": above, "high": high, "below": below, "off": off, "choices": names, "nonzero": nonzero}
    valid |= {"default": default, "metavar": metavar, "several": several}
    metadata = {"help": help, "compared": compared, **valid}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """A field as it is typed."""
    return f"--{name.replace('_', '-')}"


def check_options(config: Any, what: Callable[[str], str] = flag) -> None:
    """Checks the fields of a dataclass that `option` made; one that is defined anew keeps the range of its base class.

    Args:
        what: how messages name a field.

    Raises:
        TypeError: a value is not of its field's type. ValueError: it is out of range, or none of the choices.
    """
    for cls in filter(dataclasses.is_dataclass, type(config).__mro__):
        hints = hints_of(cls)
        for field in dataclasses.fields(cls):
            check_value(what(field.name), getattr(config, field.name), hints[field.name], field.metadata)


def check_value(what: str, value: Any, hint: Any, valid: Mapping[str, Any]) -> None:
    """Checks a value against a type and what is valid, as `option` names it; raises as `check_options` does."""
    choices = valid.get("choices") or words_of(hint)
    if value is None or not choices:
        check_type(what, value, hint)
    for item in value if isinstance(value, (list, tuple)) and _fits(value, hint) else (value,):
        if item is None:
            continue
        if callable(choices) and item == valid.get("default"):  # what gives the names may take seconds to import
            continue
        if choices:
            _check_choice(what, item, choices)
        if isinstance(item, Real) and not isinstance(item, bool) and item != valid.get("off"):
            if not _in_range(item, valid):
                off = "" if valid.get("off") is None else f"be {valid['off']}, or "
                raise ValueError(f"{what} must {off}{_range_in_words(valid)}, got {item}")
            if valid.get("nonzero") and not item:
                raise ValueError(f"{what} must not be 0: what it scales would not be trained")
            if not math.isfinite(number := _in_float32(item)) or (item and not number):
                raise ValueError(f"{what} must be finite{'' if number else ' and not 0'} in float32, got {item}")


def _in_float32(value: Any) -> float:
    """A number as float32, in which it enters the computation: 1e300 is inf there, 1e-300 is 0."""
    try:
        number: float = struct.unpack("f", struct.pack("f", float(value)))[0]
    except OverflowError:
        return math.inf
    return number


def _check_choice(what: str, item: Any, choices: Any) -> None:
    names = tuple(choices()) if callable(choices) else choices
    if item in names or (callable(choices) and str(item).lower() in names):
        return
    listed = f"{', '.join(names[:-1])} or {names[-1]}" if names[1:] else names[0]
    if callable(choices):  # there may be hundreds
        listed = f"one of {len(names)} names such as {', '.join(names[:3])}"
    raise ValueError(f"{what} must be {listed}, got {_shown(item)}{suggest(item, names)}")


def check_type(what: str, value: Any, hint: Any) -> None:
    """Raises TypeError if a value is of none of a field's types; an integer, numpy's too, is also a float."""
    if not _fits(value, hint):
        raise TypeError(f"{what} must be {_type_in_words(hint)}, got {_shown(value)}")


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options as YAML, JSON and the command line give them, with tuples for lists, as configurations hold them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def suggest(word: Any, choices: Iterable[Any], *, cutoff: float = 0.6) -> str:
    """` (did you mean 'x'?)` with the choice most like a misspelt word; nothing where none is like it.

    Args:
        cutoff: how like it has to be, from 0 to 1, as in difflib.
    """
    near = nearest(word, choices, cutoff=cutoff)
    return "" if near is None else f" (did you mean {near!r}?)"


def nearest(word: Any, choices: Iterable[Any], *, cutoff: float = 0.6) -> str | None:
    """The choice most like a misspelt word, whatever the case of its letters; None where none is like it."""
    by_lower = {str(choice).lower(): str(choice) for choice in choices}
    near = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


# the types of a dataclass's fields; evaluating its annotations takes about a millisecond: once is enough
hints_of: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def _shown(value: Any) -> str:
    """A value in one line of a message, however long it is."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def arguments_of(hint: Any, origin: Any) -> tuple[Any, ...]:
    """The arguments of a type of this origin, alone or in a union: of `Literal["a", "b"] | None` the words a and b."""
    kinds = typing.get_args(hint)
    below = (arguments_of(kind, origin) for kind in kinds)
    return kinds if typing.get_origin(hint) is origin else next(filter(None, below), ())


def words_of(hint: Any) -> tuple[Any, ...]:
    """The words of a Literal, alone or beside None; none of a type that takes numbers, too."""
    return () if float in typing.get_args(hint) else arguments_of(hint, Literal)


_BOUNDS = {"low": operator.ge, "above": operator.gt, "high": operator.le, "below": operator.lt}


def _in_range(value: Any, valid: Mapping[str, Any]) -> bool:
    # every comparison with NaN is false, so that it lies in no range
    return all(holds(value, valid[name]) for name, holds in _BOUNDS.items() if valid.get(name) is not None)


def _range_in_words(valid: Mapping[str, Any]) -> str:
    low, above, high, below = map(valid.get, _BOUNDS)
    if high is None and below is None:
        return f"be at least {low}" if above is None else "be positive" if above == 0 else f"be above {above}"
    if low is None and above is None:
        return f"be at most {high}" if below is None else f"be below {below}"
    start = f"[{low}" if above is None else f"({above}"
    end = f"{high}]" if below is None else f"{below})"
    return f"lie in {start}, {end}"


def _fits(value: Any, hint: Any) -> bool:
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
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
    if isinstance(value, bool):  # an int to Python
        return hint is bool
    numbers = {int: Integral, float: Real}
    return isinstance(value, numbers.get(hint, hint))


def _type_in_words(hint: Any) -> str:
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if float in kinds and arguments_of(hint, Literal):
        return f"float or {' or '.join(arguments_of(hint, Literal))}"
    if origin is Literal:
        return f"one of {', '.join(map(str, kinds))}"
    if origin is tuple:
        several = "words" if kinds[0] is str else f"a list of {kinds[0].__name__}"
        return several if kinds[1:] == (...,) else f"{len(kinds)} numbers"
    if origin is dict:
        return "values by name"
    return hint.__name__ if isinstance(hint, type) else str(hint)
