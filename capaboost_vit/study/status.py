"""How far a study is."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator

from .lease import Leases
from .manifest import Study, Trial

STATES = ("finished", "running", "waiting", "failed")


def states(study: Study) -> list[tuple[Trial, str]]:
    """Each trial, and whether it is finished, running (a worker has it), waiting, or failed (given up)."""
    leases = Leases(study.leases, seconds=float("inf"))

    def state(trial: Trial) -> str:
        if study.finished(trial):
            return "finished"
        if study.failure(trial) is not None:
            return "failed"
        return "waiting" if leases.owner(trial.id) is None else "running"

    return [(trial, state(trial)) for trial in study.trials().values()]


def progress_line(trials: list[tuple[Trial, str]]) -> str:
    """How many trials are in each state, as `states` gives them."""
    counts = Counter(state for _, state in trials)
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state] or state == "finished"]
    return f"{len(trials)} trials: {', '.join(parts)}"


def describe(study: Study) -> Iterator[str]:
    """Lines: numbers of trials, by method too; who runs what; what failed, and why; the time that is left.

    Raises:
        FileNotFoundError: there is no study. ValueError: a result that is damaged.
    """
    trials = states(study)
    yield f"{study.path}: {progress_line(trials)}"
    by_method: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for trial, state in trials:
        by_method[trial.stage, trial.method][state] += 1
    width = max((len(method) for _, method in by_method), default=0)
    for (stage, method), counts in sorted(by_method.items(), key=lambda item: item[0][0]):  # candidates come first
        others = "".join(f", {counts[state]} {state}" for state in STATES[1:] if counts[state])
        yield f"  {stage:9}  {method:{width}}  {counts['finished']} of {sum(counts.values())} finished{others}"
    leases = Leases(study.leases, seconds=float("inf"))
    for trial, state in trials:
        owner = leases.owner(trial.id) if state == "running" else None
        if owner is not None:
            where = f"process {owner.get('pid')} on {owner.get('host')}"
            yield f"running: {trial.title()}: {where}, last sign of life {owner.get('time')}"
    for trial, state in trials:
        if state == "failed":
            failure = study.failure(trial) or {}
            yield f"failed: {trial.title()} ({study.run_folder(trial)}): {failure.get('error')}"
    results = [study.result(trial) for trial, state in trials if state == "finished"]
    seconds = [float(result["train_seconds"]) for result in results if result is not None]
    left = sum(state in ("running", "waiting") for _, state in trials)
    if seconds:
        mean = statistics.fmean(seconds)
        rest = f"; {left} are left: {left * mean / 3600:.1f} h of one worker" if left else ""
        yield f"time: a trial trains for {mean:.0f} s on average, {sum(seconds) / 3600:.2f} h in all{rest}"
