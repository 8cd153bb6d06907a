"""`capaboost eval`, `predict` and `merge`: what is done with a trained model."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from ..io.options import flag
from ..io.printable import printable
from ..io.sources import joined
from .parser import Parser, add_option
from .texts import TYPED, add_text_options, predict_texts, refuse_text_options

if TYPE_CHECKING:
    from ..training.saved import ModelSource
    from ..vision.predict import Prediction

_BASE_WEIGHTS = (
    "local file with the base weights (of texts: folder or hub id of the base model); null: those of the run, or the "
    "hub's"
)
_DEVICE = "cpu, cuda, ...; null: cuda where there is one"
_TTA = "average the probabilities of several views of a picture: with its mirror image, or of five crops"
_SHORT_CUTS = "compute with merged weights, and of the last block what the head reads, where that is exact"


def eval_parser() -> Parser:
    """Which model, on which examples."""
    parser = Parser(
        description="Scores of a model on one split, each example counted once: of images accuracy with its interval, "
        "macro and balanced scores, AUC, calibration, and a table of the classes, or what tags and numbers have; of "
        "texts also those of the task."
    )
    text = "folder of a finished run, adapter file, folder that timm loads (local-dir:FOLDER), or a timm model name"
    parser.add_argument("model", type=str, help=text)
    parser.add_argument("--data", type=str, nargs="+", default=None, help="data set, or several; null: that of the run")
    text = "name of the split or list, or an expression; null: the run's own test split, else test"
    add_option(parser, "--split", str | None, None, text)
    add_option(parser, "--pretrained", bool, False, "of a timm model name: fetch its weights from timm's hub")
    add_option(parser, "--initial-checkpoint", str | None, None, _BASE_WEIGHTS)
    add_option(parser, "--tta", Literal["none", "flip", "five_crop"], "none", _TTA)
    text = "of several tags: probability from which a tag counts as predicted; null: 0.5"
    add_option(parser, "--threshold", float | None, None, text, {"low": 0, "high": 1})
    text = "also write files: .json with all scores, .csv with label, prediction and probabilities of each example"
    parser.add_argument("--output", type=str, nargs="+", default=[], help=text)
    add_option(parser, "--validation-batch-size", int, 64, "examples at a time")
    add_option(parser, "--device", str | None, None, _DEVICE)
    add_option(parser, "--short-cuts", bool, True, _SHORT_CUTS)
    return parser


def evaluate(arguments: Namespace) -> None:
    """Prints the scores, and writes them."""
    from ..io.atomic import write_text
    from ..training.report_text import score_text
    from ..training.saved import open_source

    files = {Path(name).suffix: Path(name) for name in arguments.output}
    if len(files) < len(arguments.output) or files.keys() - {".json", ".csv"}:
        raise ValueError(f"--output {' '.join(arguments.output)}: name a .json or a .csv file, or one of each")
    options = {name: arguments[name] for name in ("split", "device", "short_cuts")}
    options["data"] = None if arguments.data in (None, ["null"]) else joined(arguments.data)
    options |= {"batch_size": arguments.validation_batch_size, "table": files.get(".csv")}
    source = None
    with suppress(FileNotFoundError):  # it may be a name of timm's
        source = open_source(arguments.model)
    if source is not None and source.is_text:
        _refuse_image_options(source, arguments)
        from ..nlu.saved import evaluate_text

        options["split"] = options["split"] or "test"
        options["threshold"] = arguments.threshold
        scores = evaluate_text(source, model=arguments.initial_checkpoint, **options)
    else:
        from ..vision.evaluate import evaluate_images

        options |= {name: arguments[name] for name in ("pretrained", "initial_checkpoint", "tta", "threshold")}
        scores = evaluate_images(arguments.model, note=_warn, **options)
    if ".json" in files:
        write_text(files[".json"], json.dumps(scores, indent=2) + "\n")
    print(score_text(scores))
    for file in files.values():
        print(f"written: {file}")


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def predict_parser() -> Parser:
    """Which model, on which pictures or texts."""
    parser = Parser(
        description="The most probable classes of pictures or texts, with their probabilities; answers to questions."
    )
    parser.add_argument("model", type=str, help="folder of a finished run, adapter file, or folder that timm loads")
    parser.add_argument(
        "images",
        type=str,
        nargs="*",
        default=[],  # or argparse calls them required where nothing is typed
        help="pictures, and folders with pictures at any depth; of texts one file (.txt with one a line, .csv, .tsv, "
        ".jsonl, .json), or a folder with test sets for a server",
    )
    add_text_options(parser)
    add_option(parser, "--top", int, 5, "classes per picture or text")
    text = (
        "also write them to this file, up to an error if there is one; of texts a folder gets GLUE's submission files, "
    )
    text += "and of questions a .json file what SQuAD's server takes"
    add_option(parser, "--csv", str | None, None, text)
    add_option(parser, "--tta", Literal["none", "flip", "five_crop"], "none", _TTA)
    text = (
        "copy each picture into a folder of this one that is named after its class, or into those of its tags; nothing "
        "is moved or overwritten"
    )
    add_option(parser, "--sort-into", str | None, None, text)
    text = "probability, such as 0.7, below which a picture is `unsure`: said, in the csv file, and when sorting; "
    text += "of tags the least that is given, 0.5 if null"
    add_option(parser, "--threshold", float | None, None, text, {"low": 0, "high": 1})
    text = "at a picture that cannot be read: error, or skip it and say so"
    add_option(parser, "--bad-images", Literal["error", "skip"], "error", text)
    add_option(parser, "--initial-checkpoint", str | None, None, _BASE_WEIGHTS)
    add_option(parser, "--batch-size", int, 64, "pictures at a time")
    add_option(parser, "--device", str | None, None, _DEVICE)
    add_option(parser, "--short-cuts", bool, True, _SHORT_CUTS)
    return parser


def predict(arguments: Namespace) -> None:
    """Prints a few lines per picture or text, and writes the table."""
    from ..training.saved import open_source

    task = "classification"
    # pictures that are not there are told first
    with suppress(FileNotFoundError) if arguments.images else nullcontext():
        source = open_source(arguments.model)
        if source.is_text:
            _refuse_image_options(source, arguments)
            return predict_texts(source, arguments)
        from ..vision.saved import task_of

        if (task := task_of(source)) == "regression" and arguments.sort_into is not None:
            raise ValueError(f"--sort-into is for classes and tags, and {source.path} is for {task}: leave it out")
    refuse_text_options(arguments)
    if not arguments.images:
        raise ValueError("name pictures, or folders with pictures; see capaboost predict --help")
    options = {name: value for name, value in arguments.as_dict().items() if name not in TYPED}
    table, folder, threshold = (options.pop(name) for name in ("csv", "sort_into", "threshold"))
    if table is not None and Path(table).is_dir():
        raise IsADirectoryError(f"--csv {table} is a folder: name a file in it")
    from ..vision.predict import UNSURE, predict_each, write_predictions
    from ..vision.sort import Sorter

    sorter = None if folder is None else Sorter(Path(folder), threshold or 0.0, of_tags=task == "multi-label")

    def note(text: str) -> None:
        print(f"skipped: {printable(text)}", file=sys.stderr)

    def show() -> Iterator[Prediction]:
        predictions = predict_each(note=note, tag_threshold=0.5 if threshold is None else threshold, **options)
        for prediction in predictions if sorter is None else sorter.sorting(predictions):
            unsure = threshold is not None and prediction.number is None and prediction.answer(threshold) == UNSURE
            number = "" if prediction.number is None else f"  {prediction.number:.6g}"
            print(printable(str(prediction.image)) + (f"  {UNSURE}" if unsure else number))
            for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
                shown = printable(name)
                print(f"  {100 * probability:6.2f} %  {shown if len(shown) <= 65 else shown[:62] + '...'}")
            yield prediction

    if table is None:
        deque(show(), maxlen=0)
    else:
        print(f"written: {write_predictions(show(), Path(table), threshold=threshold)}")
    if sorter is not None:
        print(printable(sorter.summary()))


def _refuse_image_options(source: ModelSource, arguments: Namespace) -> None:
    """Raises ValueError where a model on texts is given an option that only pictures have."""
    task = source.adapter and source.adapter.header.get("text", {}).get("task")
    for name in ("pretrained", "sort_into", *(() if task == "multi-label" else ("threshold",)), "tta"):
        if arguments.get(name) not in (None, False, [], "none"):
            raise ValueError(f"{flag(name)} is for pictures, and {source.path} is of a model on texts: leave it out")


def merge_parser() -> Parser:
    """Which adapter, and where to."""
    parser = Parser(description="Merges the updates into the weights: a plain model of timm or transformers.")
    parser.add_argument("adapter", type=str, help="adapter file, or the folder of a finished run")
    parser.add_argument("--output", type=str, required=True, help="a .safetensors file, or a folder that timm loads")
    text = "plain: a model with the updates in its weights; peft: a folder with updates and head as a LoRA of PEFT's; "
    text += "integers: of intlora a folder with layers of integers, for capaboost_vit.create_from_integers"
    add_option(parser, "--format", Literal["plain", "peft", "integers"], "plain", text)
    add_option(parser, "--initial-checkpoint", str | None, None, _BASE_WEIGHTS)
    return parser


def merge(arguments: Namespace) -> None:
    """Writes it, and says where."""
    from ..training.saved import open_source

    source, output = open_source(arguments.adapter), Path(arguments.output)
    if arguments.format == "peft":
        from ..interop.peft_export import export_run

        path = export_run(source, output, initial_checkpoint=arguments.initial_checkpoint)
        print(f"exported: {path}")
        return
    integers = arguments.format == "integers"
    if source.is_text:
        from ..nlu.saved import merge_text

        if integers:
            raise ValueError(
                f"--format integers is for pictures, and {source.path} is of a model on texts: leave it out"
            )
        path = merge_text(source, output, model=arguments.initial_checkpoint)
    else:
        from ..vision.saved import merge_adapter

        path = merge_adapter(source, output, initial_checkpoint=arguments.initial_checkpoint, integers=integers)
    print(f"merged: {path}")
