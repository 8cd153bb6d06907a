"""The tables of a report as values, the same for the page, Markdown and LaTeX."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pandas as pd

from ...io.yaml import read_yaml
from ..outcomes import Comparison, Outcomes, described
from .grid import FEWEST, LEVEL, RESAMPLES, Grid, Score

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
    columns: Sequence[Column]
    rows: Sequence[Sequence[Entry]]
    notes: Sequence[str] = ()

    def groups(self) -> list[tuple[str, int]]:
        """Names above the columns, with how many columns each spans."""
        return [(name, len(list(inside))) for name, inside in itertools.groupby(c.group for c in self.columns)]


@functools.cache
def read_words(file: str) -> Any:
    """A YAML file of this folder."""
    return read_yaml(resources.files(__package__) / file)


def make_table(
    name: str,
    rows: Sequence[Sequence[Entry]],
    grid: Grid | None = None,
    *,
    columns: Iterable[Column] = (),
    notes: Iterable[str] = (),
    **values: object,
) -> ReportTable:
    """A table, of a comparison or of the study, with its words in texts.yaml, where `values` are filled in.

    Args:
        columns: where there are none in texts.yaml. notes: stand below those of texts.yaml.
        values: those that are false leave out the notes that are of no use without them.
    """
    texts = read_words("texts.yaml")["tables"][name]
    if grid is not None:
        values["part"] = grid.part.title
    columns = [*columns, *map(Column, texts.get("columns", ()))]
    useful = [
        note if isinstance(note, str) else note["text"] for note in texts.get("notes", ()) if _is_useful(note, values)
    ]
    notes = [*(note.format(**values) for note in useful), *notes]
    return ReportTable(f"{grid.key}-{name}" if grid else name, texts["title"].format(**values), columns, rows, notes)


def _is_useful(note: str | Mapping[str, str], values: Mapping[str, object]) -> bool:
    """Whether what a note is about is there: `{if: NAME, text: ...}` asks a value."""
    return isinstance(note, str) or bool(values[note["if"]])


def number(
    value: float | None,
    form: str,
    *,
    missing: str = MISSING,
    detail: str = "",
    lacking: Sequence[str] = (),
    kind: str = "",
) -> Entry:
    """A number in a format, or what stands for one that is None or NaN; with the first things that it lacks."""
    unlisted = len(lacking) - _LISTED
    listed = ", ".join(lacking[:_LISTED]) + (f" and {unlisted} more" if unlisted > 0 else "")
    if value is None or pd.isna(value):
        return Entry(missing, lacking=listed, kind=MISSING)
    return Entry(f"{value:{form}}".replace("%", " %"), detail, listed, kind or ("partial" if lacking else ""))


def comparison_tables(grid: Grid) -> list[ReportTable]:
    """Accuracies, differences to the reference and, beside the published ones, averages: those that have rows."""
    return [table for table in (_accuracy_table(grid), _paired_table(grid), _published_table(grid)) if table.rows]


def _accuracy_table(grid: Grid) -> ReportTable:
    """Test accuracies, mean and standard deviation over seeds; the best complete mean of a column is marked."""
    columns, notes = _columns(grid)
    scores = {row: [grid.score(row, column) for column in grid.columns] for row in grid.rows}
    best = [_best(column) for column in zip(*scores.values(), strict=True)]
    rows = [[_method(row, grid), *map(_accuracy, line, best)] for row, line in scores.items()]
    counts = sorted({len(grid.accuracy.loc[row]) for row in grid.rows})
    seeds = " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    about = {"seeds": seeds, "several_seeds": counts[-1] > 1, "averages": grid.averages, "several_rows": len(rows) > 1}
    return make_table("accuracy", rows, grid, columns=columns, notes=[*notes, *grid.part.notes], **about)


def _paired_table(grid: Grid) -> ReportTable:
    """Differences to the reference in points with their intervals, on each task and over them."""
    columns, notes = _columns(grid)
    compared = [row for row in grid.rows if grid.reference not in (None, row)]
    differences = [[grid.difference(row, column) for column in grid.columns] for row in compared]
    rows = [[_method(row, grid), *map(_difference, line)] for row, line in zip(compared, differences, strict=True)]
    values: dict[str, object] = {
        "reference": grid.reference,
        "level": 100 * LEVEL,
        "resamples": RESAMPLES,
        "fewest": FEWEST,
    }
    values |= {"intervals": any(d.low is not None for line in differences for d in line), "averages": grid.averages}
    values["no_intervals"] = not values["intervals"]
    return make_table("paired", rows, grid, columns=columns, notes=notes, **values)


def why_not_published(part: Comparison) -> str | None:
    """Why nothing published is comparable with a part of a suite that others have published; None where it is."""
    published = read_words("published.yaml")
    if part.suite != published["suite"]:
        return None
    if part.backbone not in published["backbones"]:
        return f"the published numbers are of ViT-B/16 pretrained on ImageNet-21k, this part is of {part.backbone}"
    if part.shots is not None:
        return "the published numbers are of 1,000 training images for each task"
    return None


def _published_table(grid: Grid) -> ReportTable:
    """What others have published of VTAB-1k (published.yaml), below ours, where the two are comparable.

    Ours are missing where one of all 19 tasks is.
    """
    published = read_words("published.yaml")
    averages = {average.name: average for average in grid.averages}
    wanted = [averages.get(name) for name in published["averages"]]
    rows = []
    if grid.part.suite == published["suite"] and why_not_published(grid.part) is None:
        for row in grid.rows:
            means = (None if average is None else grid.score(row, average).mean for average in wanted)
            label = Entry(f"{row}{published['backbones'][grid.part.backbone]}", kind="own")
            rows.append([label, *(number(mean, ".2f") for mean in means), Entry("ours", kind="words")])
        for method, *means, remark in published["lines"]:
            numbers = (Entry(mean) if mean else Entry("not given", kind=MISSING) for mean in means)
            rows.append([Entry(method), *numbers, Entry(remark, kind="words")])
    return make_table("published", rows, grid, notes=[published["source"]])


def study_tables(outcomes: Outcomes) -> list[ReportTable]:
    """Trials that failed or whose result is damaged, and what `study tune` has chosen on val; those that have rows."""
    bad = [outcome for outcome in outcomes.finals if outcome.state in ("failed", "damaged")]
    failed = [_text_row(o.row, o.trial.task, str(o.trial.seed), o.state, o.problem or "", o.trial.id) for o in bad]
    return [table for table in (make_table("problems", failed), _choices_table(outcomes.choices)) if table.rows]


def _choices_table(choices: Mapping[str, Mapping[str, Any]]) -> ReportTable:
    """What `study tune` has chosen on val for each cell."""
    rows = []
    for cell, choice in choices.items():
        task, method, *backbone_and_shots = cell.split(" | ")
        chosen = ", ".join(f"{name} {value}" for name, value in choice["options"].items()) or "nothing to choose"
        tried, edge = choice.get("tried", ()), ", ".join(choice.get("at_the_edge", ()))
        count = str(len(tried)) if tried else ""
        rows.append(
            _text_row(method, task, ", ".join(backbone_and_shots), chosen, count, f"{choice['score']:.2f}", edge)
        )
    return make_table("choices", rows)


def _text_row(*texts: str) -> list[Entry]:
    return [Entry(text, kind="words") for text in texts]


def _method(row: str, grid: Grid) -> Entry:
    """A row's name, and behind it what people call the method, if that says more."""
    label = described(grid.rows[row])
    return Entry(row, f"({label})" if label not in ("", row) else "")


