"""The command `capaboost`: thin, and quick to say --help; what it does is imported when it is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

from jsonargparse import Namespace

from .._version import __version__
from ..io.printable import printable
from ..nlu.config import TextConfig
from ..training.signals import Interrupted
from ..vision.config import TrainConfig
from . import bench, explain, export, extract, look, saved, study, train, tune
from .parser import Parser

# by name: parser, action (None or an int is the exit code), help
_COMMANDS: dict[str, tuple[Callable[[], Parser], Callable[[Namespace], int | None], str]] = {
    "quickstart": (
        train.quickstart_parser,
        train.quickstart,
        "demonstration on embedded images: pretrain, adapt, compare",
    ),
    "train": (
        partial(train.train_parser, TrainConfig, lr="auto"),
        partial(train.train, TrainConfig),
        "train a timm model on images",
    ),
    "train-text": (
        partial(train.train_parser, TextConfig),
        partial(train.train, TextConfig),
        "train a model of transformers on texts",
    ),
    "eval": (saved.eval_parser, saved.evaluate, "evaluate a finished run, adapter file or timm model"),
    "predict": (saved.predict_parser, saved.predict, "predict the classes of pictures or texts"),
    "explain": (explain.explain_parser, explain.explain, "show which parts of pictures predictions rest on"),
    "merge": (saved.merge_parser, saved.merge, "merge the updates into the weights of a plain model, or convert them"),
    "export": (export.export_parser, export.export, "export a model as ONNX or torch.export program"),
    "push": (export.push_parser, export.push, "upload an adapter file with a model card to the hub"),
    "extract": (extract.extract_parser, extract.extract, "write an adapter file from a checkpoint of timm's train.py"),
    "report": (train.report_parser, train.report, "print a table of finished runs: methods by tasks, over seeds"),
    "data": (look.data_parser, look.data, "check a data set before training: data check"),
    "tune": (tune.tune_parser, tune.tune, "find method, rank and learning rate for one data set"),
    "study": (
        study.study_parser,
        study.study,
        "compare methods on suites of tasks: study check, tune, run, work, status, report",
    ),
    "bench": (
        bench.bench_parser,
        bench.bench,
        "measure the cost of training: bench speed, scale, processes, capacity, draw",
    ),
    "models": (look.models_parser, look.models, "list the registered timm model names"),
    "summary": (look.summary_parser, look.summary, "count a model's trained and stored parameters and FLOPs"),
}


_EXTRAS = {
    "transformers": "nlu",
    "seqeval": "nlu",
    "ray": "ray",
    "peft": "peft",
    "onnxruntime": "export",
}  # packages that some commands need


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0; 2 for a mistake of the caller; 130 after Ctrl-C; 143 for a training run that SIGTERM or SIGUSR1 has stopped and
    that can be resumed; or what the command says.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    command = arguments.subcommand
    if command is None:
        parser.print_help()
        return 2
    try:
        return _COMMANDS[command][1](arguments[command]) or 0
    except KeyboardInterrupt:
        print(f"capaboost {command}: interrupted", file=sys.stderr)
        return 130
    except Interrupted as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"capaboost {command}: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except BrokenPipeError:  # whoever reads the output has seen enough, as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        hint = _hint(error)
        if hint is None or os.environ.get("CAPABOOST_TRACEBACK"):
            raise
        rank = os.environ.get("RANK", "0")
        where = f" in process {rank}" if rank != "0" else ""
        print(f"capaboost {command}: error{where}: {printable(' '.join(str(error).split()))}{hint}", file=sys.stderr)
        return 2


def _hint(error: Exception) -> str | None:
    """What to add to the text of an error; None for one that is no mistake of the caller, but ours."""
    if isinstance(error, ModuleNotFoundError) and "pip install" in str(error):
        return ""
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"; pip install 'capaboost_vit[{_EXTRAS[error.name]}]'"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return "; try a smaller --batch-size, or --grad-accum-steps 2"
    return "" if isinstance(error, ValueError | TypeError | OSError | FloatingPointError) else None


def _parser() -> Parser:
    parser = Parser(
        prog="capaboost", description="CapaBoost: masked low-rank fine-tuning of timm models and text encoders."
    )
    parser.add_argument("--version", action="version", version=f"capaboost {__version__}")
    commands = {name: (make_parser, text) for name, (make_parser, _, text) in _COMMANDS.items()}
    parser.add_commands(commands, required=False)
    return parser
