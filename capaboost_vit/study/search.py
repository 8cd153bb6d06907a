"""Black-box search on val: candidates in batches, each a function of the scores of those before it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .config import StudyTuneConfig
from .manifest import Study
from .plan import Cell, Plan
from .search_engines import Point, check_engine, propose
from .search_space import Axis, search_axes
from .selection import Choice, group_of
from .trial import Trial


@dataclass
class _Search:
    """One search: its cells share the choice, and a point is tried on all of them.

    Args:
        axes: those of several values; the options with one are `fixed`.
    """

    cells: list[Cell]
    axes: list[Axis]
    fixed: dict[str, object]
    tried: list[tuple[Point, float]] = field(default_factory=list)
    ended: bool = False

    def options(self, point: Point) -> dict[str, object]:
        return self.fixed | {axis.name: axis.value(c) for axis, c in zip(self.axes, point, strict=True)}


def search(
    study: Study, config: StudyTuneConfig, compute: Callable[[list[Trial]], list[Trial]]
) -> tuple[dict[str, Choice], list[str]]:
    """The best of `config.budget` candidates of each cell by mean accuracy on val, over seeds (and tasks, across them).

    Batch by batch an engine is told the scores so far, in the order in which it asked for them, not in that in which
    workers finish. So the candidates do not depend on the workers, and the same call on a study that was stopped finds
    what is finished, and goes on. A run that diverged counts as 0.

    Args:
        compute: writes trials down and runs what is open; gives them with the ids that they have in the study.

    Returns:
        The choices by cell, and what is missing of the cells that have none.

    Raises:
        FileNotFoundError, ValueError, TypeError: as for `candidate_trials`.
        ModuleNotFoundError: the package of the engine is not installed.
    """
    assert config.budget is not None
    check_engine(config.search)  # before the first candidate is trained
    plan = Plan(config)
    searches: dict[str, _Search] = {}
    asked: set[str] = set()
    for cell in plan.cells():
        group = group_of(cell.key, across_tasks=config.across_tasks)
        axes = search_axes(config.grid, plan.methods[cell.method])
        fixed = {axis.name: axis.values[0] for axis in axes if len(axis.values) == 1}
        free = [axis for axis in axes if axis.name not in fixed]
        searches.setdefault(group, _Search([], free, fixed)).cells.append(cell)
        asked |= {axis.name for axis in axes}
    plan.check_grid(asked)
    missing: dict[str, str] = {}
    while under_way := {name: one for name, one in searches.items() if not one.ended and name not in missing}:
        batches = []
        for name, one in under_way.items():
            count = min(config.batch, config.budget - len(one.tried))
            points = propose(config.search, one.axes, one.tried, count, config.search_seed) if count else []
            one.ended = not points
            if one.ended and count:
                print(f"{name}: {config.search} sees no further candidate behind {len(one.tried)}")
            batches += [(name, one, point) for point in points]
        trials = [[*_trials(plan, config, one, point)] for _, one, point in batches]
        kept = iter(compute([trial for row in trials for trial in row]) if trials else ())
        for (name, one, point), row in zip(batches, trials, strict=True):
            row = [next(kept) for _ in row]
            if reason := next(filter(None, (_unfinished(study, trial) for trial in row)), None):
                missing.setdefault(name, f"{name}: {reason}")
            elif name not in missing:
                one.tried.append((point, statistics.fmean(_score(study, trial) for trial in row)))
        for line in _progress(under_way, config.budget):
            print(line)
    choices: dict[str, Choice] = {}
    for name, one in searches.items():
        if name not in missing:
            choices |= dict.fromkeys((cell.key for cell in one.cells), _choice(one))
    return choices, list(missing.values())


def _trials(plan: Plan, config: StudyTuneConfig, one: _Search, point: Point) -> Iterable[Trial]:
    for cell in one.cells:
        for seed in config.tune_seeds:
            yield plan.trial(cell, one.options(point), seed, "candidate")


def _unfinished(study: Study, trial: Trial) -> str | None:
    """Why a trial has no score; None where it has one."""
    if study.finished(trial) or study.diverged(trial):
        return None
    failure = study.failure(trial)
    if failure is None:
        return f"{trial.title()} is not finished: start workers, then this again"
    return f"{trial.title()} failed ({failure['error']})"


def _score(study: Study, trial: Trial) -> float:
    result = study.result(trial) if study.finished(trial) else None
    return 0.0 if result is None else float(result["val_accuracy"])


def _choice(one: _Search) -> Choice:
    scores = [score for _, score in one.tried]
    best = scores.index(max(scores))
    options = one.options(one.tried[best][0])
    tried = [(one.options(point), score) for point, score in one.tried]
    edges = [axis.name for axis in one.axes if axis.at_the_edge(options[axis.name])]
    return Choice(options=options, score=scores[best], tried=tried, at_the_edge=edges)


def _progress(searches: dict[str, _Search], budget: int) -> Iterable[str]:
    for name, one in searches.items():
        if one.tried and not one.ended:
            best = _choice(one)
            options = ", ".join(f"{option} {value}" for option, value in best["options"].items())
            yield f"{name}: {len(one.tried)} of {budget} candidates, best val {best['score']:.2f} ({options})"
