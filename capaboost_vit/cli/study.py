"""`capaboost bench run`, `tune`, `work` and `status`: studies of many trials."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from .options import parser_of, values_of
from .parser import Parser, add_option

if TYPE_CHECKING:
    from ..study.config import StudyConfig
    from ..study.manifest import Study
    from ..study.trial import Trial


def run_parser() -> Parser:
    """Every field of BenchRunConfig."""
    from ..study.config import BenchRunConfig

    return parser_of(BenchRunConfig)


def tune_parser() -> Parser:
    """Every field of BenchTuneConfig."""
    from ..study.config import BenchTuneConfig

    return parser_of(BenchTuneConfig)


def work_parser() -> Parser:
    """What one worker needs to know."""
    from ..study.config import WorkConfig

    parser = Parser(
        description="One worker: takes the trials of a study, one after the other, until none is open. Any number of "
        "them may run at once, on all machines that share the folder."
    )
    for name in ("output", "lease", "attempts", "keep_models"):
        field = WorkConfig.__dataclass_fields__[name]
        add_option(parser, f"--{name.replace('_', '-')}", type(field.default), field.default, field.metadata["help"])
    add_option(parser, "--wait", bool, True, "wait for trials in other hands; false: end where no other is open")
    return parser


def status_parser() -> Parser:
    """Which study."""
    parser = Parser(description="How far a study is: what is finished, who runs what, what failed and why.")
    parser.add_argument("folder", type=str, help="folder of the study")
    return parser


def run(arguments: Namespace) -> int:
    """Writes down what the study lacks, and computes it; ends with 1 if something failed."""
    from ..study.choose import read_choices
    from ..study.config import BenchRunConfig
    from ..study.manifest import Study
    from ..study.plan import final_trials

    config = BenchRunConfig(**values_of(arguments))
    study = Study(config.output)
    kept = _written(study, final_trials(config, read_choices(study) if config.tuned else None), config)
    _computed(study, config)
    failed = 0
    for trial in kept:
        failure = None if study.finished(trial) else study.failure(trial)
        if failure is not None:
            print(f"failed: {trial.title()}: {failure['error']}", file=sys.stderr)
            failed += 1
    print(f"{sum(map(study.finished, kept))} of {len(kept)} trials are finished in {study.path}")
    return 1 if failed else 0


def tune(arguments: Namespace) -> int:
    """Computes the candidates, and chooses; ends with 1 if something is missing."""
    from ..study.choose import choose, write_choices
    from ..study.config import BenchTuneConfig
    from ..study.manifest import Study
    from ..study.plan import candidate_trials

    config = BenchTuneConfig(**values_of(arguments))
    study = Study(config.output)
    candidates = candidate_trials(config)
    kept = iter(_written(study, [t for cell in candidates.values() for _, trials in cell for t in trials], config))
    candidates = {
        key: [(point, [next(kept) for _ in trials]) for point, trials in cell] for key, cell in candidates.items()
    }
    _computed(study, config)
    choices, missing = choose(study, candidates, across_tasks=config.across_tasks)
    write_choices(study, choices)
    for key, choice in choices.items():
        said = ", ".join(f"{name} {value}" for name, value in choice.options.items()) or "nothing to choose"
        edge = f" (at the edge of the grid: {', '.join(choice.at_the_edge)})" if choice.at_the_edge else ""
        print(f"{key}: {said}, val {choice.score:.2f}{edge}")
    for line in missing:
        print(f"no choice for {line}", file=sys.stderr)
    print(f"written: {study.choices}")
    return 1 if missing and config.workers else 0


def work(arguments: Namespace) -> None:
    """Computes trials until none is open."""
    from ..study.manifest import Study
    from ..study.work import work

    study = Study(arguments.output)
    study.trials()  # refuses a folder without a study
    values = arguments.as_dict()
    del values["output"]
    finished = work(study, **values)
    print(f"{finished} trials finished by this worker")


def status(arguments: Namespace) -> None:
    """Prints it."""
    from ..study.manifest import Study
    from ..study.status import describe

    for line in describe(Study(arguments.folder)):
        print(line)


def _written(study: Study, trials: list[Trial], config: StudyConfig) -> list[Trial]:
    """Adds the trials to the manifest; returns them with the ids that they have there."""
    from ..study.known import take_known

    kept, new = study.add(trials)
    for report, count in take_known(study, kept, config.known).items():
        print(f"{count} results taken from {report}")
    finished = sum(map(study.finished, kept))
    print(f"{study.path}: {len(kept)} trials, {new} of them new, {finished} finished")
    if config.retry:
        for trial in kept:
            study.forgive(trial)
    return kept


def _computed(study: Study, config: StudyConfig) -> None:
    from ..study.pool import run_pool, work_options
    from ..study.ray_pool import run_on_ray

    if not study.open_trials():
        return
    if config.workers == 0:
        print(
            "no workers on this machine; each one is started with: "
            + shlex.join(["capaboost", "bench", "work", *work_options(study, config)])
        )
    else:
        (run_on_ray if config.on == "ray" else run_pool)(study, config, say=print)
