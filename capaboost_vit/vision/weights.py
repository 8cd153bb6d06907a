"""Base weights from a local file, adapted to the model's input size and classes."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from ..core.inject import branches
from ..core.names import namer
from ..io.hub import fetch_model, is_on_hub
from ..io.json import read_object
from .anatomy import head_names


def create_base(
    name: str, *, pretrained: bool, initial_checkpoint: str | Path | None = None, **arguments: Any
) -> nn.Module:
    """`timm.create_model` with its weights from a local file, or if there is none and they are wanted, from timm's hub.

    The modules of the head that the weights lack, for other classes or none, are noted in `model.fresh_modules`.

    Raises:
        ValueError, TypeError: they cannot be fetched; timm cannot build it with these arguments.
        ValueError, FileNotFoundError: see `load_base_weights`.
    """
    try:
        model: Any = timm.create_model(name, pretrained=pretrained and initial_checkpoint is None, **arguments)
    except OSError as error:
        cached = "" if os.environ.get("HF_HUB_OFFLINE") else ", or set HF_HUB_OFFLINE=1 to use the local cache at once"
        raise ValueError(
            f"cannot fetch the weights of {name} from the hub ({type(error).__name__}): give a local file, "
            f"--initial-checkpoint FILE or initial_checkpoint={cached}"
        ) from error
    except (ValueError, TypeError):
        raise
    except Exception as error:  # asserted, or divided by zero: timm does not check what it is given
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        reason = " ".join(str(error).split())
        raise ValueError(f"timm cannot build {name} with {given}: {type(error).__name__}: {reason}") from error
    if initial_checkpoint is not None:
        model.fresh_modules = load_base_weights(model, initial_checkpoint)
    elif not pretrained or model.num_classes != model.pretrained_cfg.get("num_classes"):
        model.fresh_modules = head_names(model)
    return model


def load_base_weights(model: nn.Module, path: str | Path) -> tuple[str, ...]:
    """Loads the base's weights into a plain or adapted timm model; pickled code in a checkpoint is refused, not run.

    Returns the names of the head's modules that the file does not hold for as many classes.

    Position embeddings are resampled by the family's own filter (timm's `checkpoint_filter_fn`). A classifier of
    another shape is left as it is in the model; every other tensor must be there and fit.

    Args:
        path: a .safetensors file, or a .pth / .bin file that holds only tensors; or a folder in timm's hub format with
            such a file in it, which `capaboost merge` writes; or `hf-hub:owner/name`.

    Raises:
        FileNotFoundError: no such file; see `fetch_model`.
        ValueError: the file cannot be read safely, or its tensors are not those of this architecture.
    """
    path = local_folder(str(path)) or Path(path)
    if (path / "config.json").is_file():
        weights = (path / name for name in ("model.safetensors", "pytorch_model.bin"))
        path = next((file for file in weights if file.is_file()), path)
    state = _read_weights(path)
    filter_fn = checkpoint_filter(model)
    try:
        state = filter_fn(state, model) if filter_fn else state
    except Exception as error:  # timm's filters assume that the tensors are the family's
        raise ValueError(
            f"{path} does not hold the weights of this {type(model).__name__}: {type(error).__name__}: {error}"
        ) from error
    canonical = namer(model)
    shapes = {canonical(name): tensor.shape for name, tensor in model.state_dict().items()}
    added = tuple(f"{name}." for name in branches(model))
    heads = tuple(f"{name}." for name in head_names(model)) or ("head.", "head_dist.", "fc.")
    state = {n: tensor for n, tensor in state.items() if not n.startswith(heads) or shapes.get(n) == tensor.shape}
    differences = {
        "missing": [n for n in shapes if n not in state and not n.startswith((*added, *heads))],
        "unknown": [n for n in state if n not in shapes],
        "of another shape": [n for n, tensor in state.items() if n in shapes and shapes[n] != tensor.shape],
    }
    if any(differences.values()):
        listed = "; ".join(f"{len(names)} {what} ({names[0]}, ...)" for what, names in differences.items() if names)
        raise ValueError(f"{path} does not hold the weights of this {type(model).__name__}: {listed}")
    model.load_state_dict(state, strict=False)
    return tuple(head for head in head_names(model) if not any(name.startswith(f"{head}.") for name in state))


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a .safetensors or .pth file of the base model")
    try:
        state = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot read weights from {path}: {reason}") from error
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        raise ValueError(f"cannot read weights from {path}: it holds {others[0] if others else 'nothing'}, no tensors")
    return state


def outputs_in(name: str, path: str | Path) -> int:
    """The number of classes of the classifier in a file of weights of a model of timm's name.

    Raises:
        ValueError: it holds no classifier; see `load_base_weights`.
    """
    classifier = getattr(timm.get_pretrained_cfg(name), "classifier", None)
    layer = classifier if isinstance(classifier, str) or not classifier else classifier[0]
    weight = _read_weights(Path(path)).get(f"{layer}.weight")
    if weight is None:
        raise ValueError(f"{path} holds no classifier of {name} ({layer}.weight): nothing can be predicted with it")
    return len(weight)


def local_folder(model: str) -> Path | None:
    """The folder of timm's hub format on this machine that stands for a model's name; None for a name of timm's.

    Of `hf-hub:owner/name` it is in the cache of the hub, fetched first where it is not there; see `fetch_model`.
    """
    if is_on_hub(model):
        return fetch_model(model)
    path = Path(model.removeprefix("local-dir:"))
    return path if model.startswith("local-dir:") or (path / "config.json").is_file() else None


def architecture_in(folder: Path) -> str:
    """The timm name of the model in a folder of timm's hub format. Raises ValueError: it holds none."""
    try:
        architecture: str = read_object(folder / "config.json", {"architecture": str})["architecture"]
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--model local-dir:{folder}: no folder that timm could load a model from ({reason})"
        ) from error
    return architecture


def checkpoint_filter(model: nn.Module) -> Callable[..., dict[str, Any]] | None:
    """The family's own conversion of a checkpoint (timm's `checkpoint_filter_fn`), or None where it has none."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and "adapt_layer_scale" in inspect.signature(convert).parameters:
        return functools.partial(convert, adapt_layer_scale=True)  # DeiT-3's own files say gamma_1 for ls1.gamma
    return convert
