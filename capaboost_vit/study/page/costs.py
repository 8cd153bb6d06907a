"""What each method costs: parameters and FLOPs of its model, built without weights, and time and memory measured."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...vision.anatomy import anatomy_of
from ...vision.build import build_model
from ...vision.config import TrainConfig, sides
from ...vision.summary import summary
from .grid import Average, Grid
from .tables import Column, Entry, ReportTable, make_table, number, read_words

_DECIDING = ("model", "model_kwargs", "method", "img_size")


def measure_costs(grid: Grid) -> pd.DataFrame:
    """A line for each method; NaN for what is unknown, and a `problem` where parameters and FLOPs are.

    trained: parameters that are trained outside the classifier, the mean over tasks (they differ if tuned); executed,
    ideal: multiply-adds of a forward pass of one image, unmerged (ideal: masked entries cost nothing); train_seconds,
    memory_mb: means over tasks of the means over seeds, unknown while a task has none; accuracy: the average over all
    tasks, missing while a cell is, and its `spread` over the seeds.
    """
    means = grid.runs.groupby(["row", "task"])[["train_seconds", "memory_mb"]].mean().unstack("task")
    costs = means.T.groupby(level=0).mean(skipna=False).T
    overall = Average("all tasks", dict.fromkeys(grid.tasks, 1 / len(grid.tasks)))
    lines = []
    for row, outcomes in grid.rows.items():
        problem, counts = "", []
        for options in {o.trial.task: model_options(o.trial.config) for o in outcomes}.values():
            try:
                counts.append(count_model(options))
            except (ValueError, TypeError, FileNotFoundError, RuntimeError) as error:
                problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        numbers = (np.nan,) * 3 if problem else np.mean(counts, axis=0)
        score = grid.score(row, overall)
        lines.append((*numbers, score.mean, score.spread, problem))
    names = ["trained", "executed", "ideal", "accuracy", "spread", "problem"]
    return pd.DataFrame(lines, list(grid.rows), names).astype({"accuracy": float, "spread": float}).join(costs)


@functools.cache
def count_model(options: str) -> tuple[int, int, int]:
    """(trained parameters outside the classifier, multiply-adds executed, ideal) of a model, given by `model_options`.

    It is built with random weights and two classes; nothing is fetched, and the global random state is kept.

    Raises:
        ValueError, TypeError, RuntimeError: a model or method that cannot be built, or counted.
    """
    config = TrainConfig(**json.loads(options), drop_path=0.0)
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, num_classes=2)
        size = None if config.img_size is None else (3, *sides(config.img_size))
        counted = summary(model, input_size=size, verbose=False)
    assert counted.flops is not None
    head = sum(counted.roles[name].trained for name in anatomy_of(model).head)
    return counted.trained - head, counted.flops.executed, counted.flops.ideal


def model_options(config: Mapping[str, Any]) -> str:
    """The options that decide about the parameters and FLOPs of a model, as JSON."""
    return json.dumps({name: config[name] for name in _DECIDING if name in config}, sort_keys=True)


def cost_table(costs: pd.DataFrame, grid: Grid) -> ReportTable:
    """Costs and mean accuracy of each method, as `measure_costs` gives them."""
    columns = read_words("texts.yaml")["costs"]
    rows = []
    for row, cost in costs.iterrows():
        rows.append([Entry(str(row))])
        for name, column in columns.items():
            value, missing = cost[name] / column.get("unit", 1), column.get("missing", "unknown")
            rows[-1].append(number(value, column["form"], missing=missing))
    problems = [f"{row}: parameters and FLOPs are unknown ({why})" for row, why in costs.problem.items() if why]
    titles = [Column("method"), *(Column(column["title"]) for column in columns.values())]
    return make_table("cost-table", rows, grid, columns=titles, notes=problems)
