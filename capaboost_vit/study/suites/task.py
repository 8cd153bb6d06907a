"""One task of a suite: which data, which of its images for what, and what readers must be told with each number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any, Protocol, TypeVar

from ...io.yaml import read_yaml


@dataclass(frozen=True)
class SuiteTask:
    """One data set with its protocol. The splits are names or expressions, as `--train-split` takes them.

    Args:
        data: what `--data` of `capaboost train` takes.
        group: natural, specialised, structured, or the user's own word.
        classes: how many there must be; None: not asserted.
        sizes: how many images train, val, full and test must have, or which numbers are accepted.
        train, val: what candidates are trained on and chosen by; val is None where nothing can be chosen.
        full: what the final runs are trained on.
        test: used once, at the end of a final run.
        options: more options of `capaboost train`, such as `label_column`.
        notes: what must stand beside every number of this task.
    """

    name: str
    data: str
    group: str = ""
    classes: int | None = None
    sizes: dict[str, int | tuple[int, ...]] = field(default_factory=dict)
    train: str = "train"
    val: str | None = "val"
    full: str = "train+val"
    test: str = "test"
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Tasks that are reported together; `missing` says of those without data why there is none, by name."""

    name: str
    tasks: tuple[SuiteTask, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


class Named(Protocol):
    """What can be chosen by its name."""

    @property
    def name(self) -> str:
        """Its name."""


Item = TypeVar("Item", bound=Named)


def choose(tasks: Iterable[Item], patterns: Sequence[str]) -> list[Item]:
    """The tasks that any of the names or wildcards match, in their own order.

    Raises:
        ValueError: one that matches nothing.
    """
    tasks = list(tasks)
    for pattern in patterns:
        if not any(fnmatchcase(task.name, pattern) for task in tasks):
            raise ValueError(f"--tasks: nothing is called {pattern!r}; there are {', '.join(t.name for t in tasks)}")
    return [task for task in tasks if any(fnmatchcase(task.name, pattern) for pattern in patterns)]


def read_rows(file: str) -> list[dict[str, Any]]:
    """The tasks that a YAML file of this folder holds by name, each with its `name`."""
    return [{"name": name, **row} for name, row in read_yaml(resources.files(__package__) / file).items()]
