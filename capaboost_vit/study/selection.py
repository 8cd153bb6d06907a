"""Selection of hyper-parameters on val: the candidates of a study, and which of them was chosen (choices.json)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from ..io.atomic import write_text
from ..io.json import read_object
from ..io.options import check_type
from ..io.printable import printable
from .manifest import Study
from .trial import Trial


class Candidate(NamedTuple):
    """Options over those of a method, and their trials on one task, one for each seed."""

    options: dict[str, Any]
    trials: list[Trial]


class Choice(TypedDict):
    """What was chosen for one cell, as `choices.json` holds it.

    Args:
        options: over those of the method.
        score: mean accuracy on val over seeds (and tasks, if they share the choice), in per cent.
        tried: every candidate's options and score, in the order of the grid.
        at_the_edge: options of which the smallest or largest value that was tried is the best.
    """

    options: dict[str, Any]
    score: float
    tried: list[tuple[dict[str, Any], float]]
    at_the_edge: list[str]


_TYPES = {"options": dict[str, Any], "score": float, "tried": list, "at_the_edge": tuple[str, ...]}
_SEPARATOR = " | "  # in the name of a cell


def choice_key(task: str, method: str, backbone: str, shots: int | None) -> str:
    """The name of a cell for which options are chosen. Raises ValueError for a name that would not be told apart."""
    parts = [task, method, backbone, *([] if shots is None else [f"{shots} shots"])]
    if any(_SEPARATOR in part for part in parts):
        raise ValueError(f"no name of a task or method may hold {_SEPARATOR!r}: rename {', '.join(parts[:2])}")
    return _SEPARATOR.join(parts)


def group_of(key: str, *, across_tasks: bool) -> str:
    """Which cells share a choice: across tasks those of one method, backbone and number of shots; else each its own."""
    return key.partition(_SEPARATOR)[2] if across_tasks else key


def select_candidates(
    study: Study, candidates: Mapping[str, Sequence[Candidate]], *, across_tasks: bool = False
) -> tuple[dict[str, Choice], list[str]]:
    """The best candidate of each cell by its mean accuracy on val at the end of training; the first of equals.

    Args:
        candidates: by `choice_key`; those of a method are the same on all tasks, as its own options say what they are.
        across_tasks: the mean runs over tasks too, and all tasks of a method get the same candidate.

    Returns:
        The choices, and what is missing of the cells that have none.
    """
    scores: dict[str, list[float]] = {}
    missing = []
    groups: dict[str, list[str]] = {}
    for key, cell in candidates.items():
        groups.setdefault(group_of(key, across_tasks=across_tasks), []).append(key)
        results = [[study.result(t) if study.finished(t) else None for t in candidate.trials] for candidate in cell]
        lacking = sum(result is None for row in results for result in row)
        if lacking:
            missing.append(f"{key}: {lacking} of {sum(map(len, results))} candidates are not finished")
        else:
            scores[key] = [statistics.fmean(r["val_accuracy"] for r in row if r is not None) for row in results]
    choices: dict[str, Choice] = {}
    for keys in groups.values():
        if not all(key in scores for key in keys):
            continue
        means = [statistics.fmean(column) for column in zip(*(scores[key] for key in keys), strict=True)]
        points = [candidate.options for candidate in candidates[keys[0]]]
        best = means.index(max(means))
        tried = list(zip(points, means, strict=True))
        choice = Choice(options=points[best], score=means[best], tried=tried, at_the_edge=_edges(points, best))
        choices |= dict.fromkeys(keys, choice)
    return choices, missing


def write_choices(study: Study, choices: Mapping[str, Choice]) -> None:
    """Adds the choices to `choices.json`; those of other cells stay."""
    earlier = read_choices(study) if study.choices.exists() else {}
    write_text(study.choices, json.dumps({**earlier, **choices}, indent=1) + "\n")


def read_choices(study: Study) -> dict[str, Choice]:
    """What was chosen, by `choice_key`. Raises FileNotFoundError if nothing was, ValueError if the file is damaged."""
    choices: dict[str, Any] = {}
    try:
        for key, choice in read_object(study.choices).items():
            if len(key.split(_SEPARATOR)) not in (3, 4):
                raise ValueError(f"{key!r} names no task, method and backbone")
            choices[key] = {"tried": [], "at_the_edge": [], **choice}
            for name, hint in _TYPES.items():
                check_type(name, choices[key].get(name), hint)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"nothing was chosen in {study.path}: run capaboost study tune with the same options first"
        ) from None
    except (ValueError, TypeError) as error:
        message = f"{study.choices} is damaged ({error}): remove it, and run capaboost study tune again"
        raise ValueError(printable(message)) from error
    return choices


def _edges(points: Sequence[Mapping[str, Any]], best: int) -> list[str]:
    """Options with several numbers to choose from, the best of which is the smallest or the largest."""
    at_the_edge = []
    for name, value in points[best].items():
        values = {point[name] for point in points if isinstance(point[name], (int, float))}
        if len(values) > 1 and value in (min(values), max(values)):
            at_the_edge.append(name)
    return at_the_edge
