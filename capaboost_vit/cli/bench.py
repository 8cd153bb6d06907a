"""`capaboost bench`: what training costs on this machine."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import typing
from typing import Any

from jsonargparse import Namespace

from .parser import Parser, add_option


def bench_parser() -> Parser:
    """The suites, and the drawing of a result."""
    parser = Parser(description="Measures what training costs: time, memory, and how both grow.")
    parser.below = {
        "speed": (_speed_parser, "a training step beside the floor, PEFT and others"),
        "scale": (_scale_parser, "the same as batch, image, model, rank or branches grow"),
        "vtab-time": (_vtab_time_parser, "the whole VTAB-1k with one seed: extrapolated, or in full"),
        "processes": (_processes_parser, "the training loop on one process and on several"),
        "draw": (_draw_parser, "the picture of a result that was measured without matplotlib"),
    }
    return parser


def bench(arguments: Namespace) -> None:
    """Runs one suite, shows its table and says where the result lies."""
    if arguments.subcommand == "draw":
        _draw(arguments.draw)
        return
    from ..bench.config import ScaleConfig, SpeedConfig
    from ..bench.loop_config import ProcessesConfig, VtabTimeConfig
    from ..bench.processes import measure_processes
    from ..bench.progress import say
    from ..bench.report import table_of, write_result
    from ..bench.scale import measure_scale
    from ..bench.speed import measure_speed
    from ..bench.vtab_time import measure_vtab_time

    command = f"capaboost {shlex.join(sys.argv[1:])}"
    values = _values(arguments[arguments.subcommand])
    result: dict[str, Any]
    if arguments.subcommand == "speed":
        result = measure_speed(SpeedConfig(**values), command=command, say=say)
    elif arguments.subcommand == "scale":
        result = measure_scale(ScaleConfig(**values), command=command, say=say)
    elif arguments.subcommand == "vtab-time":
        result = measure_vtab_time(VtabTimeConfig(**values), command=command, say=say)
    else:
        result = measure_processes(ProcessesConfig(**values), command=command, say=say)
    say("")
    print(table_of(result))
    print("written: " + ", ".join(map(str, write_result(result, values["output"]))))


def _speed_parser() -> Parser:
    from ..bench.config import SpeedConfig

    return _parser_of(SpeedConfig)


def _scale_parser() -> Parser:
    from ..bench.config import ScaleConfig

    return _parser_of(ScaleConfig)


def _vtab_time_parser() -> Parser:
    from ..bench.loop_config import VtabTimeConfig

    return _parser_of(VtabTimeConfig)


def _processes_parser() -> Parser:
    from ..bench.loop_config import ProcessesConfig

    return _parser_of(ProcessesConfig)


def _draw_parser() -> Parser:
    parser = Parser(description="Draws a result as PNG beside it.")
    parser.add_argument("result", type=str, help="the .json file of a measurement")
    return parser


def _draw(arguments: Namespace) -> None:
    import json
    from pathlib import Path

    from ..bench.picture import draw_result

    path = Path(arguments.result)
    result = json.loads(path.read_text())
    if not isinstance(result, dict) or result.get("kind") not in ("speed", "scale"):
        raise ValueError(f"{path} is no result of capaboost bench")
    drawn = draw_result(result, path.with_suffix(".png"))
    if drawn is None:
        raise ValueError("there is nothing to draw" if "matplotlib" in sys.modules else "matplotlib is not installed")
    print(f"drawn: {drawn}")


def _parser_of(config: type[Any]) -> Parser:
    """Every field of a configuration as an option; lists take several words, or none."""
    parser = Parser(description=(config.__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with any of these options; flags win over it")
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        default: Any = field.default_factory() if callable(field.default_factory) else field.default
        flag, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        if typing.get_origin(hints[field.name]) is tuple:
            kind = typing.get_args(hints[field.name])[0]
            parser.add_argument(flag, type=kind, nargs="*", default=list(default), help=text)
        else:
            add_option(parser, flag, hints[field.name], default, text)
    return parser


def _values(arguments: Namespace) -> dict[str, Any]:
    """The fields of a configuration; lists are tuples in it."""
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in arguments.as_dict().items()}
    values.pop("config")
    return values
