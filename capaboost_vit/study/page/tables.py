"""The tables of a report as values, the same for the page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .grid import Grid, Summary
from .outcomes import Outcomes, Part, described
from .paired import LEVEL, RESAMPLES, Difference, on_task, overall
from .published import PUBLISHED, SOURCE, own_rows, why_not_beside

MISSING = "missing"


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
class Table:
    """A table; the first column names the rows, notes stand below."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()

    def groups(self) -> list[tuple[str, int]]:
        """Names above the columns, with how many columns each spans."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found


def accuracy_table(part: Part, grid: Grid, *, key: str) -> Table:
    """Test accuracies, mean and standard deviation over seeds; the best complete mean of a column is marked."""
    marks, notes = task_notes(grid)
    columns = [Column("method")]
    columns += _columns(grid, marks)
    summaries = {
        row: [grid.mean_of(row, a) for a in grid.averages] + [grid.one(row, task) for task in grid.tasks]
        for row in grid.rows
    }
    best = [_best([found[i] for found in summaries.values()]) for i in range(len(columns) - 1)]
    rows = []
    for row, found in summaries.items():
        entries = [_accuracy(summary, best[i]) for i, summary in enumerate(found)]
        rows.append((_method(row, grid), *entries))
    counts = sorted({len(seeds) for seeds in grid.seeds.values()})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return Table(
        key,
        f"Test accuracy (%): {part.title}",
        tuple(columns),
        tuple(rows),
        (
            f"Mean ± sample standard deviation over the seeds ({seeds} planned). The spread of an average is that of "
            "the average over the seeds.",
            "The highest complete mean of a column is bold, which says nothing about how sure it is: see the paired "
            "comparison.",
            "An average is missing as long as any seed of any of its tasks is missing.",
            *notes,
            *part.notes,
        ),
    )


def _method(row: str, grid: Grid) -> Entry:
    """A row's name, and behind it what people call the method, if that says more."""
    words = described(grid.rows[row])
    return Entry(row, f"({words})" if words not in ("", row) else "")


def task_notes(grid: Grid) -> tuple[dict[str, str], list[str]]:
    """The marks of tasks that have notes (a, b, ...), and the notes behind their marks."""
    known: dict[tuple[str, ...], str] = {}
    marks, notes = {}, []
    for task, trial in grid.tasks.items():
        if trial.notes:
            if trial.notes not in known:
                known[trial.notes] = _letters(len(known))
                notes.append(f"{known[trial.notes]}: {'; '.join(trial.notes)}")
            marks[task] = known[trial.notes]
    return marks, notes


def paired_table(part: Part, grid: Grid, reference: str, *, key: str) -> Table:
    """Differences to the reference in points with their intervals, on each task and over them."""
    marks, notes = task_notes(grid)
    columns = [Column("method")]
    columns += _columns(grid, marks)
    rows = []
    for row in grid.rows:
        if row != reference:
            found = [overall(grid, row, reference, average) for average in grid.averages]
            found += [on_task(grid, row, reference, task) for task in grid.tasks]
            rows.append((_method(row, grid), *map(_difference, found)))
    return Table(
        key,
        f"Difference to {reference} (points of accuracy): {part.title}",
        tuple(columns),
        tuple(rows),
        (
            f"Method minus {reference} with the same seed, mean over the seeds that both have, and its "
            f"{100 * LEVEL:.0f} % bootstrap interval ({RESAMPLES:,} resamples, percentiles). On one task seeds are "
            "resampled; over tasks the seeds of each task by themselves, the tasks staying as they are.",
            "Up and down mark intervals that exclude zero. With five seeds such intervals are too narrow, and nothing "
            "is corrected for the number of comparisons.",
            *notes,
        ),
    )


