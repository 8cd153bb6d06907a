"""Whether a result is one, and is that of its trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..io.options import check_type, check_value
from ..training.folder import differences
from .runs import method_name
from .trial import Trial, identifying_options

_NEEDED = {"method": list, "config": dict[str, Any], "parameters": dict[str, Any], "train_seconds": float}
# what a report reads, where it is there
_OPTIONAL = {"machine": dict[str, Any], "memory_mb": float | None, "taken_from": str | None}


def check_result(result: Mapping[str, Any], trial: Trial) -> None:
    """Raises ValueError unless a result.json has what is read of it, and is that of the trial."""
    score = "test_accuracy" if trial.stage == "final" else "val_accuracy"
    needed = {**_NEEDED, score: float}
    try:
        for name, hint in {**needed, **_OPTIONAL}.items():
            if name in needed or name in result:
                check_type(name, result.get(name), hint)
        check_value(score, result[score], float, {"low": 0, "high": 100})
        check_value("train_seconds", result["train_seconds"], float, {"low": 0})
        check_type("parameters.trained", result["parameters"].get("trained"), int)
        method_name(result["method"])
        changed = differences(identifying_options(result["config"]), identifying_options(trial.config))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not that of a run: {error}") from error
    if changed:
        raise ValueError(f"that of another trial: {'; '.join(changed[:3])}")
