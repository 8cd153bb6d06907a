"""`capaboost bench report`: the page of a study, and its tables."""

from __future__ import annotations

from jsonargparse import Namespace

from .parser import Parser, add_option


def page_parser() -> Parser:
    """Which study, and what to write."""
    parser = Parser(
        description="Writes report.html, one page that needs nothing else, the study's tables as Markdown, csv and "
        "LaTeX, and its raw results as json. Also of a study that is not finished: what is missing is shown, and never "
        "averaged over."
    )
    parser.add_argument("folder", type=str, help="folder of the study")
    add_option(parser, "--output", str | None, None, "folder of the files; null: that of the study")
    add_option(parser, "--reference", str | None, None, "method to compare with; null: the study's plain LoRA")
    parser.add_argument(
        "--formats",
        type=str,
        nargs="+",
        default=["html", "md", "csv", "tex", "json"],
        help="some of html, md, csv, tex and json",
    )
    add_option(parser, "--thumbnails", bool, True, "show the worst mistakes, where the data are on this machine")
    return parser


def page(arguments: Namespace) -> None:
    """Writes it, and says where."""
    from ..study.page.page import write_report

    paths = write_report(
        arguments.folder,
        arguments.output,
        reference=arguments.reference,
        formats=arguments.formats,
        thumbnails=arguments.thumbnails,
    )
    print("written: " + ", ".join(map(str, paths)))
