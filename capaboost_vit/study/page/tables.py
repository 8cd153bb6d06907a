"""The tables of a report as values, the same for the page, Markdown and LaTeX."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ...io.yaml import read_yaml
from ..outcomes import Outcomes, described
from .grid import Grid, Score
from .paired import LEVEL, RESAMPLES, compare

MISSING = "missing"
_LISTED = 2  # things that are missing


@dataclass(frozen=True)
class Entry:
    """One cell: a number or word, what stands smaller beside it, what is missing, and what it is.

    kind: missing, partial, best, up (better for sure), down, own (a row of ours), words (no number).
    """

    text: str
    detail: str = ""
    lacking: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """A column; `group` stands above it, `mark` refers to a note."""

    name: str
    group: str = ""
    mark: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table; the first column names the rows, notes stand below."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()

    def groups(self) -> list[tuple[str, int]]:
        """Names above the columns, with how many columns each spans."""
        return [(name, len(list(inside))) for name, inside in itertools.groupby(c.group for c in self.columns)]


@functools.cache
def read_words(file: str) -> Any:
    """A YAML file of this folder."""
    return read_yaml(resources.files(__package__) / file)


def notes_of(table: str, **values: object) -> tuple[str, ...]:
    """What stands below a table of this name whatever is in it, with values in it."""
    return tuple(note.format(**values) for note in read_words("texts.yaml")["notes"][table])


def simple_table(
    key: str, title: str, names: Iterable[str], rows: Iterable[Sequence[Entry]], notes: Iterable[str] = ()
) -> ReportTable:
    """A table whose columns have nothing but names."""
    return ReportTable(key, title, tuple(map(Column, names)), tuple(map(tuple, rows)), tuple(notes))


def accuracy_table(grid: Grid) -> ReportTable:
    """Test accuracies, mean and standard deviation over seeds; the best complete mean of a column is marked."""
    columns, notes = _columns(grid)
    scores = {row: [grid.score(row, column) for column in grid.columns] for row in grid.rows}
    best = [_best(column) for column in zip(*scores.values(), strict=True)]
    rows = [(_method(row, grid), *map(_accuracy, line, best)) for row, line in scores.items()]
    counts = sorted({len(grid.accuracy.loc[row]) for row in grid.rows})
    seeds = " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    notes = (*notes_of("accuracy", seeds=seeds), *notes, *grid.part.notes)
    return ReportTable(f"{grid.key}-accuracy", f"Test accuracy (%): {grid.part.title}", columns, tuple(rows), notes)


def paired_table(grid: Grid, reference: str) -> ReportTable:
    """Differences to the reference in points with their intervals, on each task and over them."""
    columns, notes = _columns(grid)
    rows = tuple(
        (_method(row, grid), *(_difference(compare(grid, row, reference, column)) for column in grid.columns))
        for row in grid.rows
        if row != reference
    )
    notes = (*notes_of("paired", reference=reference, level=100 * LEVEL, resamples=RESAMPLES), *notes)
    title = f"Difference to {reference} (points of accuracy): {grid.part.title}"
    return ReportTable(f"{grid.key}-paired", title, columns, rows, notes)


def problems_table(outcomes: Outcomes) -> ReportTable | None:
    """Trials that failed or whose result is damaged; None without any."""
    bad = [outcome for outcome in outcomes.finals if outcome.state in ("failed", "damaged")]
    rows = [_words(o.row, o.trial.task, str(o.trial.seed), o.state, o.problem or "", o.trial.id) for o in bad]
    names = ("method", "task", "seed", "state", "reason", "trial")
    return simple_table("problems", "Failed and damaged trials", names, rows) if bad else None


def choices_table(choices: Mapping[str, Mapping[str, object]]) -> ReportTable | None:
    """What `study tune` has chosen on val for each cell; None if nothing was."""
    rows = []
    for cell, choice in choices.items():
        task, method, *rest = cell.split(" | ")
        options, tried, edge = choice["options"], choice.get("tried"), choice.get("at_the_edge")
        chosen = ", ".join(f"{name} {value}" for name, value in options.items()) if isinstance(options, Mapping) else ""
        count = str(len(tried)) if isinstance(tried, Sequence) else ""
        at = ", ".join(map(str, edge)) if isinstance(edge, Sequence) else ""
        words = (method, task, ", ".join(rest), chosen or "nothing to choose", count, f"{choice['score']:.2f}", at)
        rows.append(_words(*words))
    names = ("method", "task", "backbone", "chosen", "candidates", "val accuracy (%)", "at the edge of the grid")
    return simple_table("choices", "Options chosen on val", names, rows, notes_of("choices")) if choices else None


def _words(*words: str) -> tuple[Entry, ...]:
    return tuple(Entry(word, kind="words") for word in words)


def _method(row: str, grid: Grid) -> Entry:
    """A row's name, and behind it what people call the method, if that says more."""
    words = described(grid.rows[row])
    return Entry(row, f"({words})" if words not in ("", row) else "")


def _columns(grid: Grid) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The method, the averages and the tasks, those with notes marked (a, b, ...); and the notes behind their marks."""
    marks: dict[tuple[str, ...], str] = {}
    columns = [Column("method")]
    for column in grid.columns:
        if column.trial is None:
            columns.append(Column(column.name, "averages"))
            continue
        notes = column.trial.notes
        mark = marks.setdefault(notes, _letters(len(marks))) if notes else ""
        columns.append(Column(column.name, column.trial.group, mark))
    return tuple(columns), tuple(f"{mark}: {'; '.join(notes)}" for notes, mark in marks.items())


def _best(scores: Sequence[Score]) -> float | None:
    means = [round(s.mean, 2) for s in scores if s.mean is not None and not s.lacking]
    return max(means) if len(means) > 1 else None


def _accuracy(score: Score, best: float | None) -> Entry:
    spread = "" if score.spread is None else f"± {score.spread:.2f}"
    is_best = score.mean is not None and not score.lacking and round(score.mean, 2) == best
    return _number(score.mean, ".2f", spread, score.lacking, "best" if is_best else "")


def _difference(difference: Score) -> Entry:
    interval = "" if difference.low is None else f"[{difference.low:+.2f}, {difference.high:+.2f}]"
    kind = {1: "up", -1: "down", 0: ""}[difference.sign]
    return _number(difference.mean, "+.2f", interval, difference.lacking, kind)


def _number(value: float | None, form: str, detail: str, lacking: Sequence[str], kind: str) -> Entry:
    """A number, with the first things that are missing of it and how many more."""
    more = len(lacking) - _LISTED
    words = ", ".join(lacking[:_LISTED]) + (f" and {more} more" if more > 0 else "")
    if value is None:
        return Entry(MISSING, lacking=words, kind=MISSING)
    return Entry(f"{value:{form}}", detail, words, kind or ("partial" if lacking else ""))


def _letters(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)
