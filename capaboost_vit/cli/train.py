"""`capaboost train`, `capaboost train-text` and `capaboost quickstart`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from ..nlu.config import TextConfig
from ..training.config import RunConfig
from ..vision.config import TrainConfig
from .options import parser_of, values_of
from .parser import Parser, add_method_options, method_options


def train_parser() -> Parser:
    """Every field of TrainConfig as an option, and those of the methods."""
    return _parser_of(TrainConfig)


def text_parser() -> Parser:
    """Every field of TextConfig as an option, and those of the methods."""
    return _parser_of(TextConfig)


def train(arguments: Namespace) -> None:
    """Trains on images, and says where the result lies."""
    _train(TrainConfig, arguments)


def train_text(arguments: Namespace) -> None:
    """Trains on texts, and says where the result lies."""
    _train(TextConfig, arguments)


def _parser_of(config: type[RunConfig]) -> Parser:
    parser = parser_of(config, but=("method",))
    add_method_options(parser)
    return parser


def _train(config: type[RunConfig], arguments: Namespace) -> None:
    values = {**values_of(arguments), "method": method_options(arguments)}
    from ..run import train

    path = Path(values["output"], "result.json")
    before = path.stat().st_mtime_ns if path.exists() else None
    if train(config(**values)):  # nothing in all but the first process
        print(f"finished{' already' if before == path.stat().st_mtime_ns else ''}: {path}")


def quickstart_parser() -> Parser:
    """Where, and from which seed."""
    parser = Parser(description="Pretrains a small ViT on five digits and adapts it to the other five, four ways.")
    parser.add_argument("--output", type=str, default="runs/quickstart", help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of all runs")
    return parser


def quickstart(arguments: Namespace) -> None:
    """Runs it; it prints what it does."""
    from ..study.quickstart import quickstart

    quickstart(Path(arguments.output), seed=arguments.seed)
