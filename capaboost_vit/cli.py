"""The command `capaboost`: thin, and quick to say --help; what it does is imported when it is asked for."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from ._version import __version__
from .methods.config import CONFIGS
from .training.config import TrainConfig


class _Parser(ArgumentParser):
    """Says what is wrong in one line, with the nearest option, and exits with 2."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", self)
        text = " ".join(str(message).split())
        prog = parser.prog.replace(" [options]", "")
        self.exit(2, f"{prog}: error: {text}{parser._nearest(text)}; see {prog} --help\n")

    def _nearest(self, text: str) -> str:
        """The option that an unknown one in an error may have meant: a flag, or the name of a YAML key."""
        wrong = re.search(r"(unrecognized arguments: --|not accept option ')([\w.-]+)", text)
        if wrong is None:
            return ""
        names = {option.strip("-").replace("-", "_"): option for option in self._option_string_actions}
        name = wrong[2].replace("-", "_")
        longer = [known for known in names if known.startswith(name)]
        near = longer or difflib.get_close_matches(name, names, cutoff=0.7)
        if not near:
            return ""
        return f" (did you mean {names[near[0]] if '--' in wrong[1] else repr(near[0])}?)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 for a mistake of the caller, 130 when interrupted."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    command = arguments.subcommand
    if command is None:
        parser.print_help()
        return 2
    try:
        _COMMANDS[command](arguments[command])
    except KeyboardInterrupt:
        print(f"capaboost {command}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        if os.environ.get("CAPABOOST_TRACEBACK"):
            raise
        print(f"capaboost {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> _Parser:
    parser = _Parser(prog="capaboost", description="CapaBoost: masked low-rank fine-tuning of timm models.")
    parser.add_argument("--version", action="version", version=f"capaboost {__version__}")
    commands = parser.add_subcommands(required=False)
    commands.add_subcommand("quickstart", _quickstart_parser(), help="the whole story on the embedded digits")
    commands.add_subcommand("train", _train_parser(), help="train a model on images")
    commands.add_subcommand("eval", _eval_parser(), help="accuracy of a finished run or an adapter file")
    commands.add_subcommand("merge", _merge_parser(), help="write a plain timm checkpoint with the updates merged in")
    commands.add_subcommand("models", _models_parser(), help="list the registered timm names")
    commands.add_subcommand("summary", _summary_parser(), help="what a model trains, stores and costs")
    return parser


def _train_parser() -> _Parser:
    parser = _Parser(description=_first_line(TrainConfig))
    parser.add_argument("--config", action="config", help="YAML file with any of these options; flags win over it")
    hints = typing.get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        if field.name == "method":
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        flag = f"--{field.name.replace('_', '-')}"
        _add(parser, flag, hints[field.name], default, field.metadata["help"])
    _add_method_options(parser)
    return parser


def _add(parser: _Parser, flag: str, hint: Any, default: Any, text: str) -> None:
    """One option; a switch needs no value on the command line, as in timm, but takes true or false."""
    extra: dict[str, Any] = {"nargs": "?", "const": True} if hint is bool else {}
    parser.add_argument(flag, type=hint, default=default, help=text, **extra)


def _add_method_options(parser: _Parser) -> None:
    """`--method.name` and the options of all methods; those left out keep the method's default."""
    parser.add_argument("--method.name", type=str | None, default=None, help=f"one of {', '.join(CONFIGS)}")
    owners: dict[str, list[str]] = {}
    for name, config in CONFIGS.items():
        for field in dataclasses.fields(config):
            owners.setdefault(field.name, []).append(name)
    for option, methods in owners.items():
        config = CONFIGS[methods[0]]
        field = next(f for f in dataclasses.fields(config) if f.name == option)
        text = f"{', '.join(methods)}: {field.metadata['help']}"
        if option == "targets":
            parser.add_argument("--method.targets", type=str, nargs="+", default=None, help=text)
        else:
            hint = typing.get_type_hints(config)[option]
            parser.add_argument(f"--method.{option}", type=hint | None, default=None, help=text)


def _quickstart_parser() -> _Parser:
    parser = _Parser(description="Pretrains a small ViT on five digits and adapts it to the other five, four ways.")
    parser.add_argument("--output", type=str, default="runs/quickstart", help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of all runs")
    return parser


def _eval_parser() -> _Parser:
    parser = _Parser(description="Accuracy of an adapter on one split, each image counted once.")
    parser.add_argument("adapter", type=str, help="adapter file, or the folder of a finished run")
    parser.add_argument("--data", type=str | None, default=None, help="data set; null: that of the run")
    parser.add_argument("--split", type=str, default="test", help="name of the split or list")
    _add_base_weights(parser)
    parser.add_argument("--validation-batch-size", type=int, default=256, help="images at a time")
    parser.add_argument("--device", type=str | None, default=None, help="cpu, cuda, ...; null: cuda where there is one")
    return parser


def _merge_parser() -> _Parser:
    parser = _Parser(
        description="Merges the updates into the weights: a plain timm checkpoint that needs no capaboost_vit."
    )
    parser.add_argument("adapter", type=str, help="adapter file, or the folder of a finished run")
    parser.add_argument("--output", type=str, required=True, help="the .safetensors file to write")
    _add_base_weights(parser)
    return parser


def _add_base_weights(parser: _Parser) -> None:
    parser.add_argument(
        "--initial-checkpoint",
        type=str | None,
        default=None,
        help="local file with the base weights; null: those of the run, or timm's hub",
    )


def _models_parser() -> _Parser:
    parser = _Parser(description="Lists the registered timm names; create them with timm.create_model.")
    parser.add_argument("filter", type=str, nargs="?", default="*_capaboost_*", help="wildcard, such as vit_*lora")
    _add(parser, "--pretrained", bool, False, "with the tags of the pretrained weights")
    return parser


def _summary_parser() -> _Parser:
    parser = _Parser(description="Trained, stored and live parameters by role, and FLOPs, of an untrained model.")
    parser.add_argument("model", type=str, help="timm model name")
    parser.add_argument(
        "--num-classes", type=int | None, default=None, help="classes of the head; null: the model's own"
    )
    parser.add_argument("--img-size", type=int | None, default=None, help="image size; null: the model's own")
    _add_method_options(parser)
    return parser


def _train(arguments: Namespace) -> None:
    values = arguments.as_dict()
    values.pop("config")
    values["method"] = {name: value for name, value in values["method"].items() if value is not None}
    from .run import train

    train(TrainConfig(**values))
    print(f"finished: {Path(values['output'], 'result.json')}")


def _eval(arguments: Namespace) -> None:
    from .inference import evaluate_adapter

    right, total = evaluate_adapter(
        Path(arguments.adapter),
        data=arguments.data,
        split=arguments.split,
        initial_checkpoint=arguments.initial_checkpoint,
        batch_size=arguments.validation_batch_size,
        device=arguments.device,
    )
    print(f"accuracy {100 * right / total:.2f} % ({right} of {total})")


def _merge(arguments: Namespace) -> None:
    from .inference import merge_adapter

    path = merge_adapter(
        Path(arguments.adapter), Path(arguments.output), initial_checkpoint=arguments.initial_checkpoint
    )
    print(f"merged: {path}")


def _models(arguments: Namespace) -> None:
    import timm

    names = timm.list_models(arguments.filter, pretrained=arguments.pretrained)
    names = [name for name in names if "_capaboost_" in name]
    if not names:
        raise ValueError(f"no registered name matches {arguments.filter!r}; try '*lora*'")
    print("\n".join(names))


def _summary(arguments: Namespace) -> None:
    from .build import build_model
    from .vision.summary import summary

    options = {name: value for name, value in arguments.method.as_dict().items() if value is not None}
    config = TrainConfig(model=arguments.model, img_size=arguments.img_size, drop_path=0.0, method=options)
    summary(build_model(config, num_classes=arguments.num_classes))


def _quickstart(arguments: Namespace) -> None:
    from .bench.quickstart import quickstart

    quickstart(Path(arguments.output), seed=arguments.seed)


_COMMANDS = {
    "quickstart": _quickstart,
    "train": _train,
    "eval": _eval,
    "merge": _merge,
    "models": _models,
    "summary": _summary,
}


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
