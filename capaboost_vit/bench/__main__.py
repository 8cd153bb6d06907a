"""`python -m capaboost_vit.bench`: the measurements with nothing installed but torch, timm and what timm needs.

    python -m capaboost_vit.bench speed A.yaml B.yaml scale C.yaml --budget 540 --output FOLDER

A word that names a suite holds for the files behind it. The results have the names of the files. This is what
scripts/bench_gpu.sh calls; `capaboost bench` has the same suites with every option as a flag, and draws pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..io.yaml import parse_yaml
from .config import ScaleConfig, SpeedConfig
from .loop_config import ProcessesConfig, VtabTimeConfig
from .picture import PICTURES
from .processes import measure_processes
from .progress import say
from .report import table_of, write_result
from .scale import measure_scale
from .speed import measure_speed
from .timing import Budget
from .vtab_time import measure_vtab_time

SUITES: dict[str, tuple[type[Any], Any]] = {
    "speed": (SpeedConfig, measure_speed),
    "scale": (ScaleConfig, measure_scale),
    "vtab-time": (VtabTimeConfig, measure_vtab_time),
    "processes": (ProcessesConfig, measure_processes),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the files in their order; returns 0, or 2 for a mistake of the caller."""
    parser = argparse.ArgumentParser(
        prog="python -m capaboost_vit.bench", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "words", nargs="+", metavar="SUITE CONFIG...", help=f"{', '.join(SUITES)}, and files of its options"
    )
    parser.add_argument("--budget", type=float, help="seconds for all of them: then no new case is started")
    parser.add_argument("--output", type=Path, help="folder of the results; without it, each file's own output")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options that win over all files"
    )
    arguments = parser.parse_args(argv)
    words = sys.argv[1:] if argv is None else argv
    command = f"python -m capaboost_vit.bench {shlex.join(words)}"
    try:
        runs = _runs(arguments.words, dict(_pair(text) for text in arguments.set), arguments.output)
        _run_all(runs, command, arguments.budget)
    except (ValueError, TypeError, OSError) as error:
        print(f"capaboost_vit.bench: error: {error}", file=sys.stderr)
        return 2
    return 0


def _run_all(runs: list[tuple[Any, Any]], command: str, seconds: float | None) -> None:
    budget = Budget(seconds)
    for config, measure in runs:
        start = time.monotonic()
        result = measure(config, command=command, say=say, budget=budget)
        say("")
        print(table_of(result), flush=True)
        paths = write_result(result, config.output)
        print(f"written: {', '.join(map(str, paths))}")
        if result["kind"] in PICTURES and not any(path.suffix == ".png" for path in paths):
            print(f"no picture, as matplotlib is not here: capaboost bench draw {paths[0]}")
        print(f"{time.monotonic() - start:.0f} s\n", flush=True)


def _runs(words: Sequence[str], overrides: dict[str, Any], folder: Path | None) -> list[tuple[Any, Any]]:
    """The configurations and what measures them, all checked before the first is run."""
    runs = []
    suite = None
    for word in words:
        if word in SUITES:
            suite = word
            continue
        if suite is None:
            raise ValueError(f"say {' or '.join(SUITES)} before {word}")
        cls, measure = SUITES[suite]
        values = {**(parse_yaml(Path(word).read_text()) or {}), **overrides}
        if folder is not None:
            values["output"] = str(folder / f"{Path(word).stem}.json")
        runs.append((_configure(cls, values, word), measure))
    if not runs:
        raise ValueError("name a configuration, such as configs/bench/gpu.yaml")
    return runs


def _configure(cls: type[Any], values: dict[str, Any], path: str) -> Any:
    known = [field.name for field in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"{path}: no option {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return cls(**lists)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes NAME=VALUE, got {text!r}")
    return name, parse_yaml(value)


if __name__ == "__main__":
    sys.exit(main())
