"""`capaboost data check`, `capaboost models` and `capaboost summary`: what there is, before anything is trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from ..io.options import flag, hints_of
from ..vision.config import IMG_SIZE_HELP, TrainConfig
from .method import add_method_options, method_options
from .parser import Parser, add_option


def data_parser() -> Parser:
    """One command so far."""
    parser = Parser(description="Checks data sets.")
    parser.below = {"check": (_check_parser, "read every image, count, and report problems")}
    return parser


def _check_parser() -> Parser:
    parser = Parser(
        description="Reads every image of a data set: counts, sizes, values, unreadable images, duplicates, the same "
        "image in two splits or with two labels, images that look alike. Exit code 1 if there are problems."
    )
    parser.add_argument("spec", type=str, help="data set, as --data of capaboost train")
    add_option(parser, "--sheet", str | None, None, "PNG to write, with some images of each class; null: none")
    for name in ("task", "image_column", "label_column", "value_range", "data_dir", "data_download"):
        field = TrainConfig.__dataclass_fields__[name]
        add_option(
            parser, flag(name), hints_of(TrainConfig)[name], field.default, field.metadata["help"], field.metadata
        )
    return parser


def data(arguments: Namespace) -> int:
    """Checks a data set; 1 if it has problems."""
    from ..vision.data import check_data, draw_contact_sheet, open_configured

    options = arguments.check
    images = open_configured({**options.as_dict(), "data": options.spec})
    total = sum(map(len, images.splits.values()))
    shown = sys.stderr.isatty()
    report = check_data(images, progress=(lambda done: _show(done, total)) if shown else None)
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(report.text(), end="")
    if options.sheet is not None:
        print(f"\nContact sheet: {draw_contact_sheet(images, options.sheet, pairs=report.look_alikes)}")
    return 1 if report.problems else 0


def _show(done: int, total: int) -> None:
    if done % max(1, total // 100) == 0:
        print(f"\r{done} of {total} images", end="", file=sys.stderr, flush=True)


def models_parser() -> Parser:
    """Which names."""
    parser = Parser(description="Lists the registered timm model names, for timm.create_model.")
    parser.add_argument(
        "filter", type=str, nargs="?", default="*_capaboost_*", help="name with wildcards, such as vit_*lora"
    )
    add_option(parser, "--pretrained", bool, False, "list the names with the tags of their pretrained weights")
    return parser


def models(arguments: Namespace) -> None:
    """Prints the names, one per line."""
    import timm

    names = timm.list_models(arguments.filter, pretrained=arguments.pretrained)
    names = [name for name in names if "_capaboost_" in name]
    if not names:
        raise ValueError(f"no registered name matches {arguments.filter!r}; try '*lora*'")
    print("\n".join(names))


def summary_parser() -> Parser:
    """Which model, with which method."""
    parser = Parser(description="Counts the trained, stored and live parameters of a model by role, and its FLOPs.")
    parser.add_argument(
        "model",
        type=str,
        help="timm model name, folder of a finished run, adapter file, or folder that timm or transformers loads",
    )
    add_option(parser, "--num-classes", int | None, None, "number of classes; null: the model's own")
    valid = {"low": 1, "metavar": ("HEIGHT", "WIDTH")}
    add_option(parser, "--img-size", int | tuple[int, int] | None, None, IMG_SIZE_HELP, valid)
    add_method_options(parser)
    return parser


def summary(arguments: Namespace) -> None:
    """Builds the model without base weights and prints its table."""
    import timm

    from ..training.saved import open_source
    from ..vision.build import build_data_config, build_model
    from ..vision.saved import open_without_base
    from ..vision.summary import summary

    options = method_options(arguments)
    config_file = Path(arguments.model, "config.json")
    if config_file.is_file() and b'"model_type"' in config_file.read_bytes():
        return _summary_of_transformers(arguments, options)
    if not timm.is_model(arguments.model) and Path(arguments.model.removeprefix("local-dir:")).exists():
        if options or arguments.num_classes or arguments.img_size:
            raise ValueError(
                f"{arguments.model} is made already: leave the other options out, or give a timm model's name"
            )
        source = open_source(arguments.model)
        if source.is_text:
            from ..nlu.saved import open_trained

            summary(open_trained(source)[0], flops=False)
            return
        saved = open_without_base(source)
        summary(saved.model, input_size=tuple(saved.input["input_size"]))
        return
    config = TrainConfig(model=arguments.model, img_size=arguments.img_size, drop_path=0.0, method=options)  # type: ignore[arg-type]
    model = build_model(config, num_classes=arguments.num_classes)
    summary(model, input_size=build_data_config(config, model)["input_size"])


def _summary_of_transformers(arguments: Namespace, options: dict[str, Any]) -> None:
    """The table of a model on texts, with a head for `--num-classes` (two), adapted where a method is named."""
    from ..nlu.models import adapt, create_text_model
    from ..vision.summary import summary

    name = options.pop("name", None)
    if arguments.img_size or (options and name is None):
        what = "a model on texts has no --img-size" if arguments.img_size else "say --method.name lora"
        raise ValueError(f"{arguments.model}: {what}")
    classes = tuple(map(str, range(arguments.num_classes or 2)))
    model = create_text_model(
        arguments.model, "classification", classes=classes
    )  # what its weights lack is trained, too
    summary(model if name is None else adapt(model, name, **options), flops=False)