def _columns(grid: Grid) -> tuple[list[Column], list[str]]:
    """The method, the averages and the tasks, those with notes marked (a, b, ...); and the notes behind their marks."""
    marks: dict[tuple[str, ...], str] = {}
    columns = [Column("method"), *(Column(average.name, "averages") for average in grid.averages)]
    for task, trial in grid.tasks.items():
        mark = marks.setdefault(trial.notes, _letters(len(marks))) if trial.notes else ""
        columns.append(Column(task, trial.group, mark))
    return columns, [f"{mark}: {'; '.join(notes)}" for notes, mark in marks.items()]


def _best(scores: Sequence[Score]) -> float | None:
    means = [round(s.mean, 2) for s in scores if s.mean is not None and not s.lacking]
    return max(means) if len(means) > 1 else None


def _accuracy(score: Score, best: float | None) -> Entry:
    spread = "" if score.spread is None else f"± {score.spread:.2f}"
    is_best = score.mean is not None and not score.lacking and round(score.mean, 2) == best
    return number(score.mean, ".2f", detail=spread, lacking=score.lacking, kind="best" if is_best else "")


def _difference(difference: Score) -> Entry:
    interval = f"n = {difference.seeds}: no interval"
    if difference.low is not None:
        interval = f"[{difference.low:+.2f}, {difference.high:+.2f}]"
    kind = {1: "up", -1: "down", 0: ""}[difference.sign]
    return number(difference.mean, "+.2f", detail=interval, lacking=difference.lacking, kind=kind)


def _letters(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)
