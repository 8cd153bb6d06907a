"""Logging of a run: progress on the terminal, TensorBoard, summary.csv."""

from __future__ import annotations

import csv
import io
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from tensorboard.summary.writer import event_file_writer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ..io.atomic import write_text
from ..io.printable import printable
from .figures import pixels
from .tracking import Tracker

# column names of summary.csv as they are shown, so that a line fits into 80 columns
_SHORT = {"train_loss": "loss", "train_accuracy": "train %", "val_loss": "val loss", "val_accuracy": "val %"}
_HIDDEN = {"update", "grad_norm"}
_POINTS = 100  # that a short run shows in TensorBoard at least, of each curve of its updates


class Log:
    """Logger: points in TensorBoard, one row per epoch in summary.csv, and progress on the terminal.

    On a terminal progress is a bar; elsewhere plain lines, one per epoch and at most one each ten seconds between.
    Every point stands at its number of updates. What is measured with a clock is below `speed/` in TensorBoard and not
    in summary.csv, so that both are the same bits in every repetition of a run.

    Args:
        folder: of the run; TensorBoard's events go to `folder/tensorboard`.
        updates: of the whole run.
        interval: updates between points, at most; a short run has a point each hundredth of it.
        unit: what is counted in speeds.
        kept: what `sizes` gave at the checkpoint from which the run goes on: later events are cut off.
        start: updates that are done.
        active: false for a process that shall write nothing. events: false for progress on the terminal alone.
        trackers: are given the same scalars as TensorBoard.
    """

    def __init__(
        self,
        folder: Path,
        *,
        updates: int,
        interval: int = 50,
        unit: str = "images",
        kept: Mapping[str, int] | None = None,
        start: int = 0,
        active: bool = True,
        events: bool = True,
        stream: TextIO | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.folder, self.updates, self.unit, self.trackers = folder, updates, unit, list(trackers)
        self.interval = min(interval, max(1, updates // _POINTS))
        self.console = Console(
            file=stream or sys.stderr, markup=False, emoji=False, highlight=False, soft_wrap=True, quiet=not active
        )
        self.writer = None
        self.thread_hook = threading.excepthook
        if active and events:
            threading.excepthook = self._on_thread_error
            with self._writing():
                _cut(folder / "tensorboard", kept or {})
                # a reader that has seen what was cut off drops it too
                self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)
        self.progress = Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (active and self.console.is_terminal),
            transient=True,
        )
        self.bar = self.progress.add_task("training", total=updates, completed=start)
        self.begun = self.last_line = self.last_step = self.last_point = time.monotonic()
        self.first = start
        self.examples = 0
        self.progress.start()

    def start(self, update: int) -> None:
        """Starts the clock: training begins here, or goes on after an evaluation."""
        self.last_step = self.last_point = time.monotonic()
        self.examples = 0
        self.progress.update(self.bar, completed=update)

    def step(self, update: int, examples: int, values: Mapping[str, float]) -> float:
        """Shows that an update is done, and writes its values every `interval`; returns the seconds that it took."""
        now = time.monotonic()
        seconds, self.last_step = now - self.last_step, now
        self.examples += examples
        loss = values.get("loss", float("nan"))
        self.progress.update(self.bar, completed=update, description=f"loss {loss:.3f}")
        if not self.console.is_terminal and now - self.last_line > 10:
            # with the evaluations in between; the bar of a terminal has its own
            left = (now - self.begun) / (update - self.first) * (self.updates - update)
            self.say(f"update {update}/{self.updates} loss {loss:.4f}, about {_duration(left)} left")
        if update % self.interval == 0:
            self.scalars({f"train/{name}": value for name, value in values.items()}, update)
            speed = self.examples / max(1e-9, now - self.last_point)
            self.scalars({f"speed/{self.unit}_per_second": speed, "speed/memory_mb": peak_memory()}, update)
            self.last_point, self.examples = now, 0
        return seconds

    def scalars(self, values: Mapping[str, float], update: int) -> None:
        """TensorBoard points at a number of updates."""
        for name, value in values.items():
            self._write("add_scalar", name, value, update)
        self._track("scalars", values, update)

    def inputs(self, inputs: Any) -> None:
        """The first images (B, 3, H, W) of a batch, as they enter training; anything else is not shown."""
        if isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.dtype == torch.uint8:
            self._write("add_images", "images/first_batch", inputs[:32], 0)

    def figure(self, name: str, figure: Any, update: int) -> None:
        """A matplotlib figure in TensorBoard."""
        self._write("add_image", name, pixels(figure)[..., :3], update, dataformats="HWC")
        self._write("flush")  # the run may be finished when this returns

    def text(self, name: str, text: str) -> None:
        """A text in TensorBoard, as it is: Markdown leaves indented lines alone."""
        self._write("add_text", name, "\n".join(f"    {line}" for line in text.splitlines()), 0)

    def epoch(self, rows: Sequence[Mapping[str, Any]], *, per_second: float) -> None:
        """The table of all epochs so far; the last row in TensorBoard and as a line for people."""
        row = rows[-1]
        points = {f"epoch/{n}": v for n, v in row.items() if v is not None and n not in ("epoch", "update")}
        self.scalars(points, row["update"])
        if self.writer:
            write_table(self.folder / "summary.csv", rows)
        shown = [(_SHORT.get(n, n), v) for n, v in row.items() if n not in _HIDDEN and v is not None]
        shown.append((f"{self.unit}/s", per_second))
        self.say("  ".join(f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in shown))

    def say(self, text: str) -> None:
        """A line for people, above the bar where there is one."""
        self.console.print(printable(text))
        self.last_line = time.monotonic()

    def result(
        self, options: Mapping[str, Any], scores: Mapping[str, float], pictures: Sequence[Path], update: int
    ) -> None:
        """The end of a run: its options and final scores, in TensorBoard's table of hyperparameters (HPARAMS)."""
        named = {f"result/{name}": value for name, value in scores.items()}
        self.scalars(named, update)
        if self.writer:
            with self._writing():
                for summary in hparams(dict(options), named):
                    self.writer._get_file_writer().add_summary(summary)
        self._track("result", named, pictures)

    def sizes(self) -> dict[str, int]:
        """Sizes of TensorBoard's files, when all that was given is in them."""
        self._write("flush")
        events = sorted((self.folder / "tensorboard").iterdir()) if self.writer else []
        return {path.name: path.stat().st_size for path in events}

    def close(self, status: str = "finished") -> None:
        """Ends the display, flushes TensorBoard and ends the trackers; safe to call twice.

        Args:
            status: finished, failed or preempted.
        """
        self.progress.stop()
        self._write("close")
        self._track("close", status)
        self.trackers = []
        if threading.excepthook == self._on_thread_error:
            threading.excepthook = self.thread_hook

    def _on_thread_error(self, arguments: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread raises what it also hands over: no traceback beside our own line."""
        if type(arguments.thread).__module__ != event_file_writer.__name__:
            self.thread_hook(arguments)

    def _write(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Calls TensorBoard's writer, in the process that has one."""
        if self.writer:
            with self._writing():
                getattr(self.writer, method)(*args, **kwargs)

    def _track(self, method: str, *args: Any) -> None:
        """Calls the trackers. One that fails is left out from there on: TensorBoard has all that it had."""
        for tracker in list(self.trackers):
            try:
                getattr(tracker, method)(*args)
            except Exception as error:  # whatever the service's package raises
                self.trackers.remove(tracker)
                reason = " ".join((str(error) or type(error).__name__).split())
                self.say(f"warning: {tracker.name} gets no more points: {reason}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Error with the folder's name: TensorBoard's thread hands over a bare one, to a later call."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"cannot write to {self.folder / 'tensorboard'} ({error.strerror or error}): make room, then add "
                "--resume to go on"
            ) from error


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Atomic write of rows as csv, with the columns of the last; None, and what a row lacks, is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[-1]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _cut(folder: Path, kept: Mapping[str, int]) -> None:
    """Brings event files back to the sizes that they had, and removes those that were not there."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        size = kept.get(path.name, 0)
        if size == 0:
            path.unlink()
        elif path.stat().st_size > size:
            with open(path, "r+b") as file:
                file.truncate(size)


def _duration(seconds: float) -> str:
    """So many seconds, as people say it."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def peak_memory() -> float:
    """Megabytes at most in use so far: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
