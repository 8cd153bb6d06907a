"""`capaboost tune`: method, rank and learning rate for one data set, and the command that trains the winner."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from ..study.config import TuneConfig
from ..vision.config import TrainConfig
from .parser import Parser, add_config_options, parser_of, values_of

if TYPE_CHECKING:
    from ..study.manifest import Study

# options of `capaboost train` that tune decides; --workers are its own
_DECIDED = ("output", "method", "lr", "seed", "workers", "test_split", "resume", "overwrite", "allow_config_change")
_SHOWN = 10


def tune_parser() -> Parser:
    """The options of the search, and those of `capaboost train` that all candidates share."""
    parser = parser_of(TuneConfig)
    add_config_options(parser, TrainConfig, but=_DECIDED)
    return parser


def tune(arguments: Namespace) -> None:
    """Computes what is missing, prints the table and the command."""
    from ..study.tune import command, tune

    values = values_of(arguments)
    own = {field.name: values.pop(field.name) for field in dataclasses.fields(TuneConfig)}
    config = TuneConfig(**own)

    def compute(study: Study) -> None:
        from ..study.pool import run_workers, work_command

        if config.workers == 0:
            words = shlex.join(["capaboost", *work_command(study, config)])
            print(f"no workers on this machine; each one is started with: {words}")
        elif study.open_trials():
            run_workers(study, config)

    rows = tune(config, values, compute)
    unit = "epochs" if values["max_steps"] is None else "updates"
    print(f"{'method':24}{'lr':>9}{unit:>9}{'val %':>16}{'trained':>12}{'seconds':>9}")
    for row in rows[:_SHOWN]:
        point = row.candidate.options
        name = point["name"] if point["size"] is None else f"{point['name']} {point['size']}"
        score = f"{row.score:.2f}" + ("" if row.spread is None else f" ± {row.spread:.2f}")
        print(f"{name:24}{point['lr']:>9g}{row.length:>9}{score:>16}{row.parameters:>12,}{row.seconds:>9.0f}")
    if rows[_SHOWN:]:
        print(f"... and {len(rows) - _SHOWN} more: {config.output}/tune.json")
    print(f"train the best one, and test it once: {command(values, rows[0])}")
