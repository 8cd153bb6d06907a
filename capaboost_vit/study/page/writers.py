"""A report as Markdown, LaTeX and HTML from templates, and its numbers as csv and json."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..known import report_line
from ..manifest import Study
from ..status import states
from .grid import Grid, Score
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


def as_csv(lines: Iterable[dict[str, Any]]) -> str:
    """Lines as csv; None is an empty field, whole numbers stay whole."""
    return str(pd.DataFrame(lines, dtype=object).to_csv(index=False))


def cell_lines(compared: Sequence[tuple[Comparison, Grid, str | None]]) -> Iterable[dict[str, Any]]:
    """A line for each method and task or average, with the comparison; the reference may be None."""
    for part, grid, reference in compared:
        for row in grid.rows:
            other = reference if reference != row else None
            for column in grid.columns:
                trial = column.trial
                score = grid.score(row, column)
                difference = None if other is None else compare(grid, row, other, column)
                yield {
                    **{"suite": part.suite, "backbone": part.backbone, "shots": part.shots, "method": row},
                    **{"over": column.name, "kind": "average" if trial is None else "task"},
                    "group": "" if trial is None else trial.group,
                    **_numbers(score, len(grid.accuracy.loc[row]), other, difference),
                    "notes": "" if trial is None else "; ".join(trial.notes),
                }


def _numbers(score: Score, planned: int, reference: str | None, difference: Difference | None) -> dict[str, Any]:
    return {
        **{"mean": score.mean, "std": score.spread, "seeds": score.seeds, "planned_seeds": planned},
        **{"missing": "; ".join(score.lacking), "reference": reference},
        **{name: None if difference is None else getattr(difference, key) for name, key in _DIFFERENCE.items()},
    }


_DIFFERENCE = {"difference": "mean", "low": "low", "high": "high"}


def run_lines(outcomes: Outcomes) -> Iterable[dict[str, Any]]:
    """A line for each final trial, finished or not."""
    for o in outcomes.finals:
        trial, result = o.trial, o.result or {}
        yield {
            **{"trial": trial.id, "suite": trial.suite, "backbone": trial.backbone, "shots": trial.shots},
            **{"task": trial.task, "group": trial.group, "method": o.row, "seed": trial.seed, "state": o.state},
            **{name: result.get(name) for name in ("test_accuracy", "test_right", "test_total")},
            "trained_parameters": result.get("parameters", {}).get("trained"),
            **{name: result.get(name) for name in ("train_seconds", "memory_mb")},
            "device": result.get("machine", {}).get("device"),
            "problem": o.problem,
        }


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
