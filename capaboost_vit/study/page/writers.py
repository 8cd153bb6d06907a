"""A report as Markdown, LaTeX and HTML from templates, and its numbers as csv and json."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..outcomes import Outcomes
from .grid import Grid, Score

if TYPE_CHECKING:
    from jinja2 import Environment

# by filter of the templates: what LaTeX reads as a command; what ends a cell of Markdown, or begins an element of HTML
ESCAPES = {
    "tex": str.maketrans(
        {character: rf"\{character}" for character in "&%$#_{}"}
        | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
        | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "…": r"\dots{}"}
    ),
    "markdown": str.maketrans({"|": r"\|", "<": r"\<", "\n": " "}),
}


def render(template: str, **values: Any) -> str:
    """A template of this folder with values in it; what would be markup of its format is escaped."""
    return _environment().get_template(template).render(**values)


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
    environment.filters |= {name: methodcaller("translate", table) for name, table in ESCAPES.items()}
    return environment


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as csv; None is an empty field, whole numbers stay whole."""
    return str(pd.DataFrame(list(rows), dtype=object).to_csv(index=False))


def cell_rows(grids: Iterable[Grid]) -> Iterator[dict[str, Any]]:
    """A row for each method and task or average, with the difference to the reference."""
    for grid in grids:
        part = grid.part
        for row, column in itertools.product(grid.rows, grid.columns):
            score, trial = grid.score(row, column), column.trial
            other = grid.reference if grid.reference != row else None
            difference = Score() if other is None else grid.difference(row, column)
            line: dict[str, Any] = {"suite": part.suite, "backbone": part.backbone, "shots": part.shots, "method": row}
            line |= {"over": column.name, "kind": "task" if trial else "average", "group": trial.group if trial else ""}
            line |= {"mean": score.mean, "std": score.spread, "seeds": score.seeds}
            line |= {"planned_seeds": len(grid.accuracy.loc[row]), "missing": "; ".join(score.lacking)}
            line |= {"reference": other, "difference": difference.mean, "low": difference.low, "high": difference.high}
            yield {**line, "notes": "; ".join(trial.notes) if trial else ""}


def run_rows(outcomes: Outcomes) -> Iterator[dict[str, Any]]:
    """A row for each final trial, finished or not."""
    for o in outcomes.finals:
        trial, result = o.trial, o.result or {}
        line: dict[str, Any] = {"trial": trial.id}
        line |= {name: getattr(trial, name) for name in ("suite", "backbone", "shots", "task", "group")}
        line |= {"method": o.row, "seed": trial.seed, "state": o.state}
        line |= {name: result.get(name) for name in ("test_accuracy", "test_right", "test_total")}
        line |= {"trained_parameters": result.get("parameters", {}).get("trained")}
        line |= {name: result.get(name) for name in ("train_seconds", "memory_mb")}
        yield {**line, "device": result.get("machine", {}).get("device"), "problem": o.problem}
