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
from ..training.config import DEVICE_HELP
from .parser import ADAPTER_HELP, MODEL_HELP, Parser, add_option
from .texts import TYPED, add_text_options, predict_texts, refuse_text_options

if TYPE_CHECKING:
    from ..training.saved import ModelSource
    from ..vision.predict import Prediction

_BASE_WEIGHTS = (
    "local file with the base weights (for texts: folder or hub id of the base model); null: those of the run, else "
    "those of the hub"
)
_TTA = "test-time augmentation: average the probabilities of a picture and its mirror image (flip), or of five crops"
_SHORT_CUTS = "where exact, merge the weights, and compute in the last block only the tokens that the head reads"


def eval_parser() -> Parser:
    """Which model, on which examples."""
    parser = Parser(
        description="Scores of a model on one split: for images accuracy with its interval, macro and balanced scores, "
        "AUC, calibration and a table of the classes, or the scores of tags and numbers; for texts also those of the "
        "task."
    )
    text = "folder of a finished run, adapter file, folder that timm loads (local-dir:FOLDER), or timm model name"
    parser.add_argument("model", type=str, help=text)
    parser.add_argument(
        "--data", type=str, nargs="+", default=None, help="data set or data sets, as in training; null: that of the run"
    )
    text = "split or list: a name, or an expression; null: the run's test split, else test"
    add_option(parser, "--split", str | None, None, text)
    add_option(
        parser, "--pretrained", bool, False, "load the pretrained base weights from the hub, for a timm model name"
    )
    add_option(parser, "--initial-checkpoint", str | None, None, _BASE_WEIGHTS)
    add_option(parser, "--tta", Literal["none", "flip", "five_crop"], "none", _TTA)
    text = "multi-label: probability from which a tag counts as predicted; null: 0.5"
    add_option(parser, "--threshold", float | None, None, text, {"low": 0, "high": 1})
    text = "files to write: .json with all scores, .csv with label, prediction and probabilities of each example"
    parser.add_argument("--output", type=str, nargs="+", default=[], help=text)
    add_option(parser, "--validation-batch-size", int, 64, "examples per batch in evaluation")
    add_option(parser, "--device", str | None, None, DEVICE_HELP)
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
        description="Predicts the most probable classes of pictures or texts, with their probabilities, or answers "
        "to questions."
    )
    parser.add_argument("model", type=str, help=MODEL_HELP)
    parser.add_argument(
        "images",
        type=str,
        nargs="*",
        default=[],  # or argparse calls them required where nothing is typed
        help="pictures, and folders with pictures at any depth; for texts one file (.txt with one text per line, .csv, "
        ".tsv, .jsonl, .json), a folder of .txt files, or a folder with GLUE's test sets",
    )
    add_text_options(parser)
    add_option(parser, "--top", int, 5, "number of classes per picture or text")
    text = (
        "table to write; rows before an error are kept; for texts also a folder, for GLUE's submission files, and for "
    )
    text += "questions a .json file, as SQuAD's server takes it"
    add_option(parser, "--csv", str | None, None, text)
    add_option(parser, "--tta", Literal["none", "flip", "five_crop"], "none", _TTA)
    text = (
        "folder to which each picture is copied, into a subfolder named after its class, or into those of its tags; "
        "nothing is moved or overwritten"
    )
    add_option(parser, "--sort-into", str | None, None, text)
    text = "probability, such as 0.7, below which the prediction is `unsure`; null: none is; multi-label: from which "
    text += "a tag is predicted; null: 0.5"
    add_option(parser, "--threshold", float | None, None, text, {"low": 0, "high": 1})
    text = "pictures that cannot be read: error, or skip them with a warning"
    add_option(parser, "--bad-images", Literal["error", "skip"], "error", text)
    add_option(parser, "--initial-checkpoint", str | None, None, _BASE_WEIGHTS)
    add_option(parser, "--batch-size", int, 64, "examples per batch")
    add_option(parser, "--device", str | None, None, DEVICE_HELP)
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
    parser = Parser(
        description="Merges the updates into the weights, as a plain model of timm or transformers; or writes PEFT's "
        "format, or layers of integers."
    )
    parser.add_argument("adapter", type=str, help=ADAPTER_HELP)
    parser.add_argument(
        "--output",
        type=str,
        required=True,
        help="folder that timm (for texts: transformers) loads; for images with --format plain also a .safetensors "
        "file",
    )
    text = (
        "plain: a model with merged weights; peft: a folder with a LoRA adapter in PEFT's format; integers: of method "
    )
    text += "intlora a folder with integer weights, for capaboost_vit.create_from_integers"
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
