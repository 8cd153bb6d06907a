"""What a method of a study is: the file that it has, options put over it, and the grid around it."""

from __future__ import annotations

import difflib
import itertools
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..io.options import check_type
from ..io.yaml import parse_yaml
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
        options = parse_yaml(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no method file at {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path} holds no options of capaboost train")
    for name, value in options.items():
        if name not in _HINTS:
            raise ValueError(f"{path}: {_no_option(name)}")
        if name in _DECIDED:
            raise ValueError(f"{path}: {name} is decided by the study: take it out")
        check_type(f"{path}: {name}", value, _HINTS[name])
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
        if name in _DECIDED:
            raise ValueError(f"{name} is decided by the study: it cannot be set")
        if name.startswith("method."):
            values["method"][name.removeprefix("method.")] = value
            continue
        if name not in _HINTS:
            raise ValueError(_no_option(name))
        check_type(name, value, _HINTS[name])
        if name == "method":
            values["method"] |= value
        else:
            values[name] = value
    return values


def _no_option(name: Any) -> str:
    near = difflib.get_close_matches(str(name), _HINTS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"capaboost train has no option {name!r}{hint}"


def points(grid: Mapping[str, list[Any]], options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the grid's values; options that the method does not have are left out.

    A value `x0.3` is 0.3 times the method's own, in three digits; a whole number stays one where it can.
    """
    axes = {}
    for name, values in grid.items():
        place, key = (
            (options["method"], name.removeprefix("method.")) if name.startswith("method.") else (options, name)
        )
        if place is options and key not in _HINTS:
            raise ValueError(f"--grid {name}: capaboost train has no such option")
        if place is not options and key not in place:
            continue
        default = place.get(key, getattr(TrainConfig(), key, None))
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
