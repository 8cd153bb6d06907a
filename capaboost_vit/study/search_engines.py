"""Search engines: the next points of a search, as a function of those that were tried, in order, and of a seed.

Nothing else is remembered, so a search that is begun again asks for the same points, and what the study has of them
answers at once. All engines maximise, and begin with the method's own values.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .search_space import Axis

Point = tuple[float, ...]  # a coordinate of each axis
Tried = Sequence[tuple[Point, float]]  # with the scores
_SEEDS = 2**32


def random_points(axes: Sequence[Axis], tried: Tried, count: int, seed: int) -> list[Point]:
    """Points that are drawn uniformly: the control of every engine."""
    drawn = []
    first = max(1, len(tried))  # behind the method's own values
    for number in range(first, first + count):
        random = np.random.RandomState([seed, number])
        drawn.append(tuple(_uniform(axis, random) for axis in axes))
    return drawn


def optuna_points(axes: Sequence[Axis], tried: Tried, count: int, seed: int) -> list[Point]:
    """Tree-structured Parzen estimators of optuna: 10 points at random, then where the good ones are dense.

    Points of one batch know of each other (`constant_liar`).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {axis.name: _distribution(optuna.distributions, axis) for axis in axes}
    sampler = optuna.samplers.TPESampler(seed=(seed * 10_007 + len(tried)) % _SEEDS, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for point, score in tried:
        params = {axis.name: round(c) if axis.whole else c for axis, c in zip(axes, point, strict=True)}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=score))
    asked = [study.ask(distributions).params for _ in range(count)]
    return [tuple(float(params[axis.name]) for axis in axes) for params in asked]


def nomad_points(axes: Sequence[Axis], tried: Tried, count: int, seed: int) -> list[Point]:
    """Mesh adaptive direct search (NOMAD 4, as arXiv 2312.00949 searches LoRA's options): one point at a time.

    It runs in a process of its own, as it crashes where it should raise, from the start to the first point that has no
    score yet. No point: NOMAD sees none that is left to try.

    Raises RuntimeError where NOMAD fails.
    """
    low, high = zip(*(axis.bounds() for axis in axes), strict=True)
    question = {
        "start": [axis.start() for axis in axes],
        "low": low,
        "high": high,
        "types": ["I" if axis.whole else "R" for axis in axes],
        "seed": seed,
        "tried": [[point, -score] for point, score in tried],
    }
    program = Path(__file__).with_name("nomad.py")
    done = subprocess.run([sys.executable, str(program)], input=json.dumps(question), capture_output=True, text=True)
    answers = [line for line in done.stdout.splitlines() if line.startswith("point ")]
    if done.returncode or not answers:
        raise RuntimeError(f"NOMAD ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    point = json.loads(answers[-1].removeprefix("point "))
    return [] if point is None else [tuple(point)]


ENGINES: dict[str, Callable[[Sequence[Axis], Tried, int, int], list[Point]]] = {
    "random": random_points,
    "optuna": optuna_points,
    "nomad": nomad_points,
}
_PACKAGES = {"optuna": ("optuna", "optuna", "search"), "nomad": ("PyNomad", "PyNomadBBO", "nomad")}  # module, extra


def check_engine(engine: str) -> None:
    """Raises ModuleNotFoundError if the package of an engine is not installed."""
    module, package, extra = _PACKAGES.get(engine, ("", "", ""))
    if module and importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f"--search {engine} needs {package}: pip install 'capaboost_vit[{extra}]'")


def propose(engine: str, axes: Sequence[Axis], tried: Tried, count: int, seed: int) -> list[Point]:
    """The next points, at most `count`, each axis of several values; the first of all has the method's own values."""
    first = [] if tried else [tuple(axis.start() for axis in axes)]
    if not axes or (first and (engine == "nomad" or count == 1)):
        return first
    return [*first, *ENGINES[engine](axes, tried, count - len(first), seed)]


def _uniform(axis: Axis, random: np.random.RandomState) -> float:
    low, high = axis.bounds()
    return float(random.randint(int(low), int(high) + 1) if axis.whole else random.uniform(low, high))


def _distribution(kinds: Any, axis: Axis) -> Any:
    low, high = axis.bounds()
    if axis.values and not axis.ordered:
        return kinds.CategoricalDistribution(range(len(axis.values)))
    return kinds.IntDistribution(int(low), int(high)) if axis.whole else kinds.FloatDistribution(low, high)
