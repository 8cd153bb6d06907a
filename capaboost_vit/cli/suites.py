"""`capaboost bench check`: whether the data of a suite is what its tasks expect, before anything is trained."""

from __future__ import annotations

import sys

from jsonargparse import Namespace

from .parser import Parser


def check_parser() -> Parser:
    """The suite, its data, and which of its tasks."""
    parser = Parser(
        description="Reads every image of the tasks of a suite: sizes, classes, images in two splits or unreadable, "
        "and whether they are the known ones. Ends with 1 if there are problems, or no data for a task."
    )
    parser.add_argument("--suite", type=str, default="vtab1k", help="vtab1k, fgvc, or a YAML file with `tasks:`")
    parser.add_argument(
        "--data",
        type=str | None,
        default=None,
        help="folder with a folder or .zip per task, or hub; not needed for a YAML file",
    )
    parser.add_argument("--tasks", type=str, nargs="+", default=["*"], help="names or wildcards, such as dsprites_*")
    return parser


def check(arguments: Namespace) -> int:
    """Prints what was found; 1 if there are problems."""
    from ..study.suites.checking import check_suite
    from ..study.suites.opening import find_tasks

    found = find_tasks(arguments.suite, data=arguments.data, tasks=arguments.tasks)
    shown = sys.stderr.isatty()
    report = check_suite(found.suite, missing=found.missing, progress=_show if shown else None)
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(report.text(), end="")
    return 1 if report.problems else 0


def _show(task: str, done: int, total: int) -> None:
    if done % max(1, total // 100) == 0:
        print(f"\r\x1b[K{task}: {done} of {total} images", end="", file=sys.stderr, flush=True)
