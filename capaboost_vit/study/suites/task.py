"""A suite: its tasks, each with its data, which of its images serve what, and what readers must be told of its numbers.

A user's own suite is a YAML file with `tasks:`.

name: mine            # of the suite; without it, the name of the file
tasks:
  birds:              # the name of a task, with what differs from the defaults of SuiteTask
    data: pictures/birds
    classes: 12
  leaves:
    data: leaves.zip
    group: plants
    train: mixed(train)[:80%]
    val: mixed(train)[80%:]
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from ...io.options import check_type, suggest, tuples
from ...io.yaml import read_yaml
from ...vision.data import parse_split
from ..methods import check_option

SPLITS = ("train", "val", "full", "test")


@dataclass(frozen=True)
class SuiteTask:
    """One data set with its protocol. The splits are names or expressions, as `--train-split` takes them.

    Args:
        data: what `--data` of `capaboost train` takes.
        group: natural, specialised, structured, or the user's own word.
        classes: how many there must be; None: not asserted.
        sizes: how many images train, val, full and test must have, or which numbers are accepted.
        train, val: what candidates are trained on and chosen by; val is None where nothing can be chosen.
        full: what the final runs are trained on.
        test: used once, at the end of a final run.
        options: more options of `capaboost train`, such as `label_column`; on this task they win over a method's file.
        notes: what must stand beside every number of this task.
    """

    name: str
    data: str
    group: str = ""
    classes: int | None = None
    sizes: dict[str, int | tuple[int, ...]] = field(default_factory=dict)
    train: str = "train"
    val: str | None = "val"
    full: str = "train+val"
    test: str = "test"
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Tasks that are reported together; `missing` says of those without data why there is none, by name."""

    name: str
    tasks: tuple[SuiteTask, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataLayout:
    """What lies at a path where the data of a task may be.

    Args:
        table: whether it is of parquet, metadata files and the like; else lists, or folders of splits.
        splits: the names of its lists, folders or parquet files.
        jpeg: whether the first image of the first list is a JPEG; false for everything else.
    """

    path: Path
    table: bool
    splits: frozenset[str]
    jpeg: bool = False


Item = TypeVar("Item")


def matching_tasks(tasks: Mapping[str, Item], patterns: Sequence[str]) -> list[Item]:
    """Of tasks by name those that any of the names or wildcards match, in their own order.

    Raises:
        ValueError: one that matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in tasks):
            raise ValueError(f"--tasks: nothing is called {pattern!r}; there are {', '.join(tasks)}")
    return [task for name, task in tasks.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]


def read_rows(file: str) -> list[dict[str, Any]]:
    """The tasks that a YAML file of this folder holds by name, each with its `name`."""
    return [{"name": name, **row} for name, row in read_yaml(resources.files(__package__) / file).items()]


def read_suite(path: Path, *, root: Path | None = None) -> Suite:
    """The suite of a file.

    Where `full` is not given, it is train and val together. Data that is there below `root` is taken from there; all
    other data is what `--data` of `capaboost train` takes.

    Raises:
        FileNotFoundError: no such file. ValueError, TypeError: it is no suite, by task and key.
    """
    content = read_yaml(path)
    tasks = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(tasks, dict) or not tasks:
        raise ValueError(f"{path} has no `tasks:` with the tasks by name, such as {{birds: {{data: pictures/birds}}}}")
    _check(str(path), content, {"name": str, "tasks": dict[Any, Any]})
    if len(set(map(str, tasks))) < len(tasks):
        raise ValueError(f"{path}: two tasks are called the same: rename one")
    return Suite(
        str(content.get("name", path.stem)),
        tuple(_read_task(f"{path}, task {name}", str(name), values, root) for name, values in tasks.items()),
    )


_HINTS = {name: hint for name, hint in typing.get_type_hints(SuiteTask).items() if name != "name"}


def _read_task(where: str, name: str, values: Any, root: Path | None) -> SuiteTask:
    if not isinstance(values, dict) or not isinstance(values.get("data"), str) or not values["data"]:
        raise ValueError(f"{where} names no data: write `data:` and what --data of capaboost train takes")
    _check(where, values, _HINTS)
    sizes = values.get("sizes", {})
    _check(f"{where}, sizes", sizes, dict.fromkeys(SPLITS, int | tuple[int, ...]))
    for key, value in values.get("options", {}).items():
        if key == "method":
            raise ValueError(f"{where}, options: a method is a file of --methods, the same for all tasks: take it out")
        check_option(f"{where}, options: ", key, value)
    options = {**tuples(values), "sizes": tuples(sizes)}
    train, val = options.get("train", SuiteTask.train), options.get("val", SuiteTask.val)
    options.setdefault("full", train if val is None else f"{train}+{val}")
    for key in SPLITS:
        if options.get(key) is not None:
            try:
                parse_split(options[key])
            except ValueError as error:
                raise ValueError(f"{where}: {key}: {error}") from None
    if root is not None and (root / values["data"]).exists():
        options["data"] = str(root / values["data"])
    return SuiteTask(name, **options)


def _check(where: str, values: Mapping[Any, Any], hints: Mapping[str, Any]) -> None:
    """Raises unless all keys are among those of `hints`, and the values of these types."""
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f"{where} has no option {key!r}{suggest(key, hints)}; it takes: {', '.join(hints)}")
        check_type(f"{where}: {key}", value, hints[key])
