"""Adapter files of timm models: save, load, build a model from a file and the base weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from timm.data import resolve_input_data_config
from timm.models import get_model_args
from torch import nn

from .._version import __version__
from ..core.chain import merged_into
from ..core.merge import merge
from ..core.meta_models import outlines
from ..core.record import adapted_part, plain_model
from ..io.hub import PREFIX
from ..io.options import suggest
from ..methods import METHODS, Method
from ..methods.adapter_base import check_published, described
from ..methods.adapter_file import AdapterFile, write_adapter_file
from ..methods.apply import adapt_model
from ..methods.base_library import read_of_library
from ..methods.header import AdapterFileError, explained
from ..methods.index import option_names
from ..methods.load import check_outline, load_into
from .anatomy import anatomy_of, head_names
from .weights import create_base

# arguments of timm.create_model that name files: an adapter file has no business with them
SOURCES = {"cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}

M = TypeVar("M", bound=nn.Module)


def adapt(model: M, method: str | Method = "lora", *, head: Sequence[str] | None = None, **options: Any) -> M:
    """Applies a method to a model, in place, and freezes everything except what it adds and the head.

    `capaboost_vit.adapt` does the same and explains the arguments.
    """
    if isinstance(model, str):
        raise TypeError(f"adapt takes a model, got {model!r:.100}{_near(model)}: make it by {_makers(model)} first")
    plain_model(model)
    adapt_model(model, anatomy_of(model), _base_of(model), method, head=head, **options)
    return model


def _near(name: str) -> str:
    return "" if timm.is_model(name) else suggest(name, timm.list_models(), cutoff=0.75)


def _makers(name: str) -> str:
    known = timm.is_model(name) or _near(name)
    return "timm.create_model" if known else "timm.create_model or from_pretrained of transformers"


def _base_of(model: nn.Module) -> dict[str, Any]:
    """What adapter files say of a base: timm's architecture and tag, or the name of its class."""
    config = getattr(model, "pretrained_cfg", None) or {}
    base = {"architecture": config.get("architecture") or type(model).__name__, "tag": config.get("tag")}
    # those of timm itself have a name and a tag
    if config.get("source") == "hf-hub" and not str(config["hf_hub_id"]).startswith("timm/"):
        return {**base, "folder": f"{PREFIX}{config['hf_hub_id']}"}
    return {**base, "folder": Path(config["file"]).name} if config.get("source") == "local-dir" else base


def save_adapter(
    model: nn.Module,
    path: str | Path,
    *,
    class_names: Sequence[str] = (),
    data_config: dict[str, Any] | None = None,
    temperature: float = 1.0,
) -> Path:
    """Writes what is added to an adapted model, masks (packed bits) and head into a safetensors file; returns its path.

    The header stores what `create_from_adapter` needs: architecture and tag of the base, arguments, method options,
    number and names of classes, input size, mean and std, versions, and a fingerprint of the base weights.

    Args:
        model: the adapted model, also in torch.compile, DistributedDataParallel or DataParallel; or a module that
            contains it (a detector, a LightningModule): then the file holds everything that is trained in that module.
        class_names: names of the classes, in the order of the labels.
        data_config: timm's input configuration used in training; None: the model's own.
        temperature: probabilities are softmax(logits / temperature).

    Raises:
        ValueError: the model has nothing that `adapt` added, several adapted models or layers of PEFT, or is sharded by
            FullyShardedDataParallel.
    """
    model = plain_model(model)
    _, part = adapted_part(model)
    record: dict[str, Any] = part.capaboost  # type: ignore[assignment]
    header: dict[str, Any] = {
        "base": _base_of(model) | (record.get("base", {}) if part is model or hasattr(model, "pretrained_cfg") else {}),
        "class_names": list(class_names),
        "versions": {"capaboost_vit": __version__, "torch": torch.__version__, "timm": timm.__version__},
    }
    if hasattr(model, "pretrained_cfg") and hasattr(model, "num_classes"):  # not timm's nets of features
        header["num_classes"] = model.num_classes
        options = {name for method in METHODS for name in option_names(method)}  # they stand in the methods' records
        left_out = {"pretrained", "num_classes"} | options
        arguments = {key: value for key, value in get_model_args(model).items() if key not in left_out}
        with suppress(TypeError):  # a class, say, is no JSON: such a file loads into a model, but cannot build one
            json.dumps(arguments)
            header["model_args"] = arguments
        header["input"] = data_config or resolve_input_data_config(model)
    if temperature != 1:
        header["temperature"] = temperature
    return write_adapter_file(path, model, header, head=head_names(model))


