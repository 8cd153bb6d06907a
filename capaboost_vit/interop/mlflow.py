"""MLflow: curves of a run, by its own package."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "preempted": "KILLED"}
_LONGEST = 6000  # characters of a parameter


class MlflowTracker:
    """A run of MLflow, at MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME or capaboost_vit.

    Args:
        id: of the run to resume; None: a new one.
    """

    name = "mlflow"

    def __init__(self, folder: Path, options: Mapping[str, Any], id: str | None) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient()
        if id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "capaboost_vit")
            experiment = self.client.get_experiment_by_name(name)
            number = self.client.create_experiment(name) if experiment is None else experiment.experiment_id
            id = self.client.create_run(number, run_name=folder.resolve().name).info.run_id
            parameters = [Param(option, str(value)[:_LONGEST]) for option, value in options.items()]
            self.client.log_batch(id, params=parameters)
        else:
            self.client.update_run(id, status="RUNNING")
        self.id: str = id

    def scalars(self, values: Mapping[str, float], update: int) -> None:
        """Adds points at an update; a resumed run adds those after its checkpoint a second time."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, update) for name, value in values.items()])

    def result(self, scores: Mapping[str, float], pictures: Sequence[Path]) -> None:
        """Adds the pictures; the scores are points already."""
        for path in pictures:
            self.client.log_artifact(self.id, str(path))

    def close(self, status: str) -> None:
        """Ends the run with its status."""
        self.client.set_terminated(self.id, status=_STATUS[status])
