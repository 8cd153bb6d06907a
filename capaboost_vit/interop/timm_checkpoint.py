"""Adapter files from checkpoints of timm's train.py."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_input_data_config
from timm.models import clean_state_dict
from torch import nn

from ..core.meta_models import outlines
from ..io.options import suggest
from ..methods.header import check_small
from ..vision.adapters import SOURCES, save_adapter, size_limits
from ..vision.registry import parse_name


def extract_adapter(
    checkpoint: str | Path,
    output: str | Path,
    *,
    use_ema: bool = False,
    class_names: Sequence[str] = (),
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes the adapter file of a checkpoint of timm's train.py, using the arguments stored in it; returns the path.

    Args:
        checkpoint: a `checkpoint-N.pth.tar`, `last.pth.tar` or `model_best.pth.tar`. It is read without executing code
            (`weights_only=True`).
        use_ema: the averaged weights of `--model-ema` instead of the last ones, as in timm's validate.py.
        class_names: in the order of the labels; the checkpoint does not have them.
        note: called with one line about what only the checkpoint has: random base weights, or unused averages.

    Raises:
        FileNotFoundError: no checkpoint. FileExistsError: the output exists.
        ValueError: it cannot be read safely, is not from train.py, or of a model without one of our names.
    """
    path, output = Path(checkpoint), Path(output)
    if output.suffix != ".safetensors":
        raise ValueError(f"--output {output}: name a .safetensors file, the adapter file to be made")
    if output.exists():
        raise FileExistsError(f"{output} exists: choose another --output")
    saved = _read(path)
    args, key = vars(saved["args"]), "state_dict_ema" if use_ema else "state_dict"
    if saved.get(key) is None:
        raise ValueError(f"{path} holds no {key}: {'leave --use-ema out' if use_ema else 'it is no whole checkpoint'}")
    model = _build(path, args)
    try:
        model.load_state_dict(clean_state_dict(saved[key]))
    except Exception as error:  # of any class, by way of what the file holds
        raise ValueError(f"{path} does not hold the weights of its {args['model']}: {_one_line(error)}") from error
    if class_names and len(class_names) != model.num_classes:
        raise ValueError(f"--class-names are {len(class_names)}, and the model has {model.num_classes} classes")
    if not (args.get("pretrained") or args.get("initial_checkpoint")):
        note(f"{path} was trained on random base weights, without --pretrained: nothing else has them")
    if saved.get("state_dict_ema") is not None and not use_ema:
        note(f"{path} holds averaged weights too: --use-ema takes them")
    data_config = resolve_input_data_config(model, args=args)
    return save_adapter(model, output, class_names=class_names, data_config=data_config)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give a .pth.tar file of timm's train.py")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # in which train.py keeps its arguments
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"cannot read {path} safely: {_one_line(error)}") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("args"), argparse.Namespace):
        raise ValueError(f"{path} holds no arguments of timm's train.py: give a checkpoint that it has written")
    return saved


def _build(path: Path, args: Mapping[str, Any]) -> nn.Module:
    """The model that train.py has built of its arguments, with random weights."""
    name = str(args.get("model"))
    registered = parse_name(name)
    if registered is None:
        near = suggest(name, timm.list_models("*_capaboost_*"))
        raise ValueError(f"{path} is of {name}, which carries no branches{near}; `capaboost models` lists what does")
    in_chans = args.get("in_chans") or (args.get("input_size") or [3])[0]
    arguments = {"num_classes": args.get("num_classes"), "global_pool": args.get("gp"), "in_chans": in_chans}
    arguments |= dict(args.get("model_kwargs") or {})
    if foreign := SOURCES & arguments.keys():
        raise ValueError(f"{path} asks to load other files ({', '.join(sorted(foreign))}): refused")
    try:
        check_small("model_args", json.loads(json.dumps(arguments)))
        with outlines(**size_limits(registered[0])):  # before anything of the sizes in a file is made
            timm.create_model(name, **arguments)
        return timm.create_model(name, **arguments)
    except Exception as error:
        raise ValueError(f"timm cannot build {name} as {path} says: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]
