"""`capaboost extract`: the adapter file of a checkpoint that timm's train.py has written."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import Namespace

from .parser import Parser, add_option


def extract_parser() -> Parser:
    """Which checkpoint, and where to."""
    parser = Parser(
        description="Writes the adapter and the head of a checkpoint of timm's train.py as an adapter file."
    )
    parser.add_argument("checkpoint", type=str, help="checkpoint-N.pth.tar, last.pth.tar or model_best.pth.tar")
    parser.add_argument("--output", type=str, required=True, help="adapter file to write, .safetensors")
    add_option(parser, "--use-ema", bool, False, "use the averaged weights of --model-ema")
    text = (
        "names of the classes in the order of the labels (for an image folder: sorted); the checkpoint does not "
        "hold them"
    )
    parser.add_argument("--class-names", type=str, nargs="*", default=[], help=text)
    return parser


def extract(arguments: Namespace) -> None:
    """Writes it, and says where."""
    from ..interop.timm_checkpoint import extract_adapter

    def note(line: str) -> None:
        print(f"warning: {line}", file=sys.stderr)

    options = {"use_ema": arguments.use_ema, "class_names": arguments.class_names, "note": note}
    print(f"written: {extract_adapter(arguments.checkpoint, Path(arguments.output), **options)}")
