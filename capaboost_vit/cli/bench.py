"""`capaboost bench`: what training costs on this machine, and what updates hold."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any

from jsonargparse import Namespace

from .options import parser_of, values_of
from .parser import Parser


def bench_parser() -> Parser:
    """Measurements, and the drawing of a result."""
    parser = Parser(description="Measures what training costs and what updates hold.")
    parser.below = {
        "speed": (_speed_parser, "a training step beside the floor, PEFT and others"),
        "scale": (_scale_parser, "the same as batch, image, model, rank or branches grow"),
        "vtab-time": (_vtab_time_parser, "the whole VTAB-1k with one seed: extrapolated, or in full"),
        "processes": (_processes_parser, "the training loop on one process and on several"),
        "capacity": (_capacity_parser, "how much of a full fine-tuning's update low-rank updates can hold"),
        "draw": (_draw_parser, "the picture of a result that was measured without matplotlib"),
    }
    return parser


def bench(arguments: Namespace) -> None:
    """Runs the one command; what was measured is shown as a table."""
    if arguments.subcommand == "draw":
        _draw(arguments.draw)
        return
    from ..bench.capacity import measure_capacity
    from ..bench.capacity_config import CapacityConfig
    from ..bench.config import ScaleConfig, SpeedConfig
    from ..bench.loop_config import ProcessesConfig, VtabTimeConfig
    from ..bench.processes import measure_processes
    from ..bench.progress import say
    from ..bench.report import table_of, write_result
    from ..bench.scale import measure_scale
    from ..bench.speed import measure_speed
    from ..bench.vtab_time import measure_vtab_time

    command = f"capaboost {shlex.join(sys.argv[1:])}"
    values = values_of(arguments[arguments.subcommand])
    measures: dict[str, tuple[type[Any], Callable[..., dict[str, Any]]]] = {
        "speed": (SpeedConfig, measure_speed),
        "scale": (ScaleConfig, measure_scale),
        "vtab-time": (VtabTimeConfig, measure_vtab_time),
        "processes": (ProcessesConfig, measure_processes),
        "capacity": (CapacityConfig, measure_capacity),
    }
    config, measure = measures[arguments.subcommand]
    result = measure(config(**values), command=command, say=say)
    say("")
    print(table_of(result))
    print("written: " + ", ".join(map(str, write_result(result, values["output"]))))


def _speed_parser() -> Parser:
    from ..bench.config import SpeedConfig

    return parser_of(SpeedConfig)


def _scale_parser() -> Parser:
    from ..bench.config import ScaleConfig

    return parser_of(ScaleConfig)


def _vtab_time_parser() -> Parser:
    from ..bench.loop_config import VtabTimeConfig

    return parser_of(VtabTimeConfig)


def _processes_parser() -> Parser:
    from ..bench.loop_config import ProcessesConfig

    return parser_of(ProcessesConfig)


def _capacity_parser() -> Parser:
    from ..bench.capacity_config import CapacityConfig

    return parser_of(CapacityConfig)


def _draw_parser() -> Parser:
    parser = Parser(description="Draws a result as PNG beside it.")
    parser.add_argument("result", type=str, help="the .json file of a measurement")
    return parser


def _draw(arguments: Namespace) -> None:
    import json
    from pathlib import Path

    from ..bench.picture import PICTURES, draw_result

    path = Path(arguments.result)
    result = json.loads(path.read_text())
    if not isinstance(result, dict) or result.get("kind") not in PICTURES:
        raise ValueError(f"{path} is no result of capaboost bench")
    drawn = draw_result(result, path.with_suffix(".png"))
    if drawn is None:
        raise ValueError("there is nothing to draw" if "matplotlib" in sys.modules else "matplotlib is not installed")
    print(f"drawn: {drawn}")
