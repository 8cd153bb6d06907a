"""Run folder: its file lock, its status, and how its options differ from those of another start."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..io.atomic import write_text
from ..io.json import read_object
from .checkpoint import Checkpoints

FILES = (
    "result.json",
    "summary.csv",
    "adapter.safetensors",
    "learning_curve.png",
    "confusion_matrix.png",
    "predictions.json",
    "explanations.json",
    "mistakes.png",
    "config.yaml",
    "status.json",
    "bad_batch.json",
    "tracker.json",
    "found.json",
    "lr_search.json",
    "lr_search.png",
)
FOLDERS = ("tensorboard", "checkpoints", "model", "wandb")


class RunFolder:
    """The folder of one run.

    status.json says `running`, `preempted` (stopped by a signal, can be resumed), `failed` or `finished`, with process,
    host, number of updates and time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.run_lock = FileLock(path / ".lock", thread_local=False)

    def present(self) -> list[str]:
        """The files and folders of a run that are there."""
        return [name for name in (*FILES, *FOLDERS) if (self.path / name).exists()]

    def result(self) -> dict[str, Any] | None:
        """What a finished run has left, or None. Raises ValueError if it is not that of a run."""
        path = self.path / "result.json"
        result = self._read(path.name)
        if path.exists() and not isinstance(result.get("config"), dict):
            raise ValueError(f"{path} is not the result of a run: remove it, or choose another --output")
        return result or None

    def search(self) -> dict[str, Any]:
        """The record of the search for a learning rate, as result.json holds it; nothing without a search."""
        record = self._read("lr_search.json")
        return {"lr_search": {name: record.get(name) for name in ("lr", "tried")}} if record else {}

    def status(self) -> str | None:
        """What status.json says; None if there is none, or it is damaged."""
        return self._read("status.json").get("status")

    def _read(self, name: str) -> dict[str, Any]:
        """What a JSON file holds; nothing where there is none, or it is damaged."""
        with suppress(OSError, ValueError):
            return read_object(self.path / name)
        return {}

    def refuse_if_taken(self) -> None:
        """Raises FileExistsError if the folder holds files of a run."""
        present = self.present()
        if present:
            raise FileExistsError(
                f"{self.path} holds {present[0]} of another run: add --resume to go on with it, choose another "
                "--output, or replace it with --overwrite"
            )

    def lock(self) -> None:
        """File lock: makes the folder and keeps other processes from writing to it for as long as this one lives.

        The lock is the system's, so that of a process that was killed is free at once; loader processes do not inherit
        it. What writers that were killed have left half written is removed.

        Raises:
            OSError: the folder cannot be written, or another process holds it (BlockingIOError).
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.run_lock.acquire(blocking=False)
            # a note for the process that is refused; the lock itself is on the open file, whatever is in it
            Path(self.run_lock.lock_file).write_text(f"{os.getpid()} on {socket.gethostname()}\n", "utf-8")
        except Timeout as error:  # an OSError, too
            owner = Path(self.run_lock.lock_file).read_text("utf-8").strip() or "unknown"
            raise BlockingIOError(
                f"{self.path} belongs to another run that is going on (process {owner}): choose another --output"
            ) from error
        except OSError as error:
            raise OSError(f"cannot write to {self.path} ({error.strerror}): choose another --output") from error
        for folder in (self.path, self.checkpoints.folder):
            for partial in folder.glob(".*.partial"):
                partial.unlink()

    def unlock(self) -> None:
        """Lets other processes write; safe to call without a lock."""
        self.run_lock.release()

    def empty(self, *, but: Collection[str] = ()) -> None:
        """Removes what an earlier run has left, `but` some of it; other files stay."""
        for name in set(FILES) - set(but):
            (self.path / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def need(self, size: int) -> None:
        """Raises OSError unless so many bytes are free on the disk."""
        free = shutil.disk_usage(self.path).free
        if free < size:
            raise OSError(
                f"{self.path}: {free / 1e6:.0f} MB are free, the run needs {size / 1e6:.0f} MB: make room, or choose "
                "another --output"
            )

    def write_status(self, status: str, update: int, **details: Any) -> None:
        """Replaces status.json."""
        values = {"status": status, "update": update, "pid": os.getpid(), "host": socket.gethostname(), **details}
        values["time"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.write_json("status.json", values)

    def write_failure(self, pid: int, error: str) -> None:
        """Says that the run has failed and why, if its first process, `pid`, is still said to be running it.

        So the reason that stands there is the first one, also where that process can write nothing any more.
        """
        status = self._read("status.json")
        if (status.get("status"), status.get("pid")) == ("running", pid):
            self.write_status("failed", status["update"], error=error)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Atomic write of a JSON file."""
        write_text(self.path / name, json.dumps(value, indent=2) + "\n")


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`name: old -> new` for every value that differs, with dotted names of nested ones."""
    lines = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: {json.dumps(old)} -> {json.dumps(new)}")
    return lines
