"""`capaboost explain`: what the answers of a model on images rest on, as a picture."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from ..training.config import DEVICE_HELP
from .parser import WEIGHTS_HELP, Parser, add_option


def explain_parser() -> Parser:
    """Which run, and which pictures."""
    parser = Parser(
        description="Draws pictures with a map of what the predictions rest on: attention rollout for ViTs with a "
        "class token, SmoothGrad for other models. Without pictures it draws the worst mistakes on the test split, "
        "which the page of a study shows from then on."
    )
    parser.add_argument(
        "run",
        type=str,
        help="folder of a finished run; with pictures also an adapter file, or a folder that timm loads",
    )
    parser.add_argument("pictures", type=str, nargs="*", help="pictures, and folders with pictures at any depth")
    text = "PNG to write, of pictures; null: RUN/explained.png; mistakes are always written to RUN/mistakes.png"
    add_option(parser, "--output", str | None, None, text)
    add_option(parser, "--initial-checkpoint", str | None, None, WEIGHTS_HELP)
    add_option(parser, "--device", str | None, None, DEVICE_HELP)
    return parser


def explain(arguments: Namespace) -> None:
    """Writes the picture, and says where."""
    from ..vision.explain_run import explain_mistakes, explain_pictures

    run, output = Path(arguments.run), arguments.output
    options = {"initial_checkpoint": arguments.initial_checkpoint, "device": arguments.device}
    if not arguments.pictures:
        if output is not None:
            raise ValueError(f"--output {output} is for pictures that are named: mistakes go to {run / 'mistakes.png'}")
        print(f"written: {explain_mistakes(run, **options)}")
        return
    if output is None:
        if not run.is_dir():
            raise ValueError(f"{run} is no folder: say --output FILE.png")
        output = run / "explained.png"
    print(f"written: {explain_pictures(run, arguments.pictures, output, **options)}")
