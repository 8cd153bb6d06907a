"""From the name of a suite, or the file of a user's own, to its tasks with their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import fgvc, vtab1k
from .fgvc import FineGrained
from .own import read_suite
from .places import look_at
from .task import Suite, SuiteTask, choose
from .vtab1k import Vtab

HUB = "hub"


SUITES: dict[str, Sequence[Vtab | FineGrained]] = {"vtab1k": vtab1k.TASKS, "fgvc": fgvc.TASKS}
SYNTHETIC = "synthetic_vtab1k"


@dataclass(frozen=True)
class FoundTasks:
    """The tasks whose data is there, and why it is not for the others, by name."""

    suite: Suite
    missing: Mapping[str, str]


def open_suite(spec: str, *, data: str | None, tasks: Sequence[str] = ("*",)) -> Suite:
    """The tasks of a suite, all of them with their data.

    Args:
        spec: vtab1k, fgvc, synthetic_vtab1k, or a YAML file with `tasks:` (see `own`).
        data: the folder that holds a folder or a .zip per task, or `hub`. Where a task is found in several ways, lists
            of VTAB-1k win over sets of the hub that were downloaded, and those with VTAB-1k's own splits over others.
        tasks: names or wildcards.

    Raises:
        FileNotFoundError: no data for a task: the places that were looked at, and what to do.
        ValueError: no such suite or task, or no data named.
    """
    tasks_there = find_tasks(spec, data=data, tasks=tasks)
    if tasks_there.missing:
        name, reason = next(iter(tasks_there.missing.items()))
        others = list(tasks_there.missing)[1:]
        also = f" (nor for {', '.join(others)})" if others else ""
        raise FileNotFoundError(f"no data for {name}{also}: {reason}")
    return tasks_there.suite


def find_tasks(spec: str, *, data: str | None, tasks: Sequence[str] = ("*",)) -> FoundTasks:
    """The tasks of a suite whose data is there, and what is missing; arguments and errors as `open_suite` has them.

    The hub is not asked whether it has its sets, and the data of a user's own suite counts as there.
    """
    if spec == SYNTHETIC:
        return FoundTasks(Suite(spec, tuple(row.synthetic() for row in choose(vtab1k.TASKS, tasks))), {})
    if spec not in SUITES:
        return FoundTasks(_own(spec, data, tasks), {})
    say = "say --data FOLDER with a folder or .zip per task, or --data hub"
    if data is None:
        raise ValueError(f"the suite {spec} needs data: {say}")
    if data != HUB and not Path(data).expanduser().is_dir():
        raise FileNotFoundError(f"no folder {data}: {say}")
    present, missing = [], {}
    for row in choose(SUITES[spec], tasks):
        task = _on_hub(row) if data == HUB else _below(row, Path(data).expanduser())
        if isinstance(task, SuiteTask):
            present.append(task)
        else:
            missing[row.name] = task
    return FoundTasks(Suite(spec, tuple(present)), missing)


def _on_hub(row: Vtab | FineGrained) -> SuiteTask | str:
    return row.task_on_hub() or f"the hub has no set of it: {row.hint()}"


def _below(row: Vtab | FineGrained, root: Path) -> SuiteTask | str:
    """The task, or where its data was looked for in vain."""
    reasons = []
    for name in row.folders():
        try:
            task = row.task_at(look_at(root / name))
        except (OSError, ValueError) as error:
            reasons.append(f"{name}: {error}")
            continue
        if task is not None:
            return task
        reasons.append(f"{name}: other splits than this task needs")
    return f"looked in {root} for {'; '.join(reasons)}: {row.hint()}"


def _own(spec: str, data: str | None, tasks: Sequence[str]) -> Suite:
    path = Path(spec).expanduser()
    if not path.is_file():
        raise ValueError(f"no suite {spec!r}: say {', '.join(SUITES)}, {SYNTHETIC}, or a YAML file with `tasks:`")
    suite = read_suite(path, root=None if data is None else Path(data).expanduser())
    return Suite(suite.name, tuple(choose(suite.tasks, tasks)))
