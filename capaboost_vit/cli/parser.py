"""The parser behind every command: from the dataclass of a configuration and back, and options that several share."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from ..io.options import arguments_of, flag, hints_of, nearest, suggest, tuples, words_of
from ..io.printable import printable
from .values import ConfigFile, Numbers, Typed

# help of what several commands take
MODEL_HELP = "folder of a finished run, adapter file, or folder that timm loads"
ADAPTER_HELP = "folder of a finished run, or adapter file"
WEIGHTS_HELP = "local file with the base weights; null: those of the run, else those of the hub"

# what timm's train.py, transformers' TrainingArguments and PEFT's configurations call our options, where it differs
_OTHER_NAMES = {
    "model": "model_name model_name_or_path",
    "data": "dataset dataset_name train_file",
    "task": "task_name",
    "output": "output_dir experiment",
    "overwrite": "overwrite_output_dir",
    "resume": "resume_from_checkpoint",
    "initial_checkpoint": "checkpoint checkpoint_path pretrained_path model base_model",
    "data_download": "dataset_download",
    "image_column": "input_key",
    "label_column": "target_key label_column_name",
    "num_classes": "num_labels",
    "crop_mode": "train_crop_mode",
    "epochs": "num_train_epochs num_epochs",
    "batch_size": "b per_device_train_batch_size train_batch_size",
    "validation_batch_size": "vb per_device_eval_batch_size eval_batch_size",
    "grad_accum_steps": "gradient_accumulation_steps accumulate_grad_batches",
    "grad_checkpointing": "gradient_checkpointing",
    "opt": "optim optimizer",
    "lr": "learning_rate",
    "weight_decay": "wd",
    "sched": "lr_scheduler lr_scheduler_type scheduler",
    "warmup_steps": "warmup_ratio",
    "clip_grad": "max_grad_norm gradient_clip_val",
    "smoothing": "label_smoothing label_smoothing_factor",
    "amp": "fp16 bf16 native_amp mixed_precision",
    "compile": "torchcompile torch_compile",
    "compile_mode": "torchcompile_mode torch_compile_mode",
    "workers": "j num_workers dataloader_num_workers",
    "img_size": "input_size image_size",
    "interpolation": "train_interpolation",
    "max_length": "max_seq_length max_seq_len",
    "val_interval": "eval_steps eval_strategy",
    "select": "eval_metric load_best_model_at_end",
    "patience": "early_stopping_patience",
    "log_interval": "logging_steps",
    "checkpoint_interval": "save_steps recovery_interval",
    "timeout": "ddp_timeout",
    "method.rank": "r lora_r lora_rank",
    "method.alpha": "lora_alpha",
    "method.dropout": "drop lora_dropout",
    "method.targets": "target_modules",
}


class _Formatter(DefaultHelpFormatter):
    """The usage has what must be given alone: some commands have more than a hundred options."""

    def _format_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None) -> str:
        self._prog = f"{_command(self._prog)} [options]"
        needed = [action for action in actions if action.required or not action.option_strings]
        text: str = super()._format_usage(usage, needed, [], prefix)
        return text


def _command(prog: str) -> str:
    """As it is typed: jsonargparse notes the options of the commands above it."""
    return prog.replace(" [options]", "")


class Parser(ArgumentParser):
    """Says what is wrong in one line, with the nearest option, and exits with 2.

    `below` are its own subcommands, by name: parser and help; `before_files` options that stand before all others where
    there is a --config.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **kwargs)
        self.below: dict[str, tuple[Callable[[], Parser], str]] = {}
        self.before_files: list[str] = []

    def add_commands(self, commands: Mapping[str, tuple[Callable[[], Parser], str]], *, required: bool) -> None:
        """Adds subcommands and those below them, from the top as jsonargparse wants it."""
        added = self.add_subcommands(required=required)
        for name, (make_parser, text) in commands.items():
            parser = make_parser()
            added.add_subcommand(name, parser, help=text)
            if parser.below:
                parser.add_commands(parser.below, required=True)

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """Reads files before flags, which win over them wherever they stand."""
        given = [self._hyphenated(word) for word in (sys.argv[1:] if args is None else args)]
        files: list[str] = []
        if "--config" in self._option_string_actions:
            for place in reversed([i for i, word in enumerate(given) if word.partition("=")[0] == "--config"]):
                end = place + (1 if "=" in given[place] else 2)
                files[:0] = given[place:end]
                del given[place:end]
        before = self.before_files if files else []
        return super().parse_args([*before, *files, *given], *others, **options)

    def _hyphenated(self, word: str) -> str:
        """A method's option as it is registered: older scripts have `--method.num_branches`."""
        name, equals, value = word.partition("=")
        hyphenated = name.replace("_", "-")
        known = name.startswith("--method.") and hyphenated in self._option_string_actions
        return f"{hyphenated}{equals}{value}" if known else word

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", self)
        text = printable(" ".join(str(message).split()))
        start, required, names = text.partition("arguments are required: ")
        if required:
            parser, names = parser._locate(names.split(", "))
            text = f"{start}{required}{names}"
        missing = re.match(r'expected "([\w.]+\.)subcommand" to be one of \{(.*)\}', text)
        if missing:
            parser = parser._locate([missing[1]])[0]
            text = f"a command is missing: {missing[2].replace(',', ', ')}"
        mistyped = re.search(r"invalid choice: '(.*?)' \(choose", text)
        if mistyped:
            text = parser._no_command(mistyped[1])
        unknown = re.match(r"unrecognized arguments: (-{0,2})(\S+)", text)
        if unknown and unknown[1]:
            text += parser.suggest_option(unknown[2].partition("=")[0])
        elif unknown and "--data" in parser._option_string_actions:  # as timm's train.py takes it
            text += f" (did you mean --data {unknown[2]}?)"
        # both name the option once more
        text = re.sub(r"^(argument [\w./-]+|Parser key \"[\w.]+\"( element \d+)?): (?=\S* must )", "", text)
        command = _command(parser.prog)
        self.exit(2, f"{command}: error: {text}; see {command} --help\n")

    def _locate(self, names: list[str]) -> tuple[Parser, str]:
        """The parser of the subcommand that misses what is called `eval.adapter` at the top, and how it calls it."""
        parser, prefix = self, ""
        for word in names[0].split("."):
            action = parser._subcommands_action
            if action is None or word not in action.choices:
                break
            parser, prefix = action.choices[word], f"{prefix}{word}."
        short = [name.removeprefix(prefix) for name in names]
        return parser, ", ".join(
            f"--{name}" if f"--{name}" in parser._option_string_actions else name for name in short
        )

    def _no_command(self, name: str) -> str:
        """What a mistyped command may have meant, here or below another one."""
        commands = list(self._subcommands_action.choices)  # type: ignore[union-attr]
        top = getattr(self, "parent_parser", self)  # an attribute that jsonargparse gives subcommands
        for parser in top._subcommands_action.choices.values():  # type: ignore[union-attr]
            if name in parser.below:
                return f"no command {name!r} (did you mean {_command(parser.prog)} {name}?)"
        return f"no command {name!r}{suggest(name, commands) or ': choose from ' + ', '.join(commands)}"

    def suggest_option(self, name: str, *, typed: bool = True) -> str:
        """` (did you mean --lr?)` for an unknown option, also by its name in other programs; `typed`: not in a file."""
        options = {option.strip("-").replace("-", "_"): option for option in self._option_string_actions}
        others = {other: ours for ours, names in _OTHER_NAMES.items() if ours in options for other in names.split()}
        name = name.replace("-", "_")
        longer = [option for option in options if option.startswith(name)] if len(name) > 1 else []
        near = others.get(name) or (longer[0] if longer else nearest(name, [*options, *others], cutoff=0.7))
        if near is None:
            return ""
        near = others.get(near, near)
        return f" (did you mean {options[near] if typed else repr(near)}?)"


