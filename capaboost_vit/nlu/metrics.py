"""GLUE's average."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .tasks import GLUE, TASKS


def glue_average(rows: Mapping[str, Mapping[str, float]]) -> float | None:
    """The mean of GLUE's 11 numbers; None as long as one is missing.

    They are cola matthews; sst2, mnli, qnli, rte accuracy; mrpc and qqp accuracy and f1; stsb pearson and spearman. So
    a task with two metrics counts twice. It is not the mean over tasks that GLUE's leaderboard shows. `rows` holds
    metrics by the name of the task; others are ignored.
    """
    wanted = [(task, metric) for task in GLUE for metric in TASKS[task].metrics]
    if any(metric not in rows.get(task, {}) for task, metric in wanted):
        return None
    return math.fsum(rows[task][metric] for task, metric in wanted) / len(wanted)
