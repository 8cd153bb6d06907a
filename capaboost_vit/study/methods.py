"""What a method of a study is: the file that it has, options put over it, and the grid around it."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..io.options import check_type, suggest
from ..io.yaml import read_yaml
from ..methods import make_method
from ..vision.config import TrainConfig
from ..vision.registry import parse_name

# a method stands in files as a dict, which is made one when it is resolved
_HINTS = {**typing.get_type_hints(TrainConfig), "method": dict[str, Any]}
# what the study decides, and no option of a method or of a task: what to do instead
_DECIDED = dict.fromkeys(
    ("data", "output", "seed", "train_split", "val_split", "test_split", "resume", "overwrite", "allow_config_change"),
    "take it out",
)
_DECIDED |= {"shots": "say --shots", "model": "say --backbone", "initial_checkpoint": "say --initial-checkpoint"}
# the study takes these from the methods' files if its own flags do not name them
_BACKBONE = ("model", "initial_checkpoint")


def read_method(path: Path) -> dict[str, Any]:
    """The options in a method's file, its method resolved: every option of it stands there, and `name`.

    `model`, without the method that its name may bring, and `initial_checkpoint` are those of the file, if it has them.

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
        check_option(f"{path}: ", name, value, allowed=_BACKBONE)
    model = options.get("model", "")
    implied = parse_name(model)
    if implied is not None:
        options["model"] = "".join((implied[0], *model.partition(".")[1:]))
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
        check_option("", name, value)
        values[name] = {**values["method"], **value} if name == "method" else value
    return values


def check_option(where: str, name: Any, value: Any, *, allowed: Collection[str] = ()) -> None:
    """Raises unless this is an option of `capaboost train` that the study leaves open, and a value of its type.

    Args:
        where: begins the message.
        allowed: options that stand here though the study decides them.
    """
    _check_name(where, name, allowed)
    check_type(f"{where}{name}", value, _HINTS[name])
    if (name, value) == ("lr", "auto"):
        raise ValueError(f"{where}lr auto is for a run alone: a study takes a number, or finds one by study tune")


def _check_name(where: str, name: Any, allowed: Collection[str] = ()) -> None:
    if name not in _HINTS:
        raise ValueError(f"{where}capaboost train has no option {name!r}{suggest(name, _HINTS)}")
    if name in _DECIDED and name not in allowed:
        raise ValueError(f"{where}{name} is decided by the study: {_DECIDED[name]}")


def points(grid: Mapping[str, list[Any]], options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the grid's values; options that the method does not have are left out.

    A value `x0.3` is 0.3 times the method's own, in three digits; a whole number stays one where it can.
    """
    axes = {name: [times_own(v, own, f"--grid {name}") for v in values] for name, values, own in axes_of(grid, options)}
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def axes_of(grid: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, entry and the method's own value of each option of a grid; those that the method lacks are left out."""
    for name, entry in grid.items():
        if not str(name).startswith("method."):
            _check_name("--grid: ", name)
            yield name, entry, options.get(name, getattr(TrainConfig(), name))
        elif (key := name.removeprefix("method.")) in options["method"]:
            yield name, entry, options["method"][key]


def times_own(value: Any, own: Any, where: str) -> Any:
    """`x0.3` as 0.3 times the method's own value, in three digits; other values as they are."""
    if not isinstance(value, str) or not value.startswith("x"):
        return value
    try:
        number = float(f"{float(value[1:]) * float(own):.3g}")
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {value!r} is no multiple of the method's own {own!r}") from None
    return int(number) if isinstance(own, int) and number.is_integer() else number
