"""`capaboost data check`: what is in a data set, and what is wrong with it, before anything is trained."""

from __future__ import annotations

import sys

from jsonargparse import Namespace

from .parser import Parser, add_option


def data_parser() -> Parser:
    """One command so far."""
    parser = Parser(description="Looks at data sets.")
    parser.below = {"check": (_check_parser, "read every image, count, and look for problems")}
    return parser


def data(arguments: Namespace) -> int:
    """Runs the one command."""
    return _check(arguments.check)


def _check_parser() -> Parser:
    parser = Parser(
        description="Reads every image of a data set: counts, sizes, unreadable images, copies, the same image in two "
        "splits or under two labels. Ends with 1 if there are problems."
    )
    parser.add_argument("spec", type=str, help="data set, as --data of capaboost train")
    parser.add_argument("--sheet", type=str | None, default=None, help="PNG to write, with some images of each class")
    column = "column of the {} (hub, parquet); null: found by type or name"
    parser.add_argument("--image-column", type=str | None, default=None, help=column.format("images"))
    parser.add_argument("--label-column", type=str | None, default=None, help=column.format("labels"))
    parser.add_argument("--data-dir", type=str | None, default=None, help="folder of torchvision's data sets")
    add_option(parser, "--data-download", bool, False, "let torchvision download the data set")
    return parser


def _check(arguments: Namespace) -> int:
    from ..vision.data import check_data, draw_contact_sheet, open_data

    images = open_data(
        arguments.spec,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        root=arguments.data_dir,
        download=arguments.data_download,
    )
    total = sum(map(len, images.splits.values()))
    shown = sys.stderr.isatty()
    report = check_data(images, progress=(lambda done: _show(done, total)) if shown else None)
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(report.text(), end="")
    if arguments.sheet is not None:
        print(f"\nContact sheet: {draw_contact_sheet(images, arguments.sheet)}")
    return 1 if report.problems else 0


def _show(done: int, total: int) -> None:
    if done % max(1, total // 100) == 0:
        print(f"\r{done} of {total} images", end="", file=sys.stderr, flush=True)
