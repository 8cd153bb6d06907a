"""What has become of the trials of a study, sorted into parts whose numbers may stand in one table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.folder import differences
from .manifest import Study
from .runs import method_name, row_labels
from .selection import Choice, read_choices
from .status import states
from .trial import Trial, identifying_options


@dataclass(frozen=True)
class Outcome:
    """A trial and its result.

    Args:
        row: the label of its method; numbered where trials of one cell differ in more than the seed.
        result: what result.json holds; None if it is not there or cannot be used.
        state: finished, failed (given up), damaged, running or waiting.
        problem: why it failed or is damaged.
    """

    trial: Trial
    row: str
    folder: Path
    result: dict[str, Any] | None
    state: str
    problem: str | None = None

    @property
    def taken_from(self) -> str | None:
        """The report that the result was taken from (`--known`); None if it was computed in this study."""
        return None if self.result is None else self.result.get("taken_from")


@dataclass(frozen=True)
class Comparison:
    """Trials whose numbers are comparable: of one suite, one backbone, one file of weights, one number of shots."""

    title: str
    suite: str
    backbone: str
    shots: int | None
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]  # how numbered rows differ


@dataclass(frozen=True)
class Outcomes:
    """Everything that a report tells of."""

    folder: Path
    trials: tuple[Outcome, ...]  # candidates too, in the order of the manifest
    parts: tuple[Comparison, ...]
    choices: dict[str, Choice]  # of `study tune`, by cell
    left_out: tuple[str, ...]  # lines of the manifest that are no trials, each with its number and the reason

    @property
    def finals(self) -> list[Outcome]:
        """The final trials of all parts."""
        return [outcome for part in self.parts for outcome in part.outcomes]

    @property
    def states(self) -> dict[str, Counter[str]]:
        """Numbers of trials by stage and state."""
        return {
            stage: Counter(outcome.state for outcome in self.trials if outcome.trial.stage == stage)
            for stage in ("final", "candidate")
        }


def read_outcomes(folder: str | Path) -> Outcomes:
    """Reads a study's manifest and results; only trials of the stage "final" are in a comparison, if there are any.

    A result that cannot be used is named in its outcome, and stops nothing.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: `choices.json` is damaged.
    """
    study = Study(folder)
    everything = states(study)
    groups: dict[tuple[str, str, str | None, int | None], list[tuple[Trial, str]]] = defaultdict(list)
    for trial, state in everything:
        if trial.stage == "final":
            groups[trial.suite, trial.backbone, trial.weights, trial.shots].append((trial, state))
    parts: list[Comparison] = []
    finals: dict[str, Outcome] = {}
    for (suite, backbone, weights, shots), members in groups.items():
        rows, notes = _rows([trial for trial, _ in members])
        outcomes = tuple(_outcome(study, trial, state, rows[trial.id]) for trial, state in members)
        finals |= {outcome.trial.id: outcome for outcome in outcomes}
        title = [suite, backbone]
        if len({key[2] for key in groups if key[:2] == (suite, backbone)}) > 1:
            title.append(f"weights {weights[:8]}" if weights else "weights of the hub")
        if shots is not None:
            title.append(f"{shots} {'shots' if shots != 1 else 'shot'}")
        parts.append(Comparison(", ".join(title), suite, backbone, shots, outcomes, tuple(notes)))
    trials = tuple(finals.get(trial.id) or _outcome(study, trial, state, trial.method) for trial, state in everything)
    choices = read_choices(study) if study.choices.exists() else {}
    return Outcomes(study.path, trials, tuple(parts), choices, tuple(study.left_out))


def described(outcomes: Sequence[Outcome]) -> str:
    """What people call the methods of some trials, such as `capaboost-lora r8 d2`, in the order of the trials."""
    names = (method_name(outcome.result["method"]) for outcome in outcomes if outcome.result is not None)
    return " / ".join(dict.fromkeys(names))


def _outcome(study: Study, trial: Trial, state: str, row: str) -> Outcome:
    result = problem = None
    failure = study.failure(trial) if state == "failed" else None
    if failure is not None:
        attempts = failure.get("attempts")
        problem = f"{failure.get('error')}" + (f" (attempts: {attempts})" if attempts else "")
    if state == "finished":
        result = study.result(trial)
    elif state == "damaged":
        problem = study.damage(trial)
    return Outcome(trial, row, study.run_folder(trial), result, state, problem)


def _rows(trials: Sequence[Trial]) -> tuple[dict[str, str], list[str]]:
    """The row of each trial by its id, and how the rows of one method differ."""
    runs = []
    for trial in trials:
        options = {name: value for name, value in identifying_options(trial.config).items() if name != "seed"}
        runs.append(((trial.method, trial.task), trial.method, trial.seed, options))
    rows: dict[str, str] = {}
    notes: dict[str, None] = {}
    for trial, (row, first, options) in zip(trials, row_labels(runs), strict=True):
        rows[trial.id] = row
        if row != trial.method:
            changed = "; ".join(differences(first, options))
            notes[f"{row} differs from {trial.method} on {trial.task}: {changed}"] = None
    return rows, list(notes)
