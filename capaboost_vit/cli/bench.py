"""`capaboost bench`: what training costs on this machine, and what updates hold."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import Any

from jsonargparse import Namespace

from ..bench.config import CapacityConfig, ProcessesConfig, ScaleConfig, SpeedConfig
from .parser import Parser, parser_of, values_of

# by name: configuration, help
_MEASUREMENTS: dict[str, tuple[type[Any], str]] = {
    "speed": (SpeedConfig, "time of a training step, compared with the frozen model, PEFT and others"),
    "scale": (ScaleConfig, "the same for growing batch, image, text, model, rank or number of branches"),
    "processes": (ProcessesConfig, "time of a training step on one process and on several"),
    "capacity": (CapacityConfig, "how well low-rank updates approximate the update of full fine-tuning"),
}


def bench_parser() -> Parser:
    """The measurements, and the drawing of a result."""
    parser = Parser(description="Measures the cost of training on this machine, and the capacity of updates.")
    parser.below = {name: (partial(parser_of, config), text) for name, (config, text) in _MEASUREMENTS.items()}
    parser.below["draw"] = (_draw_parser, "draw the plot of a result again")
    return parser


def bench(arguments: Namespace) -> int:
    """Measures, shows tables and writes them; 1 if a goal of the configuration is missed."""
    name = arguments.subcommand
    if name == "draw":
        _draw(arguments.draw)
        return 0
    from ..bench.measure import measure, table_of, write_result

    config = _MEASUREMENTS[name][0](**values_of(arguments[name]))
    result = measure(name, config, command=f"capaboost {shlex.join(sys.argv[1:])}", say=_say)
    _say("")
    print(table_of(result))
    print("written: " + ", ".join(map(str, write_result(result, config.output))))
    return int(any(goal["met"] is False for goal in result["goals"]))


def _say(text: str) -> None:
    """Progress on stderr: on a terminal in place of the line before (no text clears it), elsewhere without rounds."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text and ": round " not in text:
        print(text, file=sys.stderr, flush=True)


def _draw_parser() -> Parser:
    parser = Parser(description="Draws the plot of a result as a PNG next to it.")
    parser.add_argument("result", type=str, help="the .json file of a measurement")
    return parser


def _draw(arguments: Namespace) -> None:
    from pathlib import Path

    from ..bench.picture import draw_result
    from ..io.json import read_object

    path = Path(arguments.result)
    try:
        result = read_object(path, {"kind": str})
    except ValueError as error:
        raise ValueError(f"{path} is no result of capaboost bench: {error}") from None
    if result["kind"] != "capacity" and "tables" not in result:
        raise ValueError(f"{path} is of an older version: measure again")
    drawn = draw_result(result, path.with_suffix(".png"))
    if drawn is None:
        raise ValueError(f"{path}: there is nothing to draw")
    print(f"drawn: {drawn}")
