"""The numbers behind the pictures, as tables and csv."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from .predictions import data_uri
from .tables import Entry, ReportTable, notes_of, simple_table
from .updates import COLUMNS, Adapters

# by title the column of the costs, its unit, how a number is written, and what stands for an unknown one
_COSTS = {
    "trained parameters": ("trained", 1, ",.0f", "unknown"),
    "GMACs executed": ("executed", 1e9, ".4g", "unknown"),
    "GMACs ideal": ("ideal", 1e9, ".4g", "unknown"),
    "training (s)": ("train_seconds", 1, ",.1f", "unknown"),
    "memory (MB)": ("memory_mb", 1, ",.0f", "unknown"),
    "accuracy (%)": ("accuracy", 1, ".2f", "missing"),
}


def csv_uri(table: pd.DataFrame) -> str:
    """A table as a csv file inside a link."""
    return data_uri("text/csv;charset=utf-8", table.to_csv(index=False, float_format="%.5g").encode())


def cost_table(costs: pd.DataFrame, *, key: str) -> ReportTable:
    """Costs and mean accuracy of each method, as `measure_costs` gives them."""
    rows = (
        (Entry(str(row)), *(_number(cost[name] / unit, form, unknown) for name, unit, form, unknown in _COSTS.values()))
        for row, cost in costs.iterrows()
    )
    problems = (f"{row}: parameters and FLOPs are unknown ({why})" for row, why in costs.problem.items() if why)
    return simple_table(key, "Costs", ("method", *_COSTS), rows, (*notes_of("costs"), *problems))


def rank_table(adapters: Sequence[Adapters], *, key: str) -> ReportTable:
    """Means over all updates of a method, with the standard deviation over them."""
    names = ("method", "runs", "updates", "algebraic rank", "stable rank", "effective rank", "norm of dW")
    rows = []
    for shown in adapters:
        measures = (shown.updates[name] for name in ("algebraic", "stable", "effective", "norm"))
        spreads = (Entry(f"{m.mean():.2f}", f"± {m.std():.2f}" if len(m) > 1 else "") for m in measures)
        rows.append((Entry(shown.row), Entry(str(shown.runs)), Entry(str(len(shown.updates))), *spreads))
    return simple_table(key, "Ranks of the updates", names, rows)


def mask_table(adapters: Sequence[Adapters], *, key: str) -> ReportTable:
    """Coverage and overlap of the masks of each method."""
    names = ("masked weights", "branches", "used by any branch", "used by two or more", "of these the same sign")
    rows = (
        (
            Entry(shown.row),
            Entry(str(masks.weights)),
            Entry(str(masks.branches)),
            *(_number(share, ".1%", "none") for share in (masks.covered, masks.shared, masks.agreeing)),
        )
        for shown in adapters
        if (masks := shown.masks) is not None
    )
    return simple_table(key, "Coverage and overlap of the masks", ("method", *names), rows, notes_of("masks"))


def update_rows(adapters: Sequence[Adapters]) -> pd.DataFrame:
    """A line for each update, for csv; singular values over the largest one, as many as the rank, at most 64."""
    table = pd.concat([shown.updates.assign(method=shown.row) for shown in adapters])
    table["shares"] = [" ".join(f"{share:.4g}" for share in shares[:64]) for shares in table.shares]
    return table[["method", *COLUMNS]]


def _number(value: float, form: str, unknown: str) -> Entry:
    return Entry(unknown, kind="missing") if math.isnan(value) else Entry(f"{value:{form}}".replace("%", " %"))
