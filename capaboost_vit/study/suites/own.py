"""A user's own suite: a YAML file with `tasks:`.

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
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...io.options import check_type, suggest, tuples
from ...io.yaml import read_yaml
from ...vision.data.expressions import parse_split
from .task import Suite, SuiteTask

_HINTS = {name: hint for name, hint in typing.get_type_hints(SuiteTask).items() if name != "name"}
_SPLITS = ("train", "val", "full", "test")


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
    _refuse_unknown(str(path), content, ("name", "tasks"))
    return Suite(
        str(content.get("name", path.stem)),
        tuple(_read_task(f"{path}, task {name}", str(name), values, root) for name, values in tasks.items()),
    )


def _read_task(where: str, name: str, values: Any, root: Path | None) -> SuiteTask:
    if not isinstance(values, dict) or not isinstance(values.get("data"), str) or not values["data"]:
        raise ValueError(f"{where} names no data: write `data:` and what --data of capaboost train takes")
    _refuse_unknown(where, values, _HINTS)
    for key, value in values.items():
        check_type(f"{where}: {key}", value, _HINTS[key])
    _refuse_unknown(f"{where}, sizes", values.get("sizes", {}), _SPLITS)
    for key, value in values.get("sizes", {}).items():
        check_type(f"{where}: sizes: {key}", value, int | tuple[int, ...])
    options = tuples(values)
    train, val = options.get("train", SuiteTask.train), options.get("val", SuiteTask.val)
    options.setdefault("full", train if val is None else f"{train}+{val}")
    for key in _SPLITS:
        if options.get(key) is not None:
            try:
                parse_split(options[key])
            except ValueError as error:
                raise ValueError(f"{where}: {key}: {error}") from None
    if root is not None and (root / values["data"]).exists():
        options["data"] = str(root / values["data"])
    if "sizes" in options:
        options["sizes"] = tuples(options["sizes"])
    return SuiteTask(name, **options)


def _refuse_unknown(where: str, values: Mapping[Any, Any], names: Collection[str]) -> None:
    for key in values:
        if key not in names:
            raise ValueError(f"{where} has no option {key!r}{suggest(key, names)}; it takes: {', '.join(names)}")