def published_table(part: Part, grid: Grid, *, key: str) -> Table | None:
    """Ours and what others have published; None where nothing is comparable."""
    if why_not_beside(part) is not None:
        return None
    lines = [*own_rows(part, grid), *PUBLISHED]
    kinds = ["own"] * len(grid.rows) + [""] * len(PUBLISHED)
    rows = tuple(
        (
            Entry(line.method, kind=kind),
            *(
                Entry(value or "not given", kind="missing" if value in ("", MISSING) else "")
                for value in (line.groups, line.tasks)
            ),
            Entry(line.remark, kind="words"),
        )
        for line, kind in zip(lines, kinds, strict=True)
    )
    columns = tuple(map(Column, ("method", "mean of 3 groups", "mean of 19 tasks", "remark")))
    return Table(key, f"Published numbers beside ours (%): {part.title}", columns, rows, (SOURCE,))


def problems_table(outcomes: Outcomes) -> Table | None:
    """Trials that failed or whose result is damaged; None without any."""
    bad = [outcome for outcome in outcomes.finals if outcome.state in ("failed", "damaged")]
    rows = tuple(_words(o.row, o.trial.task, str(o.trial.seed), o.state, o.problem or "", o.trial.id) for o in bad)
    columns = tuple(map(Column, ("method", "task", "seed", "state", "reason", "trial")))
    return Table("problems", "Failed and damaged trials", columns, rows) if bad else None


def choices_table(choices: Mapping[str, Mapping[str, object]]) -> Table | None:
    """What `study tune` has chosen on val for each cell; None if nothing was."""
    if not choices:
        return None
    rows = []
    for cell, choice in choices.items():
        task, method, *rest = cell.split(" | ")
        options, tried, edge = choice["options"], choice.get("tried"), choice.get("at_the_edge")
        said = ", ".join(f"{name} {value}" for name, value in options.items()) if isinstance(options, Mapping) else ""
        count = str(len(tried)) if isinstance(tried, Sequence) else ""
        at = ", ".join(map(str, edge)) if isinstance(edge, Sequence) else ""
        words = (method, task, ", ".join(rest), said or "nothing to choose", count, f"{choice['score']:.2f}", at)
        rows.append(_words(*words))
    names = ("method", "task", "backbone", "chosen", "candidates", "val accuracy (%)", "at the edge of the grid")
    notes = ("Chosen by accuracy on the validation split only; candidates never see the test split.",)
    return Table("choices", "Options chosen on val", tuple(map(Column, names)), tuple(rows), notes)


def _words(*words: str) -> tuple[Entry, ...]:
    return tuple(Entry(word, kind="words") for word in words)


def _columns(grid: Grid, marks: Mapping[str, str]) -> list[Column]:
    """The averages and the tasks."""
    columns = [Column(average.name, "averages") for average in grid.averages]
    return columns + [Column(task, trial.group, marks.get(task, "")) for task, trial in grid.tasks.items()]


def _best(summaries: Sequence[Summary]) -> float | None:
    means = [round(s.mean, 2) for s in summaries if s.mean is not None and not s.lacking]
    return max(means) if len(means) > 1 else None


def _accuracy(summary: Summary, best: float | None) -> Entry:
    lacking = _shortened(summary.lacking)
    if summary.mean is None:
        return Entry(MISSING, lacking=lacking, kind=MISSING)
    spread = "" if summary.spread is None else f"± {summary.spread:.2f}"
    kind = "partial" if lacking else "best" if round(summary.mean, 2) == best else ""
    return Entry(f"{summary.mean:.2f}", spread, lacking, kind)


def _difference(found: Difference) -> Entry:
    lacking = _shortened(found.lacking)
    if found.mean is None:
        return Entry(MISSING, lacking=lacking, kind=MISSING)
    interval = "" if found.low is None else f"[{found.low:+.2f}, {found.high:+.2f}]"
    kind = {1: "up", -1: "down", 0: "partial" if lacking else ""}[found.sign]
    return Entry(f"{found.mean:+.2f}", interval, lacking, kind)


def _shortened(lacking: Sequence[str], most: int = 2) -> str:
    """The first things that are missing, and how many more."""
    more = len(lacking) - most
    return ", ".join(lacking[:most]) + (f" and {more} more" if more > 0 else "")


def _letters(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)
