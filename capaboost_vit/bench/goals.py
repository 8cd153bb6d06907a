"""The goals of speed and memory, and which of them a result meets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .timing import WHOLE, timing


@dataclass(frozen=True)
class Goal:
    """One goal that a result can answer.

    Args:
        bound: as words, such as "<= 1.06".
        met: whether the value, not rounded, is within it.
    """

    measure: str
    bound: str
    value: float
    met: bool


# the workloads of the goals, with the device and the size of an input: a result answers them only with these settings
_PLAIN = {"batch_size": 8, "rank": 8, "amp": False, "compile": False, "model_kwargs": {}, "padding": 0}
_FAST = {"batch_size": 64, "rank": 8, "amp": True, "compile": True, "amp_dtype": "bfloat16", "model_kwargs": {}}
_WORKLOADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "CPU": ("cpu", "224 px", {"model": "vit_small_patch16_224", **_PLAIN}),
    "GPU": ("cuda", "224 px", {"model": "vit_base_patch16_224", **_FAST}),
    "text on a CPU": ("cpu", "128 tokens", {"model": "roberta-base", **_PLAIN}),
}

_OURS, _PEFT, _FLOOR = "capaboost-d2", "peft", "floor"
# by workload: what is measured, the most that it may be, in which group, and which case over which other
_STEPS = {
    "CPU": (
        ("all linears, d 2: step / floor", 1.06, "all-linears", _OURS, _FLOOR),
        ("all linears, d 2: step / peft", 0.85, "all-linears", _OURS, _PEFT),
        ("q and v, d 2: step / floor", 1.02, "q-v", _OURS, _FLOOR),
        ("q and v, d 2: step / peft on qkv", 0.97, "q-v", _OURS, _PEFT),
        ("all linears: d 4 / d 2", 1.06, "all-linears", "capaboost-d4", _OURS),
    ),
    "GPU": (
        ("all linears, d 2: step / floor", 1.05, "all-linears", _OURS, _FLOOR),
        ("all linears, d 2: step / peft", 0.9, "all-linears", _OURS, _PEFT),
    ),
    "text on a CPU": (
        ("all linears, d 2: step / floor", 1.06, "all-linears", _OURS, _FLOOR),
        ("all linears, d 2: step / peft", 0.85, "all-linears", _OURS, _PEFT),
        ("q and v, d 2: step / floor", 1.02, "q-v", _OURS, _FLOOR),
        ("all linears: d 4 / d 2", 1.06, "all-linears", "capaboost-d4", _OURS),
    ),
}
_MEMORY = ("CPU", "GPU")  # the workloads that have goals of memory


def goals(result: dict[str, Any]) -> list[Goal]:
    """The goals that this result of `measure_speed` can answer; those that it cannot are left out."""
    found: list[Goal] = []
    for measure, bound, value in _rows(result):
        if value is not None:
            found.append(Goal(measure, f"<= {bound:.2f}", value, value <= bound))
    merged = _ratio(result["inference"] or {}, "merged", "base") if _workload(result) else None
    if merged is not None:
        found.append(Goal("merged inference / base inference", "1.00 +- 0.01", merged, abs(merged - 1) <= 0.01))
    return found


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, float, float | None]]:
    """What is measured, the most that it may be, and what it is."""
    workload = _workload(result)
    groups = result["groups"]
    for measure, bound, group, case, other in _STEPS[workload] if workload else ():
        yield f"{workload}, {measure}", bound, _ratio(groups.get(group, {"cases": {}})["cases"], case, other)
    for group, found in groups.items() if workload in _MEMORY else ():
        peaks = {name: case["memory"]["peak"] for name, case in found["cases"].items() if "memory" in case}
        if _OURS in peaks and "stored_inputs" in found:
            least = peaks[_FLOOR] + found["stored_inputs"]["all"]
            yield f"{workload}, {group}, d 2: peak memory / (floor + stored inputs)", 1.0, peaks[_OURS] / least
        if _OURS in peaks and _PEFT in peaks:
            yield f"{workload}, {group}, d 2: peak memory / peft", 1.0, peaks[_OURS] / peaks[_PEFT]
    yield "import capaboost_vit beyond timm (s)", 0.3, result["import_seconds"]


def _workload(result: dict[str, Any]) -> str | None:
    """Which of the goals' workloads the result is of."""
    for name, (device, size, wanted) in _WORKLOADS.items():
        same = all(result["config"][option] == value for option, value in wanted.items())
        if same and result["device"] == device and result["size"] == size:
            return name
    return None


def _ratio(cases: dict[str, Any], name: str, other: str) -> float | None:
    """The median of the ratios of two cases, round by round; None unless both were timed."""
    if not all("times" in cases.get(case, {}) for case in (name, other)):
        return None
    times, reference = (cases[case]["times"][WHOLE]["times"] for case in (name, other))
    return timing(times, reference).ratio
