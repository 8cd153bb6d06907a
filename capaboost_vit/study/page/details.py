"""The numbers behind the pictures, as tables and csv."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pandas as pd

from .costs import Cost
from .tables import Entry, ReportTable, simple_table
from .updates import COLUMNS, Adapters


def csv_uri(table: pd.DataFrame) -> str:
    """A table as a csv file inside a link."""
    content = table.to_csv(index=False, float_format="%.5g")
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(content.encode()).decode()}"


def cost_table(costs: Sequence[Cost], *, key: str) -> ReportTable:
    """Costs and mean accuracy of each method."""
    names = ("trained parameters", "GMACs executed", "GMACs ideal", "training (s)", "memory (MB)", "accuracy (%)")
    rows = (
        (
            Entry(c.row),
            _number(c.trained, ",.0f"),
            _number(None if c.executed is None else c.executed / 1e9, ".4g"),
            _number(None if c.ideal is None else c.ideal / 1e9, ".4g"),
            _number(c.seconds, ",.1f"),
            _number(c.memory, ",.0f"),
            _number(c.accuracy, ".2f", "missing"),
        )
        for c in costs
    )
    notes = (
        "Parameters without the classifier. Multiply-adds of a forward pass of one image before merging; ideal: masked "
        "entries cost nothing, which no kernel used here achieves.",
        "Time and memory are means over tasks and seeds as measured on the machines named above; memory is the peak of "
        "the process, which on a CPU includes the libraries.",
        *(f"{c.row}: parameters and FLOPs are unknown ({c.problem})" for c in costs if c.problem),
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
            *map(_percent, (masks.covered, masks.shared, masks.agreeing)),
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


def _number(value: float | None, form: str, unknown: str = "unknown") -> Entry:
    return Entry(unknown, kind="missing") if value is None else Entry(f"{value:{form}}")


def _percent(share: float) -> Entry:
    return Entry(f"{100 * share:.1f} %") if share == share else Entry("none", kind="missing")