def add_option(
    parser: Parser, flag: str, hint: Any, default: Any, text: str, valid: Mapping[str, Any] | None = None
) -> None:
    """One option; a switch needs no value on the command line, as in timm, but takes true or false.

    Args:
        valid: what `option` has noted of its values.
    """
    extra: dict[str, Any] = {"nargs": "?", "const": True, "metavar": "{true,false}"} if hint is bool else {}
    choices = words_of(hint) or (valid or {}).get("choices")
    if choices and not callable(choices):
        extra["metavar"] = f"{{{','.join(choices)}}}"
    typed = Typed(flag, hint, valid or {})
    if numbers := arguments_of(hint, tuple):
        names = typed.valid.get("metavar") or (("LOW", "HIGH") if len(numbers) == 2 else ("NUMBER", "..."))
        parser.add_argument(flag, action=Numbers, typed=typed, default=default, help=text, metavar=names)
        return
    parser.add_argument(flag, type=typed, default=default, help=text, **extra)


def parser_of(config: type[Any], *, but: Collection[str] = ()) -> Parser:
    """Every field of a configuration as an option, `but` some; lists take several words, or none."""
    parser = Parser(description=(config.__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--config", action=ConfigFile, help="YAML file with any of these options; flags win over it")
    add_config_options(parser, config, but=but)
    return parser


def add_config_options(parser: Parser, config: type[Any], *, but: Collection[str] = ()) -> None:
    """Every field of a configuration as an option, `but` some; lists take several words, or none."""
    hints = hints_of(config)
    for field in dataclasses.fields(config):
        if field.name in but:
            continue
        default: Any = field.default_factory() if callable(field.default_factory) else field.default
        name, text, hint = flag(field.name), field.metadata["help"], hints[field.name]
        items = (str, ...) if field.metadata["several"] else arguments_of(hint, tuple)
        if items[1:] == (...,):
            several = None if default is None else list(default)
            typed = Typed(name, items[0], field.metadata)
            parser.add_argument(name, type=typed, nargs="*", default=several, help=text)
        else:
            add_option(parser, name, hint, default, text, field.metadata)


def values_of(arguments: Namespace) -> dict[str, Any]:
    """The fields of a configuration; lists are tuples in it."""
    values = arguments.as_dict()
    values.pop("config", None)
    return tuples(values)
