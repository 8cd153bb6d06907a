"""`capaboost report`: a table of finished runs."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from .parser import Parser


def report_parser() -> Parser:
    """Which runs."""
    parser = Parser(
        description="A table of finished runs: methods by tasks, test scores, mean and standard deviation over seeds."
    )
    parser.add_argument("folders", type=str, nargs="+", help="folders of runs, at any depth")
    parser.add_argument("--output", type=str | None, default=None, help="also write it: a .md, .csv or .json file")
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
