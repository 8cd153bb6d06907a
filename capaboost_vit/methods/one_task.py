"""Export of one task of an adapter file with several, as a plain adapter file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from ..io.options import suggest
from .adapter_file import AdapterFile, read_adapter_file, write_content
from .header import AdapterFileError
from .index import make_method


def export_task(path: str | Path | AdapterFile, task: str | None, output: str | Path) -> Path:
    """Writes the adapter file of one task, with its rows of the head, and its class names without the task's name.

    It computes the same as the model with the task given, for any image. No base weights are needed for the export.

    Args:
        path: an adapter file of several tasks, written by a run on several data sets.
        task: the name of a task; None if there is only one.

    Raises:
        ValueError: there is no such task, or the method has one adapter for all tasks (see `Method.alone`).
        FileExistsError: the output exists.
        FileNotFoundError, AdapterFileError: see `read_adapter_file`.
    """
    file, output = read_adapter_file(path), Path(output)
    header = file.header
    if len(header["methods"]) != 1 or len(header["head"]) != 1:
        raise AdapterFileError(f"{file.path} has several methods or heads: one method with one head can be taken apart")
    (record,), (head,), names = header["methods"], header["head"], header["class_names"]
    rows = _rows_by_task(names, record.get("task_classes") or [header["num_classes"]])
    if task not in rows:
        there = f"say one of {', '.join(map(str, rows))}" if len(rows) > 1 else "it is of one task alone, so say none"
        raise ValueError(f"{file.path} has no task {task!r}{suggest(task, rows)}: {there}")
    method, tensors = make_method(**record).alone(file.tensors, [*rows].index(task))
    if output.exists():
        raise FileExistsError(f"{output} exists: choose another --output")
    first, end = rows[task].start, rows[task].stop
    for name, tensor in file.tensors.items():
        if name.startswith(f"{head}."):
            tensors[name] = tensor[first:end].contiguous()
    changed = {
        "methods": [method.record()],
        "class_names": [name if task is None else name.partition("/")[2] for name in names[first:end]],
        "num_classes": end - first,
    }
    return write_content(output, {**header, **changed}, tensors, masks=())


def _rows_by_task(names: Sequence[str], counts: Sequence[int]) -> dict[str | None, range]:
    """The rows of the head by the name of a task, which stands before those of its classes; None of one task alone."""
    if len(counts) == 1:
        return {None: range(counts[0])}
    starts = [*accumulate(counts, initial=0)]
    return {names[start].partition("/")[0]: range(start, end) for start, end in pairwise(starts)}
