"""From the name of a suite, or the file of a user's own, to its tasks with their data."""

from __future__ import annotations

from collections.abc import Sequence
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
    suite = find_tasks(spec, data=data, tasks=tasks)
    if suite.missing:
        name, *others = suite.missing
        also = f" (nor for {', '.join(others)})" if others else ""
        raise FileNotFoundError(f"no data for {name}{also}: {suite.missing[name]}")
    return suite


def find_tasks(spec: str, *, data: str | None, tasks: Sequence[str] = ("*",)) -> Suite:
    """The tasks of a suite whose data is there, and what is missing; arguments and errors as `open_suite` has them.

    The hub is not asked whether it has its sets, and the data of a user's own suite counts as there.
    """
    root = None if data is None else Path(data).expanduser()
    if spec == SYNTHETIC:
        return Suite(spec, tuple(row.synthetic() for row in choose(vtab1k.TASKS, tasks)))
    if spec not in SUITES:
        path = Path(spec).expanduser()
        if not path.is_file():
            raise ValueError(f"no suite {spec!r}: say {', '.join(SUITES)}, {SYNTHETIC}, or a YAML file with `tasks:`")
        suite = read_suite(path, root=root)
        return Suite(suite.name, tuple(choose(suite.tasks, tasks)))
    hint = "say --data FOLDER with a folder or .zip per task, or --data hub"
    if root is None:
        raise ValueError(f"the suite {spec} needs data: {hint}")
    if data != HUB and not root.is_dir():
        raise FileNotFoundError(f"no folder {data}: {hint}")
    present, missing = [], {}
    for row in choose(SUITES[spec], tasks):
        task = (row.task_on_hub() or "the hub has no set of it") if data == HUB else _task_below(root, row)
        if isinstance(task, SuiteTask):
            present.append(task)
        else:
            missing[row.name] = f"{task}: {row.hint()}"
    return Suite(spec, tuple(present), missing)


def _task_below(root: Path, row: Vtab | FineGrained) -> SuiteTask | str:
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
    return f"looked in {root} for {'; '.join(reasons)}"
