"""Folders in timm's hub format, which transformers opens, too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import save_for_hf as timm_save_for_hf
from torch import nn

from ..core.inject import wrappers
from ..core.integer_layer import has_integers, load_integers
from ..core.record import plain_model
from ..io.atomic import new_folder
from ..io.json import read_object
from .data.labels import Task
from .registry import parse_name
from .targets import Scale

INTEGERS = "integers.safetensors"  # the weights of a model with layers of integers: nobody takes them for plain ones
LOAD_INTEGERS = 'import capaboost_vit\n\nmodel = capaboost_vit.create_from_integers("FOLDER")'  # for cards


def save_for_hf(
    model: nn.Module,
    folder: str | Path,
    *,
    class_names: Sequence[str] = (),
    data_config: dict[str, Any] | None = None,
    value_range: tuple[float, float] | None = None,
    temperature: float = 1.0,
    task: Task = "classification",
    scale: Scale | None = None,
) -> Path:
    """Writes a merged timm model, or one of a registered name, for timm and transformers; returns the folder.

    The write is atomic. timm loads the folder by `create_model("local-dir:FOLDER", pretrained=True)`, transformers by
    `AutoModelForImageClassification.from_pretrained(FOLDER)`; with a registered name after `import capaboost_vit`. A
    model with integer layers is loaded by `create_from_integers` only; its weights are in integers.safetensors.

    Args:
        class_names: names of the classes, in the order of the labels.
        data_config: timm's input configuration used in training; None: the model's own.
        value_range: pixel values of black and white; stored in config.json, where timm ignores it.
        temperature: probabilities are softmax(logits / temperature); stored in config.json, too, unless it is 1.
        task: meaning of the outputs; stored there, too, unless they are classes.
        scale: mean and std of the numbers of a regression; stored there, too.

    Raises:
        FileExistsError: the folder exists and is not empty.
        ValueError: no model of timm, or one with wrappers that no name in timm's registry has.
    """
    model, folder = plain_model(model), Path(folder)
    if not hasattr(model, "pretrained_cfg"):
        raise ValueError(f"a {type(model).__name__} is no model of timm, whose folder this is: use save_adapter")
    name: str = model.pretrained_cfg["architecture"]  # type: ignore[index, assignment]
    if parse_name(name) is None and any(True for _ in wrappers(model)):
        raise ValueError(f"timm would build a plain {name} from this folder: merge(model) first, or use save_adapter")
    config: dict[str, Any] = {"label_names": list(class_names)} if class_names else {}
    if value_range is not None:
        config["value_range"] = value_range
    if temperature != 1:
        config["temperature"] = temperature
    if task != "classification":
        config["task"] = task
    if scale is not None:
        config["scale"] = [scale.mean, scale.std]
    with new_folder(folder) as partial:
        timm_save_for_hf(model, str(partial), config, safe_serialization=True, data_config=data_config)
        path = partial / "config.json"
        written = read_object(path)
        # transformers' TimmWrapper passes it once more; both read the number of classes at the top of the file
        written.get("model_args", {}).pop("num_classes", None)
        path.write_text(json.dumps(written, indent=2), encoding="utf-8")
        if has_integers(model):
            (partial / "model.safetensors").rename(partial / INTEGERS)
    return folder


def create_from_integers(folder: str | Path) -> nn.Module:
    """The model of a folder that `capaboost merge --format integers` has written, in evaluation mode.

    Raises FileNotFoundError if the folder has no such file, ValueError if it is damaged or of another architecture.
    """
    path = Path(folder) / INTEGERS
    if not path.is_file():
        raise FileNotFoundError(
            f"no {INTEGERS} in {folder}: `capaboost merge RUN --format integers --output FOLDER` writes one"
        )
    model: nn.Module = timm.create_model(f"local-dir:{folder}")
    try:
        load_integers(model, load_file(path))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    return model.eval()
