"""Tables of finished runs: a row for each method, a column for each task, mean and spread over the seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..io.atomic import write_text
from ..io.json import read_object
from ..io.sources import short_name
from ..methods import METHODS, Method
from ..nlu.metrics import glue_average
from ..nlu.tasks import GLUE, TASKS
from ..training.config import is_text_config
from . import escaping

# options in which the runs of one row of a table may differ
_FREE = {"seed", "output", "task", "data", "resume", "overwrite", "device", "workers", "cache", "log_interval"}
_FREE |= {"timeout"}
# tasks on data of one's own, by whose name the column goes
_CUSTOM = ("classification", "regression", "multi-label", "multiple-choice")
_MISSING = "-"


@dataclass(frozen=True)
class FinishedRun:
    """One finished run: its row and column, and its scores on the test split, the first one the task's own."""

    model: str
    method: str
    task: str
    seed: int
    scores: dict[str, float]
    trained: int
    seconds: float
    settings: str  # as JSON: what the other runs of a cell must have in common
    folder: Path


def collect(folders: Iterable[str | Path]) -> list[FinishedRun]:
    """The finished runs with a test score in these folders and below them; folders of stages are left out.

    Raises:
        FileNotFoundError: no such folder, or no finished run in it.
        ValueError: a result.json that is damaged.
    """
    runs: list[FinishedRun] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder at {folder}")
        results = [path for path in sorted(folder.rglob("result.json")) if path.parent.name not in ("dapt", "tapt")]
        if not results:
            raise FileNotFoundError(f"no finished run (result.json) in {folder}")
        runs += map(_run, results)
    return [run for run in runs if run.scores]


def method_name(methods: Sequence[Mapping[str, Any]]) -> str:
    """The labels of the methods of a run, as result.json and adapter files record them."""
    return " + ".join(METHODS.get(method["method"], Method).label(method) for method in methods) or "none"


def table(runs: Sequence[FinishedRun]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: `mean ± standard deviation (runs)` of the scores of each task, joined by a slash.

    A cell without a run is `-`. The average of GLUE is that of the 11 numbers of its eight tasks (MRPC, QQP and STS-B
    have two each), the mean over seeds of each, and stands only where all are there.
    """
    labels = row_labels(((r.model, r.method, r.task), r.method, r.seed, json.loads(r.settings)) for r in runs)
    frame = pd.DataFrame([vars(run) for run in runs]).assign(row=[label for label, *_ in labels])
    ordered = dict.fromkeys([*GLUE, *TASKS, *sorted(frame["task"])])
    tasks = [task for task in ordered if task in set(frame["task"])]
    several = frame["model"].nunique() > 1
    averaged = all(task in tasks for task in GLUE)
    head = [*(["model"] if several else []), "method", "trained", *tasks, *(["average of 11"] if averaged else [])]
    lines = []
    for (model, label), inside in frame.groupby(["model", "row"], sort=False):
        # by task: a row for each run, a column for each metric in the order of the first run
        cells = {task: pd.DataFrame(list(scores)) for task, scores in inside.groupby("task")["scores"]}
        fewest, most = inside["trained"].min(), inside["trained"].max()
        counts = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        line = [*([model] if several else []), label, counts, *(_cell(cells.get(task)) for task in tasks)]
        if averaged:
            average = glue_average({task: dict(scores.mean()) for task, scores in cells.items()})
            line.append(_MISSING if average is None else f"{average:.2f}")
        lines.append(line)
    return head, lines


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [map(escaping.markdown, head), ["---"] * len(head), *(map(escaping.markdown, row) for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_report(runs: Sequence[FinishedRun], path: Path) -> Path:
    """Writes the table as .md or .csv, or all runs as .json. Raises ValueError for another suffix."""
    head, rows = table(runs)
    if path.suffix == ".md":
        text = markdown(head, rows)
    elif path.suffix == ".csv":
        text = pd.DataFrame([map(escaping.csv_cell, line) for line in [head, *rows]]).to_csv(index=False, header=False)
    elif path.suffix == ".json":
        text = json.dumps([vars(run) for run in runs], indent=2, default=str) + "\n"
    else:
        raise ValueError(f"--output {path}: name a .md, .csv or .json file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def _run(path: Path) -> FinishedRun:
    try:
        result = read_object(path)
        config = result["config"]
        scores = {
            name.removeprefix("test_"): float(value)
            for name, value in result.items()
            if name.startswith("test_") and value is not None and name not in ("test_right", "test_total")
        }
        task = config["task"] if is_text_config(config) else None
        if task in TASKS:
            scores = {name: scores[name] for name in TASKS[task].metrics if name in scores}
        column = short_name(config["data"]) if task is None or task in _CUSTOM else task
        if not is_text_config(config) and scores and "accuracy" not in scores:
            column += f" ({'/'.join(scores)})"
        settings = {name: value for name, value in config.items() if name not in _FREE}
        settings["data"] = result["data"]["splits"]  # by what is in them, wherever they lie
        return FinishedRun(
            model=Path(config["model"]).name,
            method=method_name(result["method"]),
            task=column,
            seed=config["seed"],
            scores=scores,
            trained=result["parameters"]["trained"],
            seconds=result["train_seconds"],
            settings=json.dumps(settings, sort_keys=True),
            folder=path.parent,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the result of a run ({type(error).__name__}: {error})") from error


def row_labels(
    runs: Iterable[tuple[Hashable, str, int, dict[str, Any]]],
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The row of each run, numbered where runs of one cell differ in more than the seed.

    Masks that follow the seed, as those of a study do, are no difference.

    Args:
        runs: (cell, label of its row, seed, all other options) of each.

    Returns:
        For each (label, options of the first run in its cell, its own).
    """
    runs = list(runs)
    fixed = {cell for cell, _, seed, options in runs if (options.get("method") or {}).get("mask_seed", seed) != seed}
    variants: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
    for cell, label, _, options in runs:
        if cell not in fixed and options.get("method"):
            method = {name: value for name, value in options["method"].items() if name != "mask_seed"}
            options = {**options, "method": method}
        if options not in variants[cell]:
            variants[cell].append(options)
        number = variants[cell].index(options) + 1
        yield label if number == 1 else f"{label} ({number})", variants[cell][0], options


def _cell(scores: pd.DataFrame | None) -> str:
    if scores is None:
        return _MISSING
    means, spreads = ("/".join(map("{:.2f}".format, values)) for values in (scores.mean(), scores.std()))
    return means if len(scores) == 1 else f"{means} ± {spreads} ({len(scores)})"
