"""Whether the data of a suite is what its tasks expect: sizes, classes, disjoint splits, known images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ...io.printable import printable
from ...vision.data import ImageData, Split, check_data, open_configured
from .task import SPLITS, Suite, SuiteTask
from .vtab1k import compare

_LISTED = 3


@dataclass(frozen=True)
class TaskReport:
    """What was found of one task, in one line; remarks must be known, problems must be put right."""

    name: str
    summary: str
    remarks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuiteReport:
    """What `check_suite` found of the tasks of a suite; those without data come last."""

    suite: Suite
    tasks: tuple[TaskReport, ...]

    @property
    def problems(self) -> list[str]:
        """Everything that stands between this data and a result: one line each."""
        return [f"{report.name}: {line}" for report in self.tasks for line in report.problems]

    def text(self) -> str:
        """A line for each task, with its remarks and problems below it."""
        lines = []
        for report in self.tasks:
            lines += [report.summary, *(f"  note: {line}" for line in report.remarks)]
            lines += [f"  problem: {line}" for line in report.problems]
        tasks, problems = _several(len(self.suite.tasks), "task"), _several(len(self.problems), "problem")
        lines.append(f"{self.suite.name}: {tasks} looked at, {problems}")
        return "".join(f"{printable(line)}\n" for line in lines)


def check_suite(suite: Suite, *, progress: Callable[[str, int, int], None] | None = None) -> SuiteReport:
    """Reads every image of every task once.

    Args:
        progress: is told the task, how many of its images have been looked at, and how many there are.
    """
    reports = [_check_task(suite.name, task, progress) for task in suite.tasks]
    reports += [TaskReport(name, f"{name}; no data", problems=(why,)) for name, why in suite.missing.items()]
    return SuiteReport(suite, tuple(reports))


def _check_task(suite: str, task: SuiteTask, progress: Callable[[str, int, int], None] | None) -> TaskReport:
    try:
        data = open_configured({**task.options, "data": task.data})
        splits = {name: data.split(getattr(task, name)) for name in SPLITS if getattr(task, name) is not None}
    except (OSError, ValueError) as error:
        return TaskReport(task.name, task.name, task.notes, (" ".join(str(error).split()),))
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
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    apart = "NOT disjoint" if report.shared else "disjoint"
    records = {name: part.record for name, part in report.splits.items() if name != "full" and part.record}
    # as a run's result.json has them
    hashes = ", ".join(f"{name} {str(record['sha256'])[:16]}" for name, record in records.items())
    summary = f"{task.name}; {len(data.classes)} classes; {sizes}; {apart}; sha256 of {hashes}"
    return TaskReport(task.name, summary, tuple(remarks), tuple(problems))


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
