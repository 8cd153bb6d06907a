"""Trackers: services that show the curves of a run, beside TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """The page of a run at a service; `id` is what the service knows the run by."""

    name: str
    id: str

    def scalars(self, values: Mapping[str, float], update: int) -> None:
        """Points at a number of updates."""
        ...

    def result(self, scores: Mapping[str, float], pictures: Sequence[Path]) -> None:
        """Final scores and pictures."""
        ...

    def close(self, status: str) -> None:
        """The end: finished, failed or preempted."""
        ...
