"""What a method of a study is: the file that it has, options put over it, and the grid around it."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..io.options import check_type, suggest
from ..io.yaml import read_yaml
from ..methods import make_method
from ..vision.config import TrainConfig
from ..vision.registry import parse_name

# a method stands in files as a dict, which is made one when it is resolved
_HINTS = {**typing.get_type_hints(TrainConfig), "method": dict[str, Any]}
# what the study decides, and no file of a method
_DECIDED = ("data", "output", "seed", "shots", "train_split", "val_split", "test_split", "resume", "overwrite")


def read_method(path: Path) -> dict[str, Any]:
    """The options in a method's file, its method resolved: every option of it stands there, and `name`.

    Raises:
        FileNotFoundError, ValueError, TypeError: no such file, one that is no configuration of `capaboost train`, that
            names no method, or that decides what the study decides.
    """
    try:
        options = read_yaml(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"no method file at {path}") from None
    if not isinstance(options, dict):
        raise ValueError(f"{path} holds no options of capaboost train")
    for name, value in options.items():
        _check(f"{path}: ", name, value)
    implied = parse_name(options.get("model", ""))
    method = dict(options.get("method", {}))
    name = method.pop("name", implied[1] if implied else None)
    if name is None:
        raise ValueError(f"{path} names no method: add `method: {{name: lora}}` or the like")
    return {**options, "method": resolved(name, **method)}


def resolved(name: str, **options: Any) -> dict[str, Any]:
    """A method with all its options, but for seeds of its own that nobody chose: they follow the training seed."""
    values = make_method(name, **options).options()
    for seed in {"init_seed", "mask_seed"} - options.keys():
        values.pop(seed, None)
    return {"name": name, **values}


def over(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Options with others over them, given by name; `method.rank` or a dict `method` reach into the method.

    Raises:
        TypeError, ValueError: one of the wrong type, or that the study decides.
    """
    values = {**options, "method": dict(options["method"])}
    for name, value in overrides.items():
        if str(name).startswith("method."):
            values["method"][name.removeprefix("method.")] = value
            continue
        _check("", name, value)
        values[name] = {**values["method"], **value} if name == "method" else value
    return values


def _check(where: str, name: Any, value: Any) -> None:
    """Raises unless this is an option of `capaboost train` that a method may have, and a value of its type."""
    _check_name(where, name)
    check_type(f"{where}{name}", value, _HINTS[name])


def _check_name(where: str, name: Any) -> None:
    if name not in _HINTS:
        raise ValueError(f"{where}capaboost train has no option {name!r}{suggest(name, _HINTS)}")
    if name in _DECIDED:
        raise ValueError(f"{where}{name} is decided by the study: take it out")


def points(grid: Mapping[str, list[Any]], options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the grid's values; options that the method does not have are left out.

    A value `x0.3` is 0.3 times the method's own, in three digits; a whole number stays one where it can.
    """
    axes = {}
    for name, values in grid.items():
        if str(name).startswith("method."):
            key = name.removeprefix("method.")
            if key not in options["method"]:
                continue
            default = options["method"][key]
        else:
            _check_name("--grid: ", name)
            default = options.get(name, getattr(TrainConfig(), name))
        axes[name] = [_value(value, default, f"--grid {name}") for value in values]
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def _value(value: Any, default: Any, flag: str) -> Any:
    if not isinstance(value, str) or not value.startswith("x"):
        return value
    try:
        number = float(f"{float(value[1:]) * float(default):.3g}")
    except (TypeError, ValueError):
        raise ValueError(f"{flag}: {value!r} is no multiple of the method's own {default!r}") from None
    return int(number) if isinstance(default, int) and number.is_integer() else number
