"""The numbers behind the pictures, as tables and csv."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import pandas as pd

from .tables import Entry, ReportTable, simple_table
from .updates import COLUMNS, Adapters


def csv_uri(table: pd.DataFrame) -> str:
    """A table as a csv file inside a link."""
    content = table.to_csv(index=False, float_format="%.5g")
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(content.encode()).decode()}"


def cost_table(costs: pd.DataFrame, *, key: str) -> ReportTable:
    """Costs and mean accuracy of each method, as `measure_costs` gives them."""
    names = ("trained parameters", "GMACs executed", "GMACs ideal", "training (s)", "memory (MB)", "accuracy (%)")
    rows = (
        (
            Entry(c.Index),
            _number(c.trained, ",.0f"),
            _number(c.executed / 1e9, ".4g"),
            _number(c.ideal / 1e9, ".4g"),
            _number(c.train_seconds, ",.1f"),
            _number(c.memory_mb, ",.0f"),
            _number(c.accuracy, ".2f", "missing"),
        )
        for c in costs.itertuples()
    )
    notes = (
        "Parameters without the classifier. Multiply-adds of a forward pass of one image before merging; ideal: masked "
        "entries cost nothing, which no kernel used here achieves.",
        "Time and memory are means over tasks and seeds as measured on the machines named above; memory is the peak of "
        "the process, which on a CPU includes the libraries.",
        *(f"{row}: parameters and FLOPs are unknown ({why})" for row, why in costs.problem.items() if why),
    )
    return simple_table(key, "Costs", ("method", *names), rows, notes)


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
    notes = ("Means over all masked weights of one run; entries that no branch uses are never trained.",)
    return simple_table(key, "Coverage and overlap of the masks", ("method", *names), rows, notes)


def update_rows(adapters: Sequence[Adapters]) -> pd.DataFrame:
    """A line for each update, for csv; singular values over the largest one, as many as the rank, at most 64."""
    table = pd.concat([shown.updates.assign(method=shown.row) for shown in adapters])
    table["shares"] = [" ".join(f"{share:.4g}" for share in shares[:64]) for shares in table.shares]
    return table[["method", *COLUMNS]]


def _number(value: float, form: str, unknown: str = "unknown") -> Entry:
    return Entry(unknown, kind="missing") if math.isnan(value) else Entry(f"{value:{form}}".replace("%", " %"))
