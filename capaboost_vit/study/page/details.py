"""The numbers behind the pictures, as tables and csv."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterable, Iterator, Sequence

from .costs import Cost
from .tables import Column, Entry, Table
from .updates import Adapters
from .writers import as_csv


def csv_uri(rows: Iterator[Sequence[object]]) -> str:
    """Rows as a csv file inside a link."""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(as_csv(rows).encode()).decode()}"


def cost_table(costs: Sequence[Cost], *, key: str) -> Table:
    """Costs and mean accuracy of each method."""
    names = (
        "method",
        "trained parameters",
        "GMACs executed",
        "GMACs ideal",
        "training (s)",
        "memory (MB)",
        "accuracy (%)",
    )
    rows = tuple(
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
    problems = (f"{c.row}: parameters and FLOPs are unknown ({c.problem})" for c in costs if c.problem)
    notes = (
        "Parameters without the classifier. Multiply-adds of a forward pass of one image before merging; ideal: masked "
        "entries cost nothing, which no kernel used here achieves.",
        "Time and memory are means over tasks and seeds as measured on the machines named above; memory is the peak of "
        "the process, which on a CPU includes the libraries.",
        *problems,
    )
    return Table(key, "Costs", tuple(map(Column, names)), rows, notes)


def rank_table(adapters: Sequence[Adapters], *, key: str) -> Table:
    """Means over all updates of a method, with the standard deviation over them."""
    names = ("method", "runs", "updates", "algebraic rank", "stable rank", "effective rank", "norm of dW")
    rows = []
    for found in adapters:
        measures = [[getattr(u.ranks, name) for u in found.updates] for name in ("algebraic", "stable", "effective")]
        measures.append([u.norm for u in found.updates])
        rows.append((Entry(found.row), Entry(str(found.runs)), Entry(str(len(found.updates))), *map(_spread, measures)))
    return Table(key, "Ranks of the updates", tuple(map(Column, names)), tuple(rows))


def mask_table(adapters: Sequence[Adapters], *, key: str) -> Table:
    """Coverage and overlap of the masks of each method."""
    names = (
        "method",
        "masked weights",
        "branches",
        "used by any branch",
        "used by two or more",
        "of these the same sign",
    )
    rows = tuple(
        (
            Entry(found.row),
            Entry(str(found.masks.weights)),
            Entry(str(found.masks.branches)),
            *(_percent(value) for value in (found.masks.covered, found.masks.shared, found.masks.agreeing)),
        )
        for found in adapters
        if found.masks is not None
    )
    notes = ("Means over all masked weights of one run; entries that no branch uses are never trained.",)
    return Table(key, "Coverage and overlap of the masks", tuple(map(Column, names)), rows, notes)


def update_rows(adapters: Iterable[Adapters]) -> Iterator[Sequence[object]]:
    """A line for each update, for csv; singular values over the largest one, as many as the rank, at most 64."""
    yield ("method", "task", "site", "block", "algebraic", "stable", "effective", "norm", "shares")
    for found in adapters:
        for u in found.updates:
            shares = " ".join(f"{share:.4g}" for share in u.shares[:64])
            ranks = (u.ranks.algebraic, f"{u.ranks.stable:.4f}", f"{u.ranks.effective:.4f}")
            yield (found.row, u.task, u.site, u.block, *ranks, f"{u.norm:.5g}", shares)


def _number(value: float | None, form: str, unknown: str = "unknown") -> Entry:
    return Entry(unknown, kind="missing") if value is None else Entry(f"{value:{form}}")


def _spread(values: Sequence[float]) -> Entry:
    detail = f"± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return Entry(f"{statistics.fmean(values):.2f}", detail)


def _percent(share: float) -> Entry:
    return Entry(f"{100 * share:.1f} %") if share == share else Entry("none", kind="missing")
