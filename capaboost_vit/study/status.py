"""How far a study is."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator

from ..io.printable import printable
from .lease import Leases
from .manifest import Study
from .trial import Trial

STATES = ("finished", "running", "waiting", "damaged", "failed")


def states(study: Study) -> list[tuple[Trial, str]]:
    """Each trial: finished, running (a worker has it), waiting, damaged (its result is none), or failed (given up)."""
    leases = Leases(study.leases, seconds=float("inf"))

    def state(trial: Trial) -> str:
        if study.finished(trial):
            return "finished"
        if study.failure(trial) is not None:
            return "failed"
        if leases.owner(trial.id) is not None:
            return "running"
        return "damaged" if study.damage(trial) else "waiting"

    return [(trial, state(trial)) for trial in study.trials().values()]


def progress_line(trials: list[tuple[Trial, str]]) -> str:
    """How many trials are in each state, as `states` gives them."""
    counts = Counter(state for _, state in trials)
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state] or state == "finished"]
    return f"{len(trials)} trials: {', '.join(parts)}"


def describe(study: Study) -> Iterator[str]:
    """Lines: numbers of trials, by method too; who runs what; what failed, and why; the time that is left.

    Raises:
        FileNotFoundError: there is no study.
    """
    trials = states(study)
    yield f"{study.path}: {progress_line(trials)}"
    if study.left_out:
        yield f"lines of {study.manifest.name} left out, as they are no trials: {len(study.left_out)}"
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
            where = f"process {owner['pid']} on {owner['host']}"
            yield printable(f"running: {trial.title()}: {where}, last sign of life {owner.get('time')}")
    for trial, state in trials:
        lease = leases.damage(trial.id) if state in ("waiting", "damaged") else None
        if lease:
            yield f"damaged: {trial.title()}: {lease}: a worker takes the trial over"
        if state == "damaged":
            yield f"damaged: {trial.title()}: {study.damage(trial)}"
        if state == "failed":
            failure = study.failure(trial) or {}
            yield printable(f"failed: {trial.title()} ({study.run_folder(trial)}): {failure.get('error')}")
    results = [study.result(trial) for trial, state in trials if state == "finished"]
    seconds = [float(result["train_seconds"]) for result in results if result is not None]
    left = sum(state in ("running", "waiting", "damaged") for _, state in trials)
    if seconds:
        mean = statistics.fmean(seconds)
        remaining = f"; {left} are left: {left * mean / 3600:.1f} h of one worker" if left else ""
        yield f"time: a trial trains for {mean:.0f} s on average, {sum(seconds) / 3600:.2f} h in all{remaining}"
