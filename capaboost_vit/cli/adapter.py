"""`capaboost eval`, `capaboost predict` and `capaboost merge`: what is done with a finished run."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from .parser import Parser, add_base_weights, add_device


def eval_parser() -> Parser:
    """Which adapter, on which images."""
    parser = Parser(
        description="Accuracy, or the task's scores, of an adapter on one split, each example counted once."
    )
    parser.add_argument("adapter", type=str, help="adapter file, or the folder of a finished run")
    parser.add_argument("--data", type=str | None, default=None, help="data set; null: that of the run")
    parser.add_argument("--split", type=str, default="test", help="name of the split or list")
    add_base_weights(parser)
    parser.add_argument("--validation-batch-size", type=int, default=256, help="examples at a time")
    add_device(parser)
    return parser


def evaluate(arguments: Namespace) -> None:
    """Prints the accuracy, or the scores of a task on texts."""
    from ..training.saved import open_source

    source = open_source(arguments.adapter)
    if source.is_text:
        from ..nlu.saved import evaluate_text

        scores = evaluate_text(
            source,
            data=arguments.data,
            split=arguments.split,
            model=arguments.initial_checkpoint,
            batch_size=arguments.validation_batch_size,
            device=arguments.device,
        )
        print("  ".join(f"{name} {value:.2f}" for name, value in scores.items()))
        return
    from ..vision.saved import evaluate_adapter

    right, total = evaluate_adapter(
        source,
        data=arguments.data,
        split=arguments.split,
        initial_checkpoint=arguments.initial_checkpoint,
        batch_size=arguments.validation_batch_size,
        device=arguments.device,
    )
    print(f"accuracy {100 * right / total:.2f} % ({right} of {total})")


def predict_parser() -> Parser:
    """Which model, on which pictures."""
    parser = Parser(description="The most probable classes of pictures, with their probabilities.")
    parser.add_argument("model", type=str, help="folder of a finished run, adapter file, or folder that timm loads")
    parser.add_argument("images", type=str, nargs="+", help="pictures, and folders with pictures at any depth")
    parser.add_argument("--top", type=int, default=5, help="classes per picture")
    parser.add_argument("--csv", type=str | None, default=None, help="also write them to this file")
    add_base_weights(parser)
    parser.add_argument("--batch-size", type=int, default=64, help="pictures at a time")
    add_device(parser)
    return parser


def predict(arguments: Namespace) -> None:
    """Prints a few lines per picture, and writes the table."""
    if arguments.csv is not None and Path(arguments.csv).is_dir():
        raise IsADirectoryError(f"--csv {arguments.csv} is a folder: name a file in it")
    from ..vision.data.tree import printable
    from ..vision.predict import predict_images, write_predictions

    predictions = predict_images(
        arguments.model,
        arguments.images,
        top=arguments.top,
        initial_checkpoint=arguments.initial_checkpoint,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    for found in predictions:
        print(printable(str(found.image)))
        for name, probability in zip(found.classes, found.probabilities, strict=True):
            print(f"  {100 * probability:6.2f} %  {name if len(name) <= 65 else name[:62] + '...'}")
    if arguments.csv is not None:
        print(f"written: {write_predictions(predictions, Path(arguments.csv))}")


def merge_parser() -> Parser:
    """Which adapter, and where to."""
    parser = Parser(description="Merges the updates into the weights: a plain model of timm or transformers.")
    parser.add_argument("adapter", type=str, help="adapter file, or the folder of a finished run")
    parser.add_argument("--output", type=str, required=True, help="a .safetensors file, or a folder that timm loads")
    add_base_weights(parser)
    return parser


def merge(arguments: Namespace) -> None:
    """Writes it, and says where."""
    from ..training.saved import open_source

    source, output = open_source(arguments.adapter), Path(arguments.output)
    if source.is_text:
        from ..nlu.saved import merge_text

        path = merge_text(source, output, model=arguments.initial_checkpoint)
    else:
        from ..vision.saved import merge_adapter

        path = merge_adapter(source, output, initial_checkpoint=arguments.initial_checkpoint)
    print(f"merged: {path}")
