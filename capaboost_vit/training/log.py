"""What a run leaves for people: progress, TensorBoard, summary.csv, and a learning curve as a picture."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

# column names of summary.csv as they are shown, so that a line fits into 80 columns
_SHORT = {
    "train_loss": "loss",
    "train_accuracy": "train %",
    "val_accuracy": "val %",
    "images_per_second": "images/s",
    "seconds": "s",
}


class Log:
    """Writes scalars to TensorBoard, one row per epoch to summary.csv, and progress to the terminal.

    On a terminal progress is a bar; elsewhere plain lines, one per epoch and at most one each ten seconds between.

    Args:
        folder: of the run; TensorBoard's events go to `folder/tensorboard`.
        epochs, steps: of the whole run and of one epoch, for the progress display.
    """

    def __init__(self, folder: Path, *, epochs: int, steps: int, stream: TextIO | None = None) -> None:
        self.folder = folder
        self.epochs, self.steps = epochs, steps
        self.rows: list[dict[str, float | int]] = []
        self.writer = SummaryWriter(str(folder / "tensorboard"))
        self.console = Console(file=stream or sys.stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.bar = self.progress.add_task("training", total=epochs * steps)
        self.last_line = time.monotonic()
        self.progress.start()

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Shows that a step is done; `step` counts within the epoch, from 1."""
        self.progress.update(self.bar, completed=epoch * self.steps + step, description=f"loss {loss:.3f}")
        if not self.console.is_terminal and time.monotonic() - self.last_line > 10:
            self.say(f"epoch {epoch + 1}/{self.epochs} step {step}/{self.steps} loss {loss:.4f}")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """TensorBoard points at a global step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def epoch(self, row: Mapping[str, float | int]) -> None:
        """One row of summary.csv and one line for people; empty columns stay in the file, so its shape is fixed."""
        self.rows.append(dict(row))
        path = self.folder / "summary.csv"
        new = not path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        shown = ((_SHORT.get(name, name), value) for name, value in row.items())
        self.say(
            "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown)
        )

    def say(self, text: str) -> None:
        """A line for people, above the bar where there is one."""
        self.console.print(text)
        self.last_line = time.monotonic()

    def close(self) -> None:
        """Ends the display and flushes TensorBoard; safe to call twice."""
        self.progress.stop()
        self.writer.close()


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, float | int]]], path: Path, *, title: str) -> None:
    """Learning curves of one or more runs as a picture: training loss, and accuracy on val where it was measured.

    Args:
        runs: rows of summary.csv (`epoch`, `train_loss`, `train_accuracy`, `val_accuracy`) by run name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    metric = (
        "val_accuracy" if any("val_accuracy" in row for rows in runs.values() for row in rows) else "train_accuracy"
    )
    for name, rows in runs.items():
        rows = [row for row in rows if metric in row]
        epochs = [row["epoch"] for row in rows]
        marker = "o" if len(epochs) < 15 else None
        loss.plot(epochs, [row["train_loss"] for row in rows], label=name, marker=marker, markersize=3)
        accuracy.plot(epochs, [row[metric] for row in rows], label=name, marker=marker, markersize=3)
    loss.set(xlabel="epoch", ylabel="training loss")
    if all(row["train_loss"] > 0 for rows in runs.values() for row in rows):
        loss.set_yscale("log")
    accuracy.set(xlabel="epoch", ylabel=metric.replace("_", " ").replace("val", "validation") + " (%)")
    for text in accuracy.legend().get_texts():
        text.set_parse_math(False)
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=120)
