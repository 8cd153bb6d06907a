"""`capaboost quickstart`, `train` and `train-text`; `report`, for what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from ..io.options import flag
from ..training.config import RunConfig
from ..vision.config import TrainConfig
from .method import add_method_options, method_options
from .parser import Parser, add_option, parser_of, values_of


def train_parser(config: type[RunConfig], **defaults: Any) -> Parser:
    """Every field of a configuration as an option, and those of the methods.

    Args:
        defaults: of what is typed, where they are not the configuration's; what a file leaves out is as in Python.
    """
    parser = parser_of(config, but=("method",))
    add_method_options(parser)
    if config is TrainConfig:
        text = (
            "k for k-fold cross-validation: k runs in OUTPUT/fold1, fold2, ..., each tested on its own part of the "
            "training split and trained on the others; the test split is not used; null: one run"
        )
        add_option(parser, "--folds", int | None, None, text, {"low": 2})
    parser.set_defaults(**defaults)
    parser.before_files = [f"{flag(name)}={config.__dataclass_fields__[name].default}" for name in defaults]
    return parser


def train(config: type[RunConfig], arguments: Namespace) -> None:
    """Trains on images or texts, and says where the result lies."""
    values = {**values_of(arguments), "method": method_options(arguments)}
    folds = values.pop("folds", None)
    if folds is not None:
        from ..study.folds import train_folds

        print(train_folds(TrainConfig(**values), folds))
        return
    from ..run import train

    path = Path(values["output"], "result.json")
    before = path.stat().st_mtime_ns if path.exists() else None
    if train(config(**values)):  # nothing in all but the first process
        print(f"finished{' already' if before == path.stat().st_mtime_ns else ''}: {path}")


def quickstart_parser() -> Parser:
    """Where, and from which seed."""
    parser = Parser(
        description="Pretrains a small ViT on five digits, and adapts it to the other five by four methods with "
        "three seeds."
    )
    add_option(parser, "--output", str, "runs/quickstart", "folder of the runs")
    add_option(parser, "--seed", int, 0, "first of the three seeds")
    return parser


def quickstart(arguments: Namespace) -> None:
    """Runs it; it prints what it does."""
    from ..study.quickstart import quickstart

    quickstart(Path(arguments.output), seed=arguments.seed)


def report_parser() -> Parser:
    """Which runs."""
    parser = Parser(
        description="Prints a table of finished runs: test scores of methods by tasks, mean and standard deviation "
        "over seeds."
    )
    parser.add_argument("folders", type=str, nargs="+", help="folders of runs, at any depth")
    add_option(parser, "--output", str | None, None, "file to write the table to: .md, .csv or .json; null: none")
    return parser


def report(arguments: Namespace) -> None:
    """Prints the table, and writes it."""
    from ..study.runs import collect, markdown, table, write_report

    runs = collect(arguments.folders)
    if not runs:
        raise ValueError(f"no run in {', '.join(arguments.folders)} has a test score")
    print(markdown(*table(runs)), end="")
    if arguments.output is not None:
        print(f"written: {write_report(runs, Path(arguments.output))}")
