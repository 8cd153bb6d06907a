"""From the name of a suite, or the file of a user's own, to its tasks with their data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...vision.data.layouts import lists_of, split_folders
from ...vision.data.spec import find_images
from ...vision.data.tree import Tree
from . import fgvc, vtab1k
from .fgvc import FineGrained
from .task import DataLayout, Suite, SuiteTask, matching_tasks, read_suite
from .vtab1k import Vtab

HUB = "hub"
SUITES: dict[str, Mapping[str, Vtab | FineGrained]] = {"vtab1k": vtab1k.TASKS, "fgvc": fgvc.TASKS}
SYNTHETIC = "synthetic_vtab1k"
_SHARD = re.compile(r"-\d+-of-\d+$")


def open_suite(spec: str, *, data: str | None, tasks: Sequence[str] = ("*",)) -> Suite:
    """The tasks of a suite, all of them with their data.

    Args:
        spec: vtab1k, fgvc, synthetic_vtab1k, or a YAML file with `tasks:` (see `task`).
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
        return Suite(spec, tuple(row.synthetic() for row in matching_tasks(vtab1k.TASKS, tasks)))
    if spec not in SUITES:
        path = Path(spec).expanduser()
        if not path.is_file():
            raise ValueError(f"no suite {spec!r}: say {', '.join(SUITES)}, {SYNTHETIC}, or a YAML file with `tasks:`")
        suite = read_suite(path, root=root)
        return Suite(suite.name, tuple(matching_tasks({task.name: task for task in suite.tasks}, tasks)))
    hint = "say --data FOLDER with a folder or .zip per task, or --data hub"
    if root is None:
        raise ValueError(f"the suite {spec} needs data: {hint}")
    if data != HUB and not root.is_dir():
        raise FileNotFoundError(f"no folder {data}: {hint}")
    present, missing = [], {}
    for row in matching_tasks(SUITES[spec], tasks):
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


def look_at(path: Path) -> DataLayout:
    """What lies at a path. Raises FileNotFoundError or ValueError with nothing but the reason why it is of no use."""
    if not path.exists():
        raise FileNotFoundError("not there")
    tree = find_images(path)
    if isinstance(tree, Path):
        return DataLayout(path, True, _of_table(tree))
    if lists := lists_of(tree):
        names = frozenset(name[: -len(".txt")] for name in lists)
        return DataLayout(path, False, names, _begins_with_jpeg(tree, lists[0]))
    folders = split_folders(str(path), tree.folders())
    if "train" in folders:
        return DataLayout(path, False, frozenset(folders))
    raise ValueError("no lists, no parquet files and no train folder in it")


def _begins_with_jpeg(tree: Tree, file: str) -> bool:
    line = tree.read(file).decode("utf-8-sig", "surrogateescape").strip().partition("\n")[0]
    name = line.strip().rpartition(" ")[0].rstrip()
    return name in tree and tree.read(name).startswith(b"\xff\xd8\xff")


def _of_table(path: Path) -> frozenset[str]:
    """The splits by the names of the files: train-00000-of-00001.parquet, or train/0000.parquet."""
    saved = path / "dataset_dict.json"
    if saved.is_file():
        return frozenset(json.loads(saved.read_text("utf-8"))["splits"])
    files = [file for pattern in ("*.parquet", "*/*.parquet", "*/train/*.parquet") for file in path.glob(pattern)]
    return frozenset(file.parent.name if file.stem.isdigit() else _SHARD.sub("", file.stem) for file in files)
