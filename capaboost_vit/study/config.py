"""The configuration of a study: plain dataclasses without torch, from which the command line's help is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..io.options import check_options, flag, option

WORKER_OPTIONS = ("lease", "attempts", "keep_models")  # what each worker is told, wherever it is

# what a study cannot do without, and what to say where it is missing
_NEEDED = {
    "methods": "name files such as configs/vtab1k/lora.yaml",
    "seeds": "name at least one",
    "tune_seeds": "name at least one",
    "grid": "say for example --grid 'lr=[x0.3, x1, x3]'",
}


@dataclass(frozen=True)
class WorkConfig:
    """How the trials of a study are computed: none of this changes a result."""

    output: str = option("runs/study", "folder of the study")
    workers: int = option(1, "processes that compute trials; 0: none, the study is only written down", low=0)
    gpus: tuple[str, ...] = option((), "GPUs that the workers share in turn (numbers or UUIDs); none: all there are")
    on: Literal["machine", "ray"] = option("machine", "where the workers are: this machine, or a Ray cluster")
    ray_address: str | None = option(None, "address of the cluster, such as auto; none: Ray on this machine")
    worker_cpus: float = option(1.0, "cores that Ray gives to each worker", low=0)
    worker_gpus: float = option(0.0, "GPUs, or the share of one, that Ray gives to each worker", low=0)
    lease: float = option(
        120.0, "seconds without a sign of life after which the trial of a worker is taken over", above=0
    )
    attempts: int = option(3, "times that a trial is begun, if its workers die, before it is given up", low=1)
    retry: bool = option(False, "begin again what was given up")
    keep_models: bool = option(True, "keep the adapter files of finished trials; their checkpoints always go")

    def __post_init__(self) -> None:
        check_options(self)
        if self.on == "machine" and (self.ray_address or self.worker_gpus):
            raise ValueError("--ray-address and --worker-gpus are for Ray: add --on ray")


@dataclass(frozen=True)
class StudyConfig(WorkConfig):
    """What every study has: which methods, on which tasks, with which backbone."""

    suite: str = option("vtab1k", "vtab1k, fgvc, synthetic_vtab1k (generated images), or a YAML file with `tasks:`")
    data: str | None = option(None, "folder of the tasks' data; hub: the data sets of the hub")
    tasks: tuple[str, ...] = option(("*",), "names or wildcards of tasks")
    methods: tuple[str, ...] = option((), "files of `capaboost train --config`, one per method, which has its name")
    backbone: str | None = option(
        None,
        "augreg_in21k or orig_in21k (ViT-B/16), or a timm model; none: the `model` of the methods' files, or "
        "augreg_in21k where they name none",
    )
    initial_checkpoint: str | None = option(
        None, "local file with the base weights; none: that of the methods' files, or the hub's"
    )
    shots: tuple[int, ...] = option(
        (), "few-shot: training images per class, each a study of its own; none: all", low=1
    )
    known: tuple[str, ...] = option((), "report.json of other studies: trials that they hold are not run again")
    set: dict[str, Any] = option(
        {}, "an option of `capaboost train` for all trials, over those of the methods: lr=1e-3, method.rank=4"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, hint in _NEEDED.items():
            if not getattr(self, name, True):
                raise ValueError(f"{flag(name)} is missing: {hint}")


@dataclass(frozen=True)
class StudyRunConfig(StudyConfig):
    """Trains every method on every task with every seed, and tests once; what is finished is not run again."""

    seeds: tuple[int, ...] = option((0, 1, 2), "training seeds")
    tuned: bool = option(False, "with the options that `capaboost study tune` has chosen in the same folder")


@dataclass(frozen=True)
class StudyTuneConfig(StudyConfig):
    """Trains candidates on the training part, without the test split, and chooses by their accuracy on val."""

    grid: dict[str, Any] = option(
        {},
        "values of an option: lr=[x0.3, x1, x3] (multiples of the method's own), method.rank=[2, 4, 8]; with --search "
        "also a range: lr={low: 1e-4, high: 1e-1, log: true}",
    )
    search: Literal["all", "random", "optuna", "nomad"] = option(
        "all",
        "which of them are tried: all; or --budget of them, drawn at random, proposed by optuna's TPE (extra search), "
        "or by NOMAD's mesh adaptive direct search (extra nomad)",
    )
    budget: int | None = option(None, "of a search: candidates of each method and task, the method's own first", low=1)
    batch: int = option(4, "of a search: candidates that are proposed at once, for several workers; nomad: 1", low=1)
    search_seed: int = option(0, "of a search: seed of its draws", low=0)
    tune_seeds: tuple[int, ...] = option((0,), "training seeds of each candidate; the mean over them counts")
    across_tasks: bool = option(False, "one choice per method for all tasks, by the mean over them")

    def __post_init__(self) -> None:
        super().__post_init__()
        searched = self.search != "all"
        for name, values in self.grid.items():
            if searched and isinstance(values, dict) and values:
                continue
            if not isinstance(values, list) or not values:
                hint = ": a range needs --search" if isinstance(values, dict) and values else ""
                raise ValueError(f"--grid {name}: expected a list of values, got {values!r}{hint}")
        if searched and self.budget is None:
            raise ValueError(f"--search {self.search} needs --budget: how many candidates it may try")
        if self.budget is not None and not searched:
            raise ValueError("--budget is for a search: add --search optuna, random or nomad")


@dataclass(frozen=True)
class TuneConfig(WorkConfig):
    """Finds method, rank and learning rate for one data set on its val split; the test split has no part in it.

    Three rounds: all candidates for a ninth of the epochs, the best third of them for a third, the best third of these
    for all. It ends with a table, and the command that trains the winner.
    """

    output: str = option("runs/tune", "folder of the candidates; the same command goes on in it")
    methods: tuple[str, ...] = option(
        ("lora", "capaboost-lora", "adapter"),
        "methods: a name alone is the plain method, capaboost-NAME the masked one",
    )
    ranks: tuple[int, ...] = option((4, 8, 16), "ranks (widths, lengths) of those methods that have one", low=1)
    rates: tuple[str, ...] = option(
        ("x0.5", "x1", "x2"), "learning rates: multiples of the method's usual one, such as x2, or numbers"
    )
    seeds: tuple[int, ...] = option((0,), "training seeds of each candidate; the mean over them counts")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("methods", "ranks", "rates", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{flag(name)} is missing: name at least one")
        for rate in self.rates:
            try:
                positive = 0 < float(rate.removeprefix("x")) < 1e6
            except ValueError:
                positive = False
            if not positive:
                raise ValueError(f"--rates: {rate!r} is neither a rate such as 3e-3 nor a multiple such as x2")
