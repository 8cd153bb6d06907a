"""The registry of methods by name, and how a method is made from its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ..io.options import arguments_of, flag, hints_of, suggest
from .method import MaskedMethod, Method

M = TypeVar("M", bound=type[Method])
METHODS: dict[str, type[Method]] = {}
_MASKS = {field.name for field in dataclasses.fields(MaskedMethod)} - {"init_seed"}
_LISTENERS: list[Callable[[type[Method]], None]] = []


def register(method: M) -> M:
    """Registers a method by its name; a class decorator.

    Raises:
        ValueError: the class has no name that is an identifier, or another class has this name.
        TypeError: the class is no dataclass, or a field was not made by `option`, which gives it its help.
    """
    name = getattr(method, "name", None)
    if "__dataclass_fields__" not in vars(method):
        raise TypeError(f"{method.__name__} is no dataclass: put @dataclass(frozen=True) below @register")
    for field in dataclasses.fields(method):
        if "help" not in field.metadata:
            raise TypeError(f"{method.__name__}.{field.name} needs a help: {field.name}: ... = option(default, help)")
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{method.__name__} needs `name: ClassVar[str]`, a word by which it is called, got {name!r}")
    if METHODS.setdefault(name, method) is not method:
        raise ValueError(f"there is a method {name!r} already, {METHODS[name].__module__}.{METHODS[name].__name__}")
    for listener in _LISTENERS:
        listener(method)
    return method


def on_register(listener: Callable[[type[Method]], None]) -> None:
    """Calls a function with each method that is registered now or later."""
    _LISTENERS.append(listener)
    for method in METHODS.values():
        listener(method)


def find_method(name: str) -> type[Method]:
    """The class of a method. Raises ValueError, with the nearest name, for an unknown method."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}{suggest(name, METHODS)}: choose from {', '.join(METHODS)}")
    return METHODS[name]


def option_names(method: str) -> list[str]:
    """Names of a method's options. Raises ValueError for an unknown method."""
    return [field.name for field in dataclasses.fields(find_method(method))]


def no_option(what: str, method: str, name: str) -> str:
    """The error for an option that a method, called `what`, does not have.

    Why it takes no masks, if the option is one of masks; else whose it is, or what it may have meant.
    """
    names = option_names(method)
    if name in _MASKS and (reason := find_method(method).why_no_masks):
        return f"{what} takes no masks, as {reason}: leave out {name!r}"
    owner = owner_of(name)
    hint = f" (that is {owner}'s)" if owner else suggest(name, names)
    return f"{what} has no option {name!r}{hint}; it has: {', '.join(names) or 'none'}"


def owner_of(option: str) -> str | None:
    """The first method that has this option, or None."""
    return next((method for method in METHODS if option in option_names(method)), None)


def make_method(method: str, **options: Any) -> Method:
    """A method with these options, checked.

    Raises:
        ValueError: an unknown method, with the nearest name, or a value out of range.
        TypeError: an option that the method does not have, or a value of another type.
    """
    cls, names = find_method(method), option_names(method)
    for name in options:
        if name not in names:
            raise TypeError(no_option(f"method {method!r}", method, name))
    made = cls(**{name: _as_tuple(value, hints_of(cls)[name]) for name, value in options.items()})
    object.__setattr__(made, "given", ("name", *options))
    return made


def method_of(options: Mapping[str, Any], *, implied: str | None = None) -> Method | None:
    """The method of a configuration's dict such as `{name: lora, rank: 4}`, or None if nothing names a method.

    Args:
        implied: the method in the model's name, used if the dict has no `name`.

    Raises ValueError for options without a method, and what `make_method` raises.
    """
    values = dict(options)
    name = values.pop("name", None) or implied
    if name is None:
        if values:
            raise ValueError(f"{flag('method.' + next(iter(values)))} is an option of no method: say --method.name too")
        return None
    made = make_method(name, **values)
    object.__setattr__(made, "given", tuple(options))  # without `name` where the model's name implies it
    return made


def takes_several(hint: Any) -> bool:
    """Whether an option of this type takes several values."""
    return bool(arguments_of(hint, tuple))


def _as_tuple(value: Any, hint: Any) -> Any:
    if not takes_several(hint):
        return value
    return (value,) if isinstance(value, str | int) else tuple(value) if isinstance(value, Iterable) else value
