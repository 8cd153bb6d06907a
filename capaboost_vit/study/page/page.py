"""The report of a study, written: one page, its tables as Markdown and LaTeX, and its numbers as csv and json."""

from __future__ import annotations

import functools
import itertools
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...io.atomic import write_text
from ...io.printable import printable
from ...vision.explain_run import explain_mistakes
from ..escaping import csv_cell, latex, markdown
from ..outcomes import Outcomes, read_outcomes
from ..report_json import report_json
from .costs import measure_costs
from .grid import Grid, Score
from .pictures import Illustrator
from .predictions import Predictions, Thumbnails, read_predictions
from .tables import ReportTable, comparison_tables, study_tables, why_not_published
from .updates import inspect

if TYPE_CHECKING:
    from jinja2 import Environment

FORMATS = ("html", "md", "csv", "tex", "json")
_PICTURES = 6_000_000  # bytes that thumbnails may take in all
_THUMBNAIL = 3_600  # bytes of one


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    reference: str | None = None,
    formats: Sequence[str] = FORMATS,
    thumbnails: bool = True,
    explain: bool = False,
) -> list[Path]:
    """Writes `report.html`, `.md`, `.tex`, `.json`, `.csv` and `report_runs.csv` (a line a trial); returns the paths.

    Args:
        folder: of the study.
        output: folder of the files; None is that of the study.
        reference: the method to compare with; None takes the study's plain LoRA.
        thumbnails: show the worst mistakes, where the data are on this machine.
        explain: run `explain_mistakes` for the runs whose mistakes are shown, where it has not been.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: an unknown format or reference, or a study without final trials, of which there is json alone.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"--formats: choose from {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")
    outcomes = read_outcomes(folder)
    if not outcomes.parts and {*formats} != {"json"}:
        raise ValueError(
            f"{folder} has no final trial yet ({len(outcomes.trials)} candidates): run capaboost study run --output "
            f"{folder} first, or say --formats json for the candidates alone"
        )
    grids = [Grid(part, key=f"part{i}", reference=reference) for i, part in enumerate(outcomes.parts, 1)]
    rows = dict.fromkeys(row for grid in grids for row in grid.rows)
    if reference is not None and reference not in rows:
        raise ValueError(f"--reference {reference}: the study has no such method; it has {', '.join(rows)}")
    suites = ", ".join(dict.fromkeys(part.suite for part in outcomes.parts))
    taken = Counter(outcome.taken_from for outcome in outcomes.finals if outcome.taken_from)
    progress = render("progress.txt", states=outcomes.states, taken_from=taken, left_out=outcomes.left_out)
    values = {"title": f"{suites}: {outcomes.folder.resolve().name}", "progress": progress}
    compared = [comparison_tables(grid) for grid in grids] if {"html", "md", "tex"} & {*formats} else []
    last_tables = study_tables(outcomes)
    texts: dict[str, str] = {}
    if "html" in formats:
        page = _page(outcomes, grids, compared, thumbnails=thumbnails, explain=explain)
        texts["report.html"] = render("report.html", **values, **page, tables=last_tables)
    tables = [*itertools.chain(*compared), *last_tables]
    for name in ("md", "tex"):
        if name in formats:
            texts[f"report.{name}"] = render(f"report.{name}", **values, tables=tables)
    if "csv" in formats:
        texts["report.csv"] = _csv(_cell_rows(grids))
        texts["report_runs.csv"] = _csv(_run_rows(outcomes))
    if "json" in formats:
        texts["report.json"] = report_json(outcomes)
    target = Path(folder if output is None else output)
    target.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(target / name, text)
    return [target / name for name in texts]


def _page(
    outcomes: Outcomes,
    grids: Sequence[Grid],
    tables: Sequence[Sequence[ReportTable]],
    *,
    thumbnails: bool,
    explain: bool,
) -> dict[str, Any]:
    """What the page is made from; it asks for nothing else."""
    images = Thumbnails() if thumbnails else None
    shown = sum(len(grid.first_runs()) for grid in grids)
    unexplained = {}
    for run in (run for grid in grids if explain for run in grid.first_runs()):
        try:
            if not (run.folder / "explanations.json").exists():
                explain_mistakes(run.folder)
        except (OSError, ValueError) as error:
            unexplained[run.trial.task] = " ".join(str(error).split())
    most = max(3, min(24, _PICTURES // (_THUMBNAIL * max(1, shown))))
    machines = Counter(_machine(o.result["machine"]) for o in outcomes.finals if o.result and o.result.get("machine"))
    return {
        "outcomes": outcomes,
        "machines": machines.most_common(),
        "sections": [{"tables": t, **_section(grid, images, most)} for grid, t in zip(grids, tables, strict=True)],
        "no_images": {} if images is None else images.problems,
        "unexplained": unexplained,
        "most": most,
    }


def _section(grid: Grid, images: Thumbnails | None, most: int) -> dict[str, Any]:
    """One comparison on the page: its pictures, the answers of runs by task, and what could not be shown."""
    drawing, first = Illustrator(grid), grid.first_runs()
    adapters = inspect(first)
    pictures = [
        drawing.differences(),
        drawing.costs(measure_costs(grid)),
        drawing.groups(),
        drawing.curves(),
        drawing.updates(adapters),
        drawing.masks(adapters),
    ]
    runs: dict[str, list[Predictions]] = {task: [] for task in grid.tasks}
    for outcome in first:
        answers = read_predictions(outcome, images, most=most)
        if answers is not None:
            runs[outcome.trial.task].append(answers)
    return {
        "grid": grid,
        "why_not_published": why_not_published(grid.part),
        "pictures": [picture for picture in pictures if picture is not None],
        "runs": {task: shown for task, shown in runs.items() if shown},
    }


def _machine(machine: Mapping[str, Any]) -> str:
    """The machine of a result and its versions, in words."""
    counts = [f"{name} {machine.get(name)}" for name in ("threads", "processes")]
    versions = [f"{name} {version}" for name, version in machine.get("versions", {}).items()]
    return ", ".join([str(machine.get("device")), *counts, *versions])


def render(template: str, **values: Any) -> str:
    """A template of this folder with values in it; what would be markup of its format is escaped."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("capaboost_vit.study.page"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown": markdown, "tex": latex, "quote": lambda path: shlex.quote(str(path))}
    return environment


def _printable(value: Any) -> Any:
    """What a template writes; markup, such as a drawing, keeps its lines."""
    return printable(value) if type(value) is str else value


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as csv; None is an empty field, whole numbers stay whole, and no name is a formula."""
    return str(pd.DataFrame(list(rows), dtype=object).map(csv_cell).to_csv(index=False))


def _cell_rows(grids: Iterable[Grid]) -> Iterator[dict[str, Any]]:
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


def _run_rows(outcomes: Outcomes) -> Iterator[dict[str, Any]]:
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
