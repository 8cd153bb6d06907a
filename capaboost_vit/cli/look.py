"""`capaboost models` and `capaboost summary`: what there is, before anything is trained."""

from __future__ import annotations

from jsonargparse import Namespace

from ..vision.config import TrainConfig
from .parser import Parser, add_method_options, add_option, method_options


def models_parser() -> Parser:
    """Which names."""
    parser = Parser(description="Lists the registered timm names; create them with timm.create_model.")
    parser.add_argument("filter", type=str, nargs="?", default="*_capaboost_*", help="wildcard, such as vit_*lora")
    add_option(parser, "--pretrained", bool, False, "with the tags of the pretrained weights")
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
    parser = Parser(description="Trained, stored and live parameters by role, and FLOPs, of an untrained model.")
    parser.add_argument("model", type=str, help="timm model name")
    parser.add_argument(
        "--num-classes", type=int | None, default=None, help="classes of the head; null: the model's own"
    )
    parser.add_argument("--img-size", type=int | None, default=None, help="image size; null: the model's own")
    add_method_options(parser)
    return parser


def summary(arguments: Namespace) -> None:
    """Builds the model without weights and prints its table."""
    from ..vision.build import build_model
    from ..vision.summary import summary

    options = method_options(arguments)
    config = TrainConfig(model=arguments.model, img_size=arguments.img_size, drop_path=0.0, method=options)  # type: ignore[arg-type]
    summary(build_model(config, num_classes=arguments.num_classes))
