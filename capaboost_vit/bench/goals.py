"""Goals: bounds that a configuration sets on what `capaboost bench speed` measures, and whether a result keeps them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(r"(step|memory) (all-linears|q-v|methods) \S+ / \S+|inference \S+ / \S+|import")
_FORMS = "step GROUP CASE / CASE, memory GROUP CASE / CASE (or / least), inference CASE / CASE, import"


def check_goals(goals: Mapping[str, Any]) -> None:
    """Raises ValueError for a goal of no known form, or a bound that is neither a number nor two."""
    for name, bound in goals.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"--goals: no goal {name!r}; write one of {_FORMS}")
        numbers = bound if isinstance(bound, list | tuple) and len(bound) == 2 else [bound]
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"--goals: the bound of {name!r} must be a number or [least, most], got {bound!r}")


def judge(goals: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each goal with its bound in words, its value and whether that, not rounded, is `met`; None: not measured."""
    judged = []
    for name, bound in goals.items():
        low, high = bound if isinstance(bound, list | tuple) else (float("-inf"), bound)
        words = f"{low:g} to {high:g}" if isinstance(bound, list | tuple) else f"<= {high:g}"
        value = _value(name, result)
        met = None if value is None else bool(low <= value <= high)
        judged.append({"measure": name, "bound": words, "value": value, "met": met})
    return judged


def _value(name: str, result: Mapping[str, Any]) -> float | None:
    """What the goal is about: seconds, or the first case over the second; None unless all of it was measured."""
    measure, *words = name.split()
    if measure == "import":
        seconds: float | None = result["import_seconds"]
        return seconds
    *group, case, _, other = words
    entries = result["groups"].get(group[0], {"cases": {}}) if group else {"cases": result["inference"] or {}}
    cases = entries["cases"]
    if measure == "memory":
        peaks = {name: entry["memory"]["peak"] for name, entry in cases.items() if "memory" in entry}
        if "stored_inputs" in entries and "floor" in peaks:
            peaks["least"] = peaks["floor"] + entries["stored_inputs"]["all"]
        return peaks[case] / peaks[other] if {case, other} <= peaks.keys() else None
    times = {name: entry["times"]["whole"]["times"] for name, entry in cases.items() if "times" in entry}
    if not {case, other} <= times.keys():
        return None
    return statistics.median(a / b for a, b in zip(times[case], times[other], strict=True))
