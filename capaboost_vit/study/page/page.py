"""The report of a study, written: report.html and its tables in other formats."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...io.atomic import write_text
from ..manifest import Study
from .costs import count_model, measure_costs
from .curves import learning_curves
from .grid import Grid
from .outcomes import Outcome, Outcomes, Part, read_outcomes
from .paired import plain_lora
from .pictures import Illustrator, Picture
from .predictions import Predictions, Thumbnails, read_predictions
from .published import why_not_beside
from .raw import as_json
from .tables import Table, accuracy_table, choices_table, paired_table, problems_table, published_table
from .updates import inspect
from .writers import as_csv, as_latex, as_markdown, cell_rows, run_rows

FORMATS = ("html", "md", "csv", "tex", "json")
_STATES = ("finished", "running", "waiting", "failed", "damaged")
_PICTURES = 6_000_000  # bytes that thumbnails may take in all
_THUMBNAIL = 3_600  # bytes of one


@dataclass(frozen=True)
class Section:
    """One part of the study on the page."""

    key: str
    part: Part
    grid: Grid
    reference: str | None
    tables: tuple[Table, ...]
    why_not_published: str | None
    pictures: tuple[Picture, ...]
    runs: dict[str, list[Predictions]]  # by task
    remarks: tuple[str, ...]  # what could not be shown


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    reference: str | None = None,
    formats: Sequence[str] = FORMATS,
    thumbnails: bool = True,
) -> list[Path]:
    """Writes `report.html`, `.md`, `.tex`, `.json`, `.csv` and `report_runs.csv` (a line a trial); returns the paths.

    Args:
        folder: of the study.
        output: folder of the files; None is that of the study.
        reference: the method to compare with; None takes the study's plain LoRA.
        thumbnails: show the worst mistakes, where the data are on this machine.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: an unknown format or reference, or a study without final trials.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"--formats: choose from {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")
    outcomes = read_outcomes(folder)
    compared = [(part, grid := Grid(part.outcomes), _reference(grid, reference)) for part in outcomes.parts]
    if reference is not None and all(found is None for _, _, found in compared):
        known = dict.fromkeys(row for _, grid, _ in compared for row in grid.rows)
        raise ValueError(f"--reference {reference}: the study has no such method; it has {', '.join(known)}")
    target = Path(folder if output is None else output)
    target.mkdir(parents=True, exist_ok=True)
    texts: dict[str, str] = {}
    if "html" in formats:
        texts["report.html"] = render(outcomes, compared, thumbnails=thumbnails)
    if "md" in formats:
        texts["report.md"] = (
            f"# {headline(outcomes)}\n\n{progress(outcomes)}\n\n{as_markdown(_tables(outcomes, compared))}"
        )
    if "csv" in formats:
        texts["report.csv"] = as_csv(cell_rows(compared))
        texts["report_runs.csv"] = as_csv(run_rows(outcomes))
    if "tex" in formats:
        texts["report.tex"] = as_latex(_tables(outcomes, compared))
    if "json" in formats:
        texts["report.json"] = as_json(Study(folder), outcomes)
    for name, text in texts.items():
        write_text(target / name, text)
    return [target / name for name in texts]


Compared = Sequence[tuple[Part, Grid, str | None]]


