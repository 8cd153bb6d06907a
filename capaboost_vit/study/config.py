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
    workers: int = option(1, "number of processes that compute trials; 0: none, only write the manifest", low=0)
    gpus: tuple[str, ...] = option((), "GPUs (numbers or UUIDs), assigned to the workers in turn; by default all")
    on: Literal["machine", "ray"] = option("machine", "where the workers run: on this machine, or as tasks of Ray")
    ray_address: str | None = option(None, "address of a Ray cluster, such as auto; null: Ray on this machine")
    worker_cpus: float = option(1.0, "CPU cores that Ray gives to each worker", low=0)
    worker_gpus: float = option(0.0, "GPUs that Ray gives to each worker; may be a fraction", low=0)
    lease: float = option(
        120.0, "seconds without a heartbeat of a worker after which another one takes its trial", above=0
    )
    attempts: int = option(
        3, "how often a trial is started before it is given up, if its worker dies or an error may be temporary", low=1
    )
    retry: bool = option(False, "start trials again that were given up")
    keep_models: bool = option(
        True, "keep the adapter files of finished trials; those of candidates, and checkpoints, are always deleted"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.on == "machine" and (self.ray_address or self.worker_gpus):
            raise ValueError("--ray-address and --worker-gpus are for Ray: add --on ray")


@dataclass(frozen=True)
class StudyConfig(WorkConfig):
    """What every study has: which methods, on which tasks, with which backbone."""

    suite: str = option("vtab1k", "vtab1k, fgvc, synthetic_vtab1k (generated images), or a YAML file with `tasks:`")
    data: str | None = option(None, "folder with a folder or .zip for each task; hub: the data sets of the hub")
    tasks: tuple[str, ...] = option(("*",), "tasks: names or wildcards, such as dsprites_*")
    methods: tuple[str, ...] = option(
        (), "YAML files for `capaboost train --config`, one per method; the file name is the method's name"
    )
    backbone: str | None = option(
        None,
        "augreg_in21k or orig_in21k (ViT-B/16), or a timm model; null: the `model` of the methods' files, else "
        "augreg_in21k",
    )
    initial_checkpoint: str | None = option(
        None, "local file with the base weights; null: that of the methods' files, else those of the hub"
    )
    shots: tuple[int, ...] = option(
        (), "few-shot: training images per class; several numbers are compared; by default all images", low=1
    )
    known: tuple[str, ...] = option(
        (), "report.json of other studies, whose results are reused where all options are the same"
    )
    set: dict[str, Any] = option(
        {}, "option of `capaboost train` that overrides those of all methods: lr=1e-3, method.rank=4"
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
    tuned: bool = option(False, "use the options that `capaboost study tune` chose in the same folder")


@dataclass(frozen=True)
class StudyTuneConfig(StudyConfig):
    """Trains candidates on the training part, without the test split, and chooses by their accuracy on val."""

    grid: dict[str, Any] = option(
        {},
        "values to try for an option: lr=[x0.3, x1, x3] (multiples of the method's own), method.rank=[2, 4, 8]; with "
        "--search also a range: lr={low: 1e-4, high: 1e-1, log: true}",
    )
    search: Literal["all", "random", "optuna", "nomad"] = option(
        "all",
        "which candidates of --grid are tried: all of them, or --budget of them, at random, by Optuna's TPE (extra "
        "search) or by NOMAD's mesh adaptive direct search (extra nomad)",
    )
    budget: int | None = option(
        None, "--search: number of candidates for each method and task; the first has the method's own options", low=1
    )
    batch: int = option(
        4, "--search: candidates that are proposed at once, for several workers (NOMAD: always 1)", low=1
    )
    search_seed: int = option(0, "--search: seed", low=0)
    tune_seeds: tuple[int, ...] = option(
        (0,), "training seeds of each candidate, which is scored by the mean over them"
    )
    across_tasks: bool = option(False, "choose the same options of a method for all tasks, by the mean score over them")

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

    output: str = option("runs/tune", "folder of the candidates; the same command continues an interrupted search")
    methods: tuple[str, ...] = option(
        ("lora", "capaboost-lora", "adapter"),
        "methods: NAME is the plain method, capaboost-NAME the masked one",
    )
    ranks: tuple[int, ...] = option(
        (4, 8, 16), "ranks (widths of adapters, lengths of prefixes and prompts) to try", low=1
    )
    rates: tuple[str, ...] = option(
        ("x0.5", "x1", "x2"), "learning rates to try: numbers, or multiples of the method's usual one, such as x2"
    )
    seeds: tuple[int, ...] = option((0,), "training seeds of each candidate, which is scored by the mean over them")

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
