"""Whether the data of a suite is what its tasks expect: sizes, classes, disjoint splits, known images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ...vision.data import ImageData, Split, check_data, open_configured
from .task import SPLITS, Suite, SuiteTask
from .vtab1k import compare

_LISTED = 3


@dataclass(frozen=True)
class TaskReport:
    """What was found of one task; remarks must be known, problems must be put right.

    Args:
        sizes: images of train, val, full and test.
        hashes: the SHA-256 of train, val and test, as a run's result.json has them.
    """

    task: SuiteTask
    classes: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    disjoint: bool = False
    hashes: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuiteReport:
    """What `check_suite` found of the tasks whose data is there."""

    suite: Suite
    tasks: tuple[TaskReport, ...]

    @property
    def problems(self) -> list[str]:
        """Everything that stands between this data and a result: one line each."""
        problems = [f"{report.task.name}: {line}" for report in self.tasks for line in report.problems]
        return problems + [f"{name}: no data: {reason}" for name, reason in self.suite.missing.items()]

    def text(self) -> str:
        """A line for each task, with its remarks and problems below it."""
        return "\n".join(self._lines()).encode("utf-8", "backslashreplace").decode() + "\n"

    def _lines(self) -> Iterator[str]:
        for report in self.tasks:
            sizes = ", ".join(f"{name} {size:,}" for name, size in report.sizes.items())
            parts = [report.task.name]
            if sizes:
                hashes = ", ".join(f"{name} {sha256[:16]}" for name, sha256 in report.hashes.items())
                apart = "disjoint" if report.disjoint else "NOT disjoint"
                parts += [f"{report.classes} classes", sizes, apart, f"sha256 of {hashes}"]
            yield "; ".join(parts)
            yield from (f"  note: {line}" for line in report.remarks)
            yield from (f"  problem: {line}" for line in report.problems)
        yield from (f"{name}; no data\n  problem: {reason}" for name, reason in self.suite.missing.items())
        tasks, problems = _several(len(self.tasks), "task"), _several(len(self.problems), "problem")
        yield f"{self.suite.name}: {tasks} looked at, {problems}"


def check_suite(suite: Suite, *, progress: Callable[[str, int, int], None] | None = None) -> SuiteReport:
    """Reads every image of every task once, and the first GiB of each split again for its hash.

    Args:
        progress: is told the task, how many of its images have been looked at, and how many there are.
    """
    return SuiteReport(suite, tuple(_check_task(suite.name, task, progress) for task in suite.tasks))


def _check_task(suite: str, task: SuiteTask, progress: Callable[[str, int, int], None] | None) -> TaskReport:
    try:
        data = open_configured({**task.options, "data": task.data})
        splits = {name: data.split(getattr(task, name)) for name in SPLITS if getattr(task, name) is not None}
    except (OSError, ValueError) as error:
        return TaskReport(task, remarks=task.notes, problems=(" ".join(str(error).split()),))
    looked_at = {name: split for name, split in splits.items() if name != "full" or not _is_the_rest(splits)}
    total = sum(map(len, looked_at.values()))
    pairs = [("train", "val"), ("train", "test"), ("val", "test"), ("full", "test")]
    report = check_data(
        ImageData(task.data, data.classes, looked_at),
        apart=[pair for pair in pairs if looked_at.keys() >= set(pair)],
        progress=None if progress is None else lambda done: progress(task.name, done, total),
    )
    problems = [*_wrong_numbers(task, len(data.classes), splits), *_first(report.grave)]
    remarks = [*task.notes, *_first(report.slight)]
    if suite == "vtab1k":
        same, text = compare(task.name, splits["train"], splits["val"])
        (problems if same is False and not task.notes else remarks).append(text)
    readable = {name: split for name, split in splits.items() if name != "full" and not report.splits[name].unreadable}
    return TaskReport(
        task,
        classes=len(data.classes),
        sizes={name: len(split) for name, split in splits.items()},
        disjoint=not report.shared,
        hashes={name: str(split.record()["sha256"]) for name, split in readable.items()},
        remarks=tuple(remarks),
        problems=tuple(problems),
    )


def _is_the_rest(splits: Mapping[str, Split]) -> bool:
    """Whether full is nothing but train and val."""
    others = [splits[name] for name in ("train", "val") if name in splits]
    if any(split.open != splits["full"].open for split in others):
        return False
    return set(splits["full"].names) == {name for split in others for name in split.names}


def _wrong_numbers(task: SuiteTask, classes: int, splits: Mapping[str, Split]) -> Iterator[str]:
    if task.classes not in (None, classes):
        yield f"{classes} classes, expected {task.classes}"
    for name, expected in task.sizes.items():
        accepted = expected if isinstance(expected, tuple) else (expected,)
        if name in splits and len(splits[name]) not in accepted:
            yield f"{name} has {len(splits[name]):,} images, expected {' or '.join(f'{n:,}' for n in accepted)}"


def _several(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"


def _first(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _LISTED else [*lines[:_LISTED], f"and {len(lines) - _LISTED} more like this"]
