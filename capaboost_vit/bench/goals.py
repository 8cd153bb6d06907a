"""Goals: bounds that a configuration sets on what `capaboost bench speed` measures, and whether a result keeps them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
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


def judge(goals: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each goal with its bound in words, its value and whether that, not rounded, is `met`; None: not measured."""
    judged = []
    for name, bound in goals.items():
        low, high = bound if isinstance(bound, list | tuple) else (float("-inf"), bound)
        words = f"{low:g} to {high:g}" if isinstance(bound, list | tuple) else f"<= {high:g}"
        value = _value(name, tables)
        met = None if value is None else bool(low <= value <= high)
        judged.append({"measure": name, "bound": words, "value": value, "met": met})
    return judged


def _value(name: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> float | None:
    """What the goal is about: seconds, or the first case over the second; None unless all of it was measured."""
    measure, *words = name.split()
    if measure == "import":
        return next((row["s"] for row in tables.get("import", ())), None)
    table = words[0] if measure != "inference" else "inference"
    rows = {row["case"]: row for row in tables.get(table, ())}
    case, other = (rows.get(name, {}) for name in (words[-3], words[-1]))
    if measure == "memory":
        return case["peak MB"] / other["peak MB"] if "peak MB" in case and "peak MB" in other else None
    if "times" not in case or "times" not in other:
        return None
    times = zip(case["times"]["whole"], other["times"]["whole"], strict=True)
    return statistics.median(seconds / reference for seconds, reference in times)
