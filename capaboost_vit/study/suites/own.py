"""A user's own suite: a YAML file with `tasks:`.

name: mine            # of the suite; without it, the name of the file
tasks:
  birds:              # the name of a task, with what differs from the defaults of Task
    data: pictures/birds
    classes: 12
  leaves:
    data: leaves.zip
    group: plants
    train: mixed(train)[:80%]
    val: mixed(train)[80%:]
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ...io.yaml import parse_yaml
from ...vision.data.expressions import parse_split
from .task import Suite, Task

_FIELDS = tuple(field.name for field in fields(Task) if field.name != "name")
_SIZES = ("train", "val", "full", "test")


def read_suite(path: Path, *, root: Path | None = None) -> Suite:
    """The suite of a file.

    Where `full` is not given, it is train and val together. Data that is there below `root` is taken from there; all
    other data is what `--data` of `capaboost train` takes.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no suite, by task and key.
    """
    try:
        content = parse_yaml(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    tasks = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(tasks, dict) or not tasks:
        raise ValueError(f"{path} has no `tasks:` with the tasks by name, such as {{birds: {{data: pictures/birds}}}}")
    _refuse_unknown(str(path), content, ("name", "tasks"))
    return Suite(
        str(content.get("name", path.stem)),
        tuple(_read_task(f"{path}, task {name}", str(name), values, root) for name, values in tasks.items()),
    )


def _read_task(where: str, name: str, values: Any, root: Path | None) -> Task:
    if not isinstance(values, dict) or not isinstance(values.get("data"), str) or not values["data"]:
        raise ValueError(f"{where} names no data: write `data:` and what --data of capaboost train takes")
    _refuse_unknown(where, values, _FIELDS)
    train, val = values.get("train", Task.train), values.get("val", Task.val)
    splits = {"train": train, "val": val, "test": values.get("test", Task.test)}
    splits["full"] = values.get("full", train if val is None else f"{train}+{val}")
    for key, split in splits.items():
        if not isinstance(split, str) and (key, split) != ("val", None):
            raise ValueError(f"{where}: {key} must be the name of a split, got {split!r}")
        if isinstance(split, str):
            _refuse_malformed(where, key, split)
    here = root / values["data"] if root is not None else None
    return Task(
        name,
        data=str(here) if here is not None and here.exists() else values["data"],
        group=_typed(where, values, "group", str, ""),
        classes=_typed(where, values, "classes", int, None),
        sizes=_sizes(where, _typed(where, values, "sizes", dict, {})),
        options=_typed(where, values, "options", dict, {}),
        notes=tuple(str(note) for note in _typed(where, values, "notes", list, [])),
        **splits,
    )


def _refuse_malformed(where: str, key: str, split: str) -> None:
    try:
        parse_split(split)
    except ValueError as error:
        raise ValueError(f"{where}: {key}: {error}") from None


def _typed(where: str, values: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = values.get(key, default)
    if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ValueError(f"{where}: {key} must be {_KINDS[kind]}, got {value!r}")
    return value


_KINDS = {str: "text", int: "a whole number", dict: "values by name", list: "a list"}


def _sizes(where: str, sizes: Mapping[str, Any]) -> dict[str, int | tuple[int, ...]]:
    _refuse_unknown(f"{where}, sizes", sizes, _SIZES)
    found: dict[str, int | tuple[int, ...]] = {}
    for key, value in sizes.items():
        several = value if isinstance(value, list) else [value]
        if not several or not all(isinstance(one, int) for one in several):
            raise ValueError(f"{where}: sizes: {key} must be a whole number, or a list of them, got {value!r}")
        found[key] = tuple(value) if isinstance(value, list) else value
    return found


def _refuse_unknown(where: str, values: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{where} has no option {key!r}{hint}; it takes: {', '.join(known)}")