def render(outcomes: Outcomes, compared: Compared, *, thumbnails: bool) -> str:
    """The page: one text of HTML that asks for nothing else."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    count = functools.cache(count_model)
    images = Thumbnails() if thumbnails else None
    shown = sum(len(_first_runs(grid)) for _, grid, _ in compared)
    most = max(3, min(24, _PICTURES // (_THUMBNAIL * max(1, shown))))
    sections = [
        _section(f"part{i + 1}", part, grid, reference, count, images, most)
        for i, (part, grid, reference) in enumerate(compared)
    ]
    environment = Environment(
        loader=PackageLoader("capaboost_vit.study.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    final = outcomes.states["final"]
    return environment.get_template("report.html").render(
        title=headline(outcomes),
        outcomes=outcomes,
        progress=progress(outcomes),
        bars=[(state, final[state], 100 * final[state] / final.total()) for state in _STATES if final[state]],
        facts=_facts(outcomes, compared),
        machines=_machines(outcomes.finals),
        sections=sections,
        tables=[t for t in (problems_table(outcomes), choices_table(outcomes.choices)) if t is not None],
        most=most,
    )


def headline(outcomes: Outcomes) -> str:
    """What the study is called: its suites and its folder."""
    suites = dict.fromkeys(part.suite for part in outcomes.parts)
    return f"{', '.join(suites)}: {outcomes.folder.resolve().name}"


def progress(outcomes: Outcomes) -> str:
    """How much is there, in a sentence."""
    final = outcomes.states["final"]
    open_ = final.total() - final["finished"] - final["failed"] - final["damaged"]
    said = [f"{final['finished']} of {final.total()} final trials are finished"]
    said += [f"{final[state]} {state}" for state in ("failed", "damaged") if final[state]]
    said += [f"{open_} missing"] if open_ else []
    tried = outcomes.states.get("candidate")
    text = ", ".join(said) + "."
    for report, count in Counter(outcome.taken_from for outcome in outcomes.finals if outcome.taken_from).items():
        text += f" {count} were taken from {report}: they have no curves, pictures or updates here."
    return text + (f" {tried['finished']} of {tried.total()} candidates were tried on val." if tried else "")


def _tables(outcomes: Outcomes, compared: Compared) -> list[Table]:
    found = [table for i, entry in enumerate(compared) for table in _part_tables(f"part{i + 1}", *entry)]
    return found + [t for t in (problems_table(outcomes), choices_table(outcomes.choices)) if t is not None]


def _part_tables(key: str, part: Part, grid: Grid, reference: str | None) -> tuple[Table, ...]:
    found = [accuracy_table(part, grid, key=f"{key}-accuracy")]
    if reference is not None and len(grid.rows) > 1:
        found.append(paired_table(part, grid, reference, key=f"{key}-paired"))
    beside = published_table(part, grid, key=f"{key}-published")
    return (*found, *([] if beside is None else [beside]))


def _reference(grid: Grid, asked: str | None) -> str | None:
    if asked is None:
        return plain_lora(grid.rows)
    return asked if asked in grid.rows else None


def _section(
    key: str, part: Part, grid: Grid, reference: str | None, count: Any, images: Thumbnails | None, most: int
) -> Section:
    drawing = Illustrator(grid, key=key)
    costs = measure_costs(grid, count=count)
    adapters = [found for row, outcomes in grid.rows.items() if (found := inspect(row, outcomes)) is not None]
    pictures = [
        drawing.differences(reference) if reference is not None else None,
        drawing.costs(costs),
        drawing.groups(),
        drawing.curves(learning_curves(grid)),
        drawing.updates(adapters),
        drawing.masks(adapters),
    ]
    runs: dict[str, list[Predictions]] = {}
    for outcome in _first_runs(grid):
        answers = read_predictions(outcome, images, most=most)
        if answers is not None:
            runs.setdefault(outcome.trial.task, []).append(answers)
    remarks = [] if images is None else [f"No images of {task}: {why}." for task, why in images.problems.items()]
    return Section(
        key,
        part,
        grid,
        reference,
        _part_tables(key, part, grid, reference),
        why_not_beside(part),
        tuple(picture for picture in pictures if picture is not None),
        runs,
        tuple(remark for remark in remarks if any(task in remark for task in grid.tasks)),
    )


def _first_runs(grid: Grid) -> list[Outcome]:
    """The first finished seed of each method and task that was computed in this study, by task."""
    found: dict[tuple[str, str], Outcome] = {}
    for row, outcomes in grid.rows.items():
        for outcome in sorted(outcomes, key=lambda o: o.trial.seed):
            if outcome.result is not None and outcome.taken_from is None:
                found.setdefault((outcome.trial.task, row), outcome)
    order = list(grid.tasks)
    return sorted(found.values(), key=lambda o: order.index(o.trial.task))


def _facts(outcomes: Outcomes, compared: Compared) -> list[tuple[str, str]]:
    """What was run, as names and values."""
    tasks = dict.fromkeys(task for _, grid, _ in compared for task in grid.tasks)
    rows = dict.fromkeys(row for _, grid, _ in compared for row in grid.rows)
    seeds = sorted({outcome.trial.seed for outcome in outcomes.finals})
    return [
        ("Suite", ", ".join(dict.fromkeys(part.suite for part in outcomes.parts))),
        ("Backbones", ", ".join(dict.fromkeys(part.backbone for part in outcomes.parts))),
        (f"Tasks ({len(tasks)})", ", ".join(tasks)),
        (f"Methods ({len(rows)})", ", ".join(rows)),
        (f"Seeds ({len(seeds)})", ", ".join(map(str, seeds))),
    ]


def _machines(outcomes: Sequence[Outcome]) -> list[tuple[str, int]]:
    """Machines and versions with the number of results that they gave."""
    found: Counter[str] = Counter()
    for outcome in outcomes:
        machine = (outcome.result or {}).get("machine")
        if machine:
            words = [str(machine.get("device")), *(f"{name} {machine.get(name)}" for name in ("threads", "processes"))]
            words += [f"{name} {version}" for name, version in machine.get("versions", {}).items()]
            found[", ".join(words)] += 1
    return found.most_common()
