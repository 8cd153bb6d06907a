"""A report as Markdown, LaTeX and HTML from templates, and its numbers as csv and json."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..known import report_line
from ..manifest import Study
from ..status import states
from .grid import Grid
from .outcomes import Comparison, Outcomes
from .paired import Difference, compare

if TYPE_CHECKING:
    from jinja2 import Environment

_TEX = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_TEX |= {"±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "…": r"\dots{}"}


def render(template: str, **values: Any) -> str:
    """A template of this folder with values in it; what would be markup of its format is escaped."""
    return _environment().get_template(template).render(**values)


def tex(text: str) -> str:
    """A text with everything escaped that LaTeX would read as a command."""
    return re.sub(r"[&%$#_{}\\~^±<>|…]", lambda match: _TEX[match[0]], text)


def markdown(text: str) -> str:
    """A text that neither ends a cell of a Markdown table nor begins an element of HTML."""
    return text.replace("|", "\\|").replace("<", "\\<").replace("\n", " ")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("capaboost_vit.study.page"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"tex": tex, "markdown": markdown}
    return environment


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as csv; None is an empty field, whole numbers stay whole."""
    return str(pd.DataFrame(list(rows), columns=list(columns), dtype=object).to_csv(index=False))


CELLS = (
    *("suite", "backbone", "shots", "method", "over", "kind", "group", "mean", "std", "seeds", "planned_seeds"),
    *("missing", "reference", "difference", "low", "high", "notes"),
)
RUNS = (
    *("trial", "suite", "backbone", "shots", "task", "group", "method", "seed", "state", "test_accuracy"),
    *("test_right", "test_total", "trained_parameters", "train_seconds", "memory_mb", "device", "problem"),
)


def cell_rows(compared: Iterable[tuple[Comparison, Grid, str | None]]) -> Iterator[Sequence[Any]]:
    """For `CELLS`, a row for each method and task or average, with the comparison; the reference may be None."""
    for part, grid, reference in compared:
        for row, column in itertools.product(grid.rows, grid.columns):
            kind, group, notes = "average", "", ""
            if column.trial is not None:
                kind, group, notes = "task", column.trial.group, "; ".join(column.trial.notes)
            score = grid.score(row, column)
            planned, lacking = len(grid.accuracy.loc[row]), "; ".join(score.lacking)
            other = reference if reference != row else None
            difference = Difference(None, None, None, 0) if other is None else compare(grid, row, other, column)
            yield (
                *(part.suite, part.backbone, part.shots, row, column.name, kind, group),
                *(score.mean, score.spread, score.seeds, planned, lacking),
                *(other, difference.mean, difference.low, difference.high, notes),
            )


def run_rows(outcomes: Outcomes) -> Iterator[Sequence[Any]]:
    """For `RUNS`, a row for each final trial, finished or not."""
    for o in outcomes.finals:
        trial, result = o.trial, o.result or {}
        yield (
            *(trial.id, trial.suite, trial.backbone, trial.shots, trial.task, trial.group, o.row, trial.seed, o.state),
            *(result.get(name) for name in ("test_accuracy", "test_right", "test_total")),
            *(result.get("parameters", {}).get("trained"), result.get("train_seconds"), result.get("memory_mb")),
            *(result.get("machine", {}).get("device"), o.problem),
        )


def as_json(study: Study, outcomes: Outcomes) -> str:
    """All trials, candidates too, a line each, and what was chosen of them; nothing in it says where files lay.

    `options` are those of `capaboost train` that are not at their defaults; `weights` is the SHA-256 of the base
    weights' file; accuracies are in per cent, and null where nobody asked for them. A damaged result stops nothing.
    """
    finals = {outcome.trial.id: (outcome.state, outcome.result) for outcome in outcomes.finals}
    lines = []
    for trial, state in states(study):
        try:
            state, result = finals.get(trial.id) or (state, study.result(trial))
        except ValueError:
            state, result = "damaged", None
        lines.append(json.dumps(report_line(trial, state, result)))
    text = ",\n".join(lines)
    return f'{{"trials": [\n{text}\n],\n"choices": {json.dumps(outcomes.choices)}}}\n'
