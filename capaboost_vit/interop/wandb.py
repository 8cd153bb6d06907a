"""Weights & Biases: curves of a run, by its own package."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class WandbTracker:
    """A run of Weights & Biases, in the project WANDB_PROJECT or capaboost_vit.

    Its files are in the folder of the run, in `wandb`; with WANDB_MODE=offline they stay there.

    Args:
        id: of the run to resume; None: a new one.
    """

    name = "wandb"

    def __init__(self, folder: Path, options: Mapping[str, Any], id: str | None) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "capaboost_vit"),
            name=folder.resolve().name,
            id=id,
            resume=None if id is None else "allow",
            dir=str(folder),
            config=dict(options),
            settings=wandb.Settings(console="off"),  # the terminal is rich's
        )
        self.id: str = self.run.id

    def scalars(self, values: Mapping[str, float], update: int) -> None:
        """Adds points at an update; in a resumed run existing points stay as they are."""
        self.run.log(dict(values), step=update)

    def result(self, scores: Mapping[str, float], pictures: Sequence[Path]) -> None:
        """Adds the final scores to the summary, and the pictures."""
        import wandb

        self.run.summary.update(dict(scores))
        self.run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in pictures})

    def close(self, status: str) -> None:
        """Waits until everything is sent."""
        self.run.finish(exit_code=0 if status == "finished" else 1)
