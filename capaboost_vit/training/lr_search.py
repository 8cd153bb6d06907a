"""Search for the learning rate: a few short runs that are scored on val, before the run itself begins."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..io.json import read_object
from .checkpoint import changing
from .config import RunConfig
from .distributed import broadcast
from .figures import new_figure, save_figure
from .folder import RunFolder
from .hooks import put
from .job import Job
from .log import Log
from .objective import selected_score
from .resume import is_changed
from .signals import Interrupted, StopSignals
from .stages import run_stages, short_run
from .state import State
from .successive_halving import PARTS, Score, halve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD, PICTURE = SEARCH_FILES = ("lr_search.json", "lr_search.png")
_SHORTEST = 8  # updates of a short run that say something
_MOST_EXAMPLES = 200_000  # of a run that is worth half of it more without being asked twice: 100 epochs of 2,000
WARMUP = 0.1  # of the updates, where no epoch is one
_COST = 2  # the search takes at most one of so many parts of the run's updates


def rate_without_search(config: RunConfig) -> RunConfig:
    """A configuration of which a job can be built: with `lr: auto` at its method's usual rate.

    Too short for a warm-up it gets one of a tenth of its updates then: without it good rates lie beside diverging ones.
    """
    if config.lr != "auto":
        return config
    said = (config.warmup_epochs, config.warmup_steps, config.max_steps)
    short = all(value is None for value in said) and round(config.epochs / 10) == 0 and config.sched != "none"
    return dataclasses.replace(config, lr=config.usual_lr(), warmup_steps=WARMUP if short else config.warmup_steps)


def reason_against(job: Job) -> str | None:
    """Why no search is made for a run: nothing to score on, too few updates, or too many; None where one is."""
    updates, least = job.state.updates, _COST * PARTS * _SHORTEST
    if not job.config.uses_labels():
        return "the method goes by no labels, and a search would by those of val"
    if job.val is None:
        return "no val split to search on"
    if updates < least:
        return f"a search takes a run of {least} updates at least, and this one has {updates}"
    if updates * job.config.batch_size > _MOST_EXAMPLES:
        return f"a search is made for runs of up to {_MOST_EXAMPLES:,} {job.config.unit}, and this one sees more"
    return None


def find_rate(job: Job, folder: RunFolder, stop: StopSignals) -> Job:
    """The job at the learning rate that short runs find; where none are made, as it is, with a line that says why.

    The short runs start from the job's own weights and see its own batches, and are scored on val by what chooses its
    epoch. They end with their schedule, at the same share of warm-up. lr_search.json has each of them as it ends, and
    the picture stands beside it: of a search that was killed only the run at hand is made again, so it comes to the
    same rate. The folder is locked, and what stands in it is that of this run.

    Raises:
        ValueError: `resume`, and the search was begun with other options or data.
        Interrupted: a signal came.
    """
    usual = job.config.lr
    assert isinstance(usual, float)
    against = reason_against(job)
    if against is not None:
        job.lines.append(f"learning rate {usual:g}, the usual one here: {against}")
        return job
    search = _Search(job, folder, stop)
    try:
        search.begin()
        rate = halve(search.run, usual, job.state.updates // _COST, error=search.error)
    except Interrupted as stopped:
        if job.world.is_main:
            folder.write_status("preempted", 0)
        what = "stopped in the search for a learning rate; go on with the same command and --resume"
        raise Interrupted(stopped.number, what) from None
    finally:
        search.log.close()
    search.chosen(rate)
    config = dataclasses.replace(job.config, lr=rate, overwrite=False)  # the folder is emptied
    job.lines.append(f"learning rate {rate:g}, found on val in {search.spent} updates of short runs ({PICTURE})")
    return dataclasses.replace(job, config=config, state=State(job.model, config, len(job.train)))


class _Search:
    """The short runs of one job, and what is known of them."""

    def __init__(self, job: Job, folder: RunFolder, stop: StopSignals) -> None:
        self.job, self.folder, self.stop = job, folder, stop
        score = selected_score(job.objective, job.config.select)
        self.score = "negated loss" if score == "loss" else score  # the higher the better
        self.record: dict[str, Any] = {"identity": job.record, "updates": job.state.updates, "tried": []}
        earlier = broadcast(_earlier(job, folder) if job.world.is_main else None, job.world)
        if earlier is not None and not is_changed(folder, earlier["identity"], job.record, job.config):
            self.record = earlier
        self.known = {(row["lr"], row["updates"]): row for row in self.record["tried"]}
        self.spent = 0
        self.log = Log(folder.path, updates=job.state.updates // _COST, active=job.world.is_main, events=False)
        self.log.say(
            f"learning rate: short runs, scored on val, of at most {job.state.updates // _COST} updates in all"
        )
        if job.world.is_main:
            if job.config.overwrite:
                folder.empty()
            folder.write_status("running", 0)
            self._write()
        self.before = self.start = _copied(job)

    def begin(self) -> None:
        """Does the stages of the method, from whose end the short runs start."""
        run_stages(self.job, self.log, self.stop)
        self.start = _copied(self.job)

    def run(self, rate: float, updates: int) -> Score:
        """The score of a short run, made or known from before."""
        row = self.known.get((rate, updates))
        if row is None:
            row = {"lr": rate, "updates": updates, **_short_run(self.job, self.start, rate, updates, self)}
            self.record["tried"].append(row)
            self._write()
        self.spent += updates
        shown = "diverges" if row["score"] is None else f"val {self.score} {row['score']:.2f}"
        self.log.say(f"  lr {rate:<8g} {updates} updates  {shown}")
        return (-math.inf, math.inf) if row["score"] is None else (row["score"], row["loss"])

    def error(self, score: float) -> float:
        """The standard error of a score in per cent, as that of a share of the examples of val; of a loss none."""
        assert self.job.val is not None
        share = min(max(score, 0.0), 100.0)
        return 0.0 if self.score == "negated loss" else math.sqrt(share * (100 - share) / len(self.job.val.source))

    def chosen(self, rate: float) -> None:
        """Notes the rate, draws the picture, and puts the weights back that were there before."""
        self.record["lr"] = rate
        put(changing(self.job.model), self.before)
        self.job.model.zero_grad(set_to_none=True)
        self._write()
        if self.job.world.is_main:
            figure = draw_rates(self.record["tried"], rate, title=self.job.title, score=self.score)
            save_figure(figure, self.folder.path / PICTURE)

    def _write(self) -> None:
        if self.job.world.is_main:
            self.folder.write_json(RECORD, self.record)


def _earlier(job: Job, folder: RunFolder) -> dict[str, Any] | None:
    """What a search that was stopped has left, if the run goes on with it; a damaged file is none."""
    if job.config.resume:
        try:
            return read_object(folder.path / RECORD, {"identity": dict[str, Any], "tried": list})
        except (FileNotFoundError, ValueError):
            pass
    return None


def _copied(job: Job) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in changing(job.model).items()}


def _short_run(job: Job, start: Mapping[str, Tensor], rate: float, updates: int, search: _Search) -> dict[str, Any]:
    """Trains for so many updates from `start`; score and loss on val, None for a run that is not finite any more."""
    put(changing(job.model), start)
    try:
        state = short_run(job, updates, _Quiet(search), search.stop, lr=rate)
    except FloatingPointError:
        return {"score": None, "loss": None}
    row = state.progress.rows[-1]
    loss = row["val_loss"]
    score = -loss if search.score == "negated loss" else row[f"val_{search.score}"]
    return (
        {"score": score, "loss": loss}
        if math.isfinite(score) and math.isfinite(loss)
        else {"score": None, "loss": None}
    )


class _Quiet:
    """What the training loop tells of a short run: it moves the bar of the search, and nothing else is kept."""

    def __init__(self, search: _Search) -> None:
        self.log, self.spent, self.last = search.log, search.spent, time.monotonic()

    def step(self, update: int, examples: int, values: Mapping[str, float]) -> float:
        """Passed on, at its place in the search."""
        return self.log.step(self.spent + update, examples, values)

    def start(self, update: int) -> None:
        """Passed on."""
        self.log.start(self.spent + update)

    def say(self, text: str) -> None:
        """Passed on."""
        self.log.say(text)

    def inputs(self, inputs: Any) -> None:
        """Not shown."""

    def epoch(self, rows: Sequence[Mapping[str, Any]], *, per_second: float) -> None:
        """Not shown."""


def draw_rates(tried: Sequence[Mapping[str, Any]], chosen: float, *, title: str, score: str) -> Figure:
    """The score on val of short runs over their learning rate, a line for each length; the rate that was taken.

    Args:
        tried: `lr`, `updates` and `score` (None of a run that diverged, which is not drawn) of each.
    """
    figure = new_figure(6.5, 4, f"{title}: learning rate")
    axes = figure.subplots()
    axes.axvline(chosen, color="0.6", linestyle="--", linewidth=1, label=f"taken: {chosen:g}")
    for updates in dict.fromkeys(row["updates"] for row in tried):
        rows = sorted(
            (row["lr"], row["score"]) for row in tried if row["updates"] == updates and row["score"] is not None
        )
        axes.plot([rate for rate, _ in rows], [value for _, value in rows], marker="o", label=f"{updates} updates")
    axes.set_xscale("log")
    rates = sorted({row["lr"] for row in tried})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.set(xlabel="learning rate", ylabel=f"validation {score.replace('_', ' ')}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
