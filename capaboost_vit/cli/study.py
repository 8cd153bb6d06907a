"""`capaboost study check | tune | run | work | status | report`: many trials, and the tables and pictures of them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from ..io.printable import printable
from ..io.yaml import parse_yaml
from ..study.config import WORKER_OPTIONS, StudyConfig, StudyRunConfig, StudyTuneConfig, WorkConfig
from .parser import Parser, add_option, parser_of, values_of

if TYPE_CHECKING:
    from ..study.manifest import Study
    from ..study.trial import Trial


def study_parser() -> Parser:
    """The commands of a study, in the order in which they are typed."""
    parser = Parser(description="Compares methods on suites of tasks, with several seeds.")
    parser.below = {
        "check": (_check_parser, "check the data of a suite of tasks"),
        "tune": (lambda: _parser_of(StudyTuneConfig), "choose learning rates and the like on val, for run --tuned"),
        "run": (lambda: _parser_of(StudyRunConfig), "train and test every method on every task, with several seeds"),
        "work": (_work_parser, "start one more worker for a study, on this machine or another"),
        "status": (_status_parser, "print the progress of a study"),
        "report": (_report_parser, "write the page of a study, and its tables"),
    }
    return parser


def study(arguments: Namespace) -> int | None:
    """Runs the one command."""
    actions = {"check": _check, "tune": _tune, "run": _run, "work": _work, "status": _status, "report": _report}
    return actions[arguments.subcommand](arguments[arguments.subcommand])


class _Entry(argparse.Action):
    """`--set NAME=VALUE`, the value in YAML: one entry of a dict, over those of --config and of earlier flags."""

    def __call__(
        self, parser: Any, namespace: Any, values: str | Sequence[Any] | None, option_string: str | None = None
    ) -> None:
        name, equals, text = str(values).partition("=")
        if not (name and equals):
            raise argparse.ArgumentError(self, f"expected {self.metavar}, got {values!r}")
        try:
            value = parse_yaml(text, name)
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        # a copy: the default is shared by all parsers
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), name: value})


def _parser_of(config: type[StudyConfig]) -> Parser:
    parser = parser_of(config, but=("set", "grid"))
    for name, metavar in (("set", "NAME=VALUE"), ("grid", "NAME=LIST")):
        if name in config.__dataclass_fields__:
            text = config.__dataclass_fields__[name].metadata["help"]
            parser.add_argument(f"--{name}", action=_Entry, default={}, metavar=metavar, help=text)
    return parser


def _check_parser() -> Parser:
    parser = Parser(
        description="Reads every image of the tasks of a suite: checks sizes and classes, images that are unreadable "
        "or in two splits, and whether they are those of the official lists. Exit code 1 if there are problems, or no "
        "data for a task."
    )
    for name, hint in (("suite", str), ("data", str | None)):
        field = StudyConfig.__dataclass_fields__[name]
        add_option(parser, f"--{name}", hint, field.default, field.metadata["help"])
    text = StudyConfig.__dataclass_fields__["tasks"].metadata["help"]
    parser.add_argument("--tasks", type=str, nargs="+", default=["*"], help=text)
    return parser


def _check(arguments: Namespace) -> int:
    from ..study.suites.checking import check_suite
    from ..study.suites.opening import find_tasks

    suite = find_tasks(arguments.suite, data=arguments.data, tasks=arguments.tasks)
    shown = sys.stderr.isatty()
    report = check_suite(suite, progress=_show_progress if shown else None)
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(report.text(), end="")
    return 1 if report.problems else 0


def _show_progress(task: str, done: int, total: int) -> None:
    if done % max(1, total // 100) == 0:
        print(f"\r\x1b[K{task}: {done} of {total} images", end="", file=sys.stderr, flush=True)


def _tune(arguments: Namespace) -> int:
    """Computes the candidates, and chooses; ends with 1 if something is missing."""
    from ..study.manifest import Study
    from ..study.plan import candidate_trials
    from ..study.search import search
    from ..study.selection import Candidate, select_candidates, write_choices

    config = StudyTuneConfig(**values_of(arguments))
    study = Study(config.output)

    def compute(trials: list[Trial]) -> list[Trial]:
        kept = _write_down(study, trials, config)
        _compute(study, config)
        return kept

    if config.search == "all":
        candidates = candidate_trials(config)
        kept = iter(compute([t for cell in candidates.values() for _, trials in cell for t in trials]))
        for key, cell in candidates.items():
            candidates[key] = [Candidate(options, [next(kept) for _ in trials]) for options, trials in cell]
        choices, missing = select_candidates(study, candidates, across_tasks=config.across_tasks)
    else:
        choices, missing = search(study, config, compute)
    write_choices(study, choices)
    for key, choice in choices.items():
        chosen = ", ".join(f"{name} {value}" for name, value in choice["options"].items()) or "nothing to choose"
        edge = f" (at the edge of the grid: {', '.join(choice['at_the_edge'])})" if choice["at_the_edge"] else ""
        print(f"{key}: {chosen}, val {choice['score']:.2f}{edge}")
    for line in missing:
        print(f"no choice for {line}", file=sys.stderr)
    print(f"written: {study.choices}")
    return 1 if missing and config.workers else 0


def _run(arguments: Namespace) -> int:
    """Writes down what the study lacks, and computes it; ends with 1 if something failed."""
    from ..study.manifest import Study
    from ..study.plan import final_trials
    from ..study.selection import read_choices

    config = StudyRunConfig(**values_of(arguments))
    study = Study(config.output)
    kept = _write_down(study, final_trials(config, read_choices(study) if config.tuned else None), config)
    _compute(study, config)
    failed = 0
    for trial in kept:
        failure = None if study.finished(trial) else study.failure(trial)
        if failure is not None:
            print(printable(f"failed: {trial.title()}: {failure['error']}"), file=sys.stderr)
            failed += 1
    print(f"{sum(map(study.finished, kept))} of {len(kept)} trials are finished in {study.path}")
    return 1 if failed else 0


def _write_down(study: Study, trials: list[Trial], config: StudyConfig) -> list[Trial]:
    """Adds the trials to the manifest; returns them with the ids that they have there."""
    from ..study.report_json import reuse_results

    kept, new = study.add(trials)
    for report, count in reuse_results(study, kept, config.known).items():
        print(f"{count} results taken from {report}")
    print(f"{study.path}: {len(kept)} trials, {new} of them new, {sum(map(study.finished, kept))} finished")
    for trial in kept[:1]:  # all have the same
        print(f"backbone: {trial.config['model']}, base weights: {_weights(trial.config)}")
    if config.retry:
        for trial in kept:
            study.forgive(trial)
    return kept


def _weights(config: Mapping[str, Any]) -> str:
    return config["initial_checkpoint"] or ("the hub's" if config["pretrained"] else "random")


def _compute(study: Study, config: StudyConfig) -> None:
    from ..study.pool import run_workers, work_command

    if not study.open_trials():
        return
    if config.workers == 0:
        command = shlex.join(["capaboost", *work_command(study, config)])
        print(f"no workers on this machine; each one is started with: {command}")
    else:
        run_workers(study, config)


def _work_parser() -> Parser:
    parser = Parser(
        description="Runs one worker, which takes the trials of a study one after the other until none is left. Any "
        "number of workers may run at once, on all machines that share the folder."
    )
    for name in ("output", *WORKER_OPTIONS):
        field = WorkConfig.__dataclass_fields__[name]
        add_option(parser, f"--{name.replace('_', '-')}", type(field.default), field.default, field.metadata["help"])
    text = "wait for trials that other workers compute; false: end if there are only such trials"
    add_option(parser, "--wait", bool, True, text)
    return parser


def _work(arguments: Namespace) -> None:
    from ..study.manifest import Study
    from ..study.work import work

    values = arguments.as_dict()
    wait = values.pop("wait")
    config = WorkConfig(**values)
    study = Study(config.output)
    study.trials()  # refuses a folder without a study
    print(f"{work(study, config, wait=wait)} trials finished by this worker")


def _status_parser() -> Parser:
    parser = Parser(description="Prints the progress of a study: finished and running trials, failures with reasons.")
    parser.add_argument("folder", type=str, help="folder of the study")
    return parser


def _status(arguments: Namespace) -> None:
    from ..study.manifest import Study
    from ..study.status import describe

    for line in describe(Study(arguments.folder)):
        print(line)


def _report_parser() -> Parser:
    parser = Parser(
        description="Writes report.html, a self-contained page, the study's tables as Markdown, csv and LaTeX, and its "
        "results as JSON. The study need not be finished: missing trials are shown, and never averaged over."
    )
    parser.add_argument("folder", type=str, help="folder of the study")
    add_option(parser, "--output", str | None, None, "folder of the files to write; null: that of the study")
    text = "method with which the others are compared; null: the study's plain LoRA"
    add_option(parser, "--reference", str | None, None, text)
    formats = ["html", "md", "csv", "tex", "json"]
    parser.add_argument("--formats", type=str, nargs="+", default=formats, help="formats to write")
    add_option(parser, "--thumbnails", bool, True, "show the worst mistakes, if the data are on this machine")
    text = "show what the predictions of these rest on, as capaboost explain does"
    add_option(parser, "--explain", bool, False, text)
    return parser


def _report(arguments: Namespace) -> None:
    from ..study.page.page import write_report

    print("written: " + ", ".join(map(str, write_report(**arguments.as_dict()))))
