"""Weights & Biases and MLflow as trackers of runs."""

from __future__ import annotations

from contextlib import suppress

from ..io.json import read_object
from ..training.config import RunConfig
from ..training.folder import RunFolder
from ..training.job import hyperparameters
from ..training.tracking import Tracker


def open_tracker(config: RunConfig, folder: RunFolder, *, resumed: bool) -> list[Tracker]:
    """The tracker named by `log_to`, for a new run or for the one recorded in the folder's `tracker.json`; or none.

    Raises:
        ModuleNotFoundError: its package is not installed.
        ConnectionError: it refuses the run, such as without a login or a server.
    """
    if config.log_to == "tensorboard":
        return []
    earlier = {}
    if resumed:
        with suppress(OSError, ValueError):
            earlier = read_object(folder.path / "tracker.json")
    try:
        if config.log_to == "wandb":
            from .wandb import WandbTracker as Kind
        else:
            from .mlflow import MlflowTracker as Kind  # type: ignore[assignment]
        tracker = Kind(folder.path, hyperparameters(config), earlier.get(config.log_to))
    except ModuleNotFoundError as error:
        text = f"--log-to {config.log_to} needs the package {error.name}: pip install 'capaboost_vit[{config.log_to}]'"
        raise ModuleNotFoundError(text, name=error.name) from error
    except Exception as error:  # whatever the service's package raises
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ConnectionError(f"--log-to {config.log_to}: {reason}") from error
    folder.write_json("tracker.json", {**earlier, config.log_to: tracker.id})
    return [tracker]