def load_adapter(model: nn.Module, path: str | Path | AdapterFile, *, force: bool = False) -> nn.Module:
    """Loads an adapter file into a model, which is adapted first if it is not yet; returns the model.

    Args:
        force: accept base weights whose fingerprint differs.

    Raises:
        AdapterFileError, FileNotFoundError: see `read_adapter_file` and `load_adapter_file`; the model is unchanged.
    """
    inner = plain_model(model)
    file = read_of_library(path, "load_adapter", of_transformers=False)
    load_into(
        inner, file, architecture=_base_of(inner)["architecture"], adapt=adapt, head_names=head_names, force=force
    )
    return model


def create_from_adapter(
    path: str | Path | AdapterFile,
    *,
    pretrained: bool = True,
    initial_checkpoint: str | Path | None = None,
    chain: Sequence[str | Path | AdapterFile] = (),
    force: bool = False,
) -> nn.Module:
    """Builds the base model, loads its weights and the adapter file; returns it in evaluation mode.

    Args:
        pretrained: download the base weights named in the header, unless `initial_checkpoint` is given.
        initial_checkpoint: a local file with the base weights, or a folder written by `capaboost merge`.
        chain: if the adapter was trained on a merged model, the adapter files that were merged into it, the first one
            first; the base is built from them. Alternatively give the merged model as `initial_checkpoint`.
        force: accept base weights whose fingerprint differs.

    Raises:
        AdapterFileError: the file is damaged, does not fit, or is of a model that timm does not know; or it was trained
            on a merged model or a local folder, and neither chain nor weights are given, or another chain.
        FileNotFoundError, ValueError: no base weights, or wrong ones.
    """
    file = read_of_library(path, "create_from_adapter", of_transformers=False)
    path, header = file.path, file.header
    base = header["base"]
    name = ".".join(part for part in (base["architecture"], base.get("tag")) if part)
    try:
        buildable = timm.get_pretrained_cfg(name) is not None and "model_args" in header
    except RuntimeError:  # timm knows the architecture, but not this tag
        buildable = False
    if not buildable:
        raise AdapterFileError(f"{path} was made for {name}, which timm cannot build: build it, then use load_adapter")
    if foreign := SOURCES & header["model_args"].keys():
        raise AdapterFileError(f"{path} asks to load other files ({', '.join(sorted(foreign))}): refused")
    arguments = {"num_classes": header["num_classes"], **header["model_args"]}
    with explained(path), outlines(**size_limits(base["architecture"])):
        outline = timm.create_model(name, **arguments)
    check_outline(outline, file, adapt=adapt, head_names=head_names)
    pretrained = pretrained and not file.trains_all()
    if chain:
        model = create_merged(file, chain, pretrained=pretrained, initial_checkpoint=initial_checkpoint)
    else:
        if pretrained and initial_checkpoint is None:
            check_published(file, "initial_checkpoint=FOLDER or FILE", chain=True)
        model = create_base(name, pretrained=pretrained, initial_checkpoint=initial_checkpoint, **arguments)
    return load_adapter(model, file, force=force).eval()


def create_merged(file: AdapterFile, chain: Sequence[str | Path | AdapterFile], **source: Any) -> nn.Module:
    """The merged model that an adapter was trained on, built from the adapter files that were merged.

    Args:
        source: the first base, as in `create_from_adapter`.

    Raises AdapterFileError if the file was trained on a model with other merged files, or with none.
    """
    merged = file.header["base"].get("merged", [])
    if len(chain) != len(merged):
        raise AdapterFileError(
            f"{file.path} was trained on {described(file)}, so chain= takes {len(merged)} files, got {len(chain)}"
        )
    *earlier, last = chain
    model: Any = merge(create_from_adapter(last, chain=earlier, **source), inplace=True)
    if merged_into(model)[-1]["digest"] != merged[-1]["digest"]:
        path = last.path if isinstance(last, AdapterFile) else last
        raise AdapterFileError(
            f"{path} is not what was merged into the base of {file.path}: that was trained on {described(file)}"
        )
    if model.num_classes != file.header["num_classes"]:
        model.reset_classifier(file.header["num_classes"])
    return model


@functools.cache
def size_limits(architecture: str) -> dict[str, int]:
    """Limits of the model that a file may ask for: four times the tensors of timm's own, eight times the entries."""
    with outlines():
        parameters = [p.numel() for p in timm.create_model(architecture).parameters()]
    return {"parameters": 4 * len(parameters), "entries": 8 * sum(parameters)}
