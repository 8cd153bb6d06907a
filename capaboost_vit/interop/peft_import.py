"""Import of LoRA adapters of PEFT, folders that `PeftModel.save_pretrained` has written, as `lora` of this library."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..adapters import adapt
from ..core.adapted_linear import AdaptedLinear
from ..core.base import is_linear, kind_of, shape_of
from ..core.branch import LowRankBranch
from ..core.names import carries, get, namer, slots
from ..core.record import check_no_peft, plain_model
from ..core.wrapper import unwrap
from ..io.json import read_object
from ..io.options import check_value, suggest
from ..io.sealed import read_safetensors
from ..methods.header import AdapterFileError, explained
from .peft_format import CONFIG, PREFIX, WEIGHTS

M = TypeVar("M", bound=nn.Module)

# settings that are followed: type, and value where there is none
_FOLLOWED: dict[str, tuple[Any, Any]] = {
    "lora_alpha": (float, 8.0),
    "alpha_pattern": (dict, {}),
    "use_rslora": (bool, False),
    "lora_dropout": (float, 0.0),
}
# those that the names and shapes of the tensors show, and those that do not change what a stored adapter computes
_SHOWN = {"r", "rank_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
_SHOWN |= {"modules_to_save", "fan_in_fan_out"}
_WITHOUT_EFFECT = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"}
_WITHOUT_EFFECT |= {"task_type", "eva_config", "megatron_core", "qalora_group_size", "runtime_config", "velora_config"}
# starts that leave the base weights as they are; pissa, olora, corda and loftq adapt what they have made of these
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")

_FACTOR = re.compile(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight")


def import_peft(model: M, folder: str | Path) -> M:
    """Adds the LoRA layers of a folder of PEFT to a plain model, in place, and loads its head; returns the model.

    The model computes the same as `PeftModel.from_pretrained(model, folder)`, and is an adapted model as any other:
    `lora` with one branch and no masks, recorded once for each pair of rank and alpha; a fused layer is one part. The
    LoRA layers and the modules in `modules_to_save` are trained. Does not need the package peft.

    Args:
        model: of timm or transformers, with a head of the same shape as the stored one. The folder has no fingerprint
            of the base weights that the adapter was trained with.

    Raises:
        FileNotFoundError: no adapter_config.json or adapter_model.safetensors (a pickle is not read).
        AdapterFileError: another method than LoRA, settings that `lora` does not have (DoRA, trained biases,
            initialisations that change the base), a damaged folder, or one that does not fit the model (no such layers,
            other shapes, LoRA there already); the model is unchanged.
        ValueError, TypeError: a model with layers of PEFT, or no model.

    Examples:
        >>> base = capaboost_vit.detach(copy.deepcopy(model))
        >>> folder = capaboost_vit.export_peft(model, "of_peft")
        >>> ours = capaboost_vit.import_peft(base, folder)
    """
    folder, inner = Path(folder), plain_model(model)
    check_no_peft(inner)
    config, tensors = _read(folder)
    factors, others = _sorted(folder, tensors)
    with explained(folder):
        for name, pair in factors.items():
            _check_layer(inner, name, pair)
        _check_others(inner, others)
        groups: dict[tuple[int, float], list[str]] = defaultdict(list)
        for name, pair in factors.items():
            groups[len(pair["A"]), _alpha(config, name)].append(name)
    head = tuple(dict.fromkeys(name.rpartition(".")[0] for name in others))
    for (rank, alpha), names in groups.items():
        options = {"rank": rank, "alpha": alpha, "use_rslora": config["use_rslora"], "dropout": config["lora_dropout"]}
        adapt(inner, "lora", head=head, num_branches=1, density=1.0, targets=tuple(names), **options)
    canonical = namer(inner)
    state = {canonical(name): tensor for name, tensor in inner.state_dict(keep_vars=True).items()}
    with torch.no_grad():
        for name, tensor in others.items():
            state[name].copy_(tensor)
        for name, pair in factors.items():
            branch = cast(LowRankBranch, cast(AdaptedLinear, get(inner, name)).branches["all"])
            branch.down.weight.copy_(pair["A"])
            branch.up.weight.copy_(pair["B"])
    return model


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings that are followed, and the tensors. Raises AdapterFileError for settings that cannot be followed."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            pickled = (folder / "adapter_model.bin").is_file() and name == WEIGHTS
            hint = "; adapter_model.bin is a pickle, which can run code: save it again with PEFT" if pickled else ""
            raise FileNotFoundError(f"{folder} holds no {name}, as PEFT's save_pretrained writes it{hint}")
    with explained(folder / CONFIG):
        config = read_object(folder / CONFIG, {"peft_type": str})
        if config["peft_type"] != "LORA":
            raise AdapterFileError(
                f"{folder} holds {config['peft_type']}, and only LORA can be imported: open it with PEFT"
            )
        known = {*_FOLLOWED, *_SHOWN, *_WITHOUT_EFFECT}
        off: tuple[Any, ...] = (None, False, {}, [], "none")
        strange = {name: value for name, value in config.items() if name not in known and value not in off}
        if strange.get("init_lora_weights", True) in _STARTS:
            strange.pop("init_lora_weights", None)
        for name, value in strange.items():
            raise AdapterFileError(
                f"{folder} has {name}={value!r:.60}, which lora has not: load it with PEFT, and merge_and_unload() it"
            )
        followed = {n: default if config.get(n) is None else config[n] for n, (_, default) in _FOLLOWED.items()}
        for name, value in followed.items():
            check_value(name, value, _FOLLOWED[name][0], {})
        for value in followed["alpha_pattern"].values():
            check_value("a value of alpha_pattern", value, float, {})
    return followed, read_safetensors(folder / WEIGHTS, error=AdapterFileError)[1]


def _sorted(folder: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """(A and B by the layer's name, the tensors of `modules_to_save` by their own). Raises AdapterFileError."""
    factors: dict[str, dict[str, Tensor]] = defaultdict(dict)
    others = {}
    for key, tensor in tensors.items():
        if not (tensor.is_floating_point() and tensor.isfinite().all()) and "num_batches_tracked" not in key:
            raise AdapterFileError(f"{folder} holds {key!r} with values that are no finite floating-point numbers")
        if match := _FACTOR.fullmatch(key):
            factors[match[1]][match[2]] = tensor
        else:
            others[key.removeprefix(PREFIX)] = tensor
    if not factors:
        raise AdapterFileError(f"{folder} holds no LoRA layer")
    return factors, others


def _check_layer(model: nn.Module, name: str, pair: Mapping[str, Tensor]) -> None:
    """Raises ValueError, TypeError unless the layer is there, and A and B are of its shape and one rank."""
    layers = {slot: unwrap(module) for slot, module in slots(model)}
    if name not in layers:
        linear = [slot for slot, layer in layers.items() if is_linear(layer)]
        raise ValueError(f"this {type(model).__name__} has no layer {name!r}{suggest(name, linear)}")
    if carries(get(model, name), AdaptedLinear):
        raise ValueError(f"{name!r} carries {AdaptedLinear.adds} already: detach it first")
    if not is_linear(layers[name]):
        raise TypeError(f"{name!r} is a {kind_of(layers[name])}, and lora takes linear layers")
    rows, columns = shape_of(layers[name])
    shapes = {letter: tuple(tensor.shape) for letter, tensor in pair.items()}
    rank = shapes.get("A", (0,))[0]
    if not rank or shapes != {"A": (rank, columns), "B": (rows, rank)}:
        raise ValueError(f"{name!r} maps {columns} to {rows}, which A and B of shapes {shapes} do not")


def _check_others(model: nn.Module, others: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless each tensor is one of the model's, of its shape."""
    canonical = namer(model)
    shapes = {canonical(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, tensor in others.items():
        if name not in shapes or "." not in name:  # modules are trained, not single parameters of the model
            raise ValueError(f"this {type(model).__name__} has no {name!r}{suggest(name, shapes)}")
        if shapes[name] != tuple(tensor.shape):
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} in the file and {shapes[name]} in this {type(model).__name__}: build "
                "it with as many classes"
            )


def _alpha(config: Mapping[str, Any], name: str) -> float:
    """The alpha of a layer: PEFT takes the first pattern that matches the end of its name."""
    patterns = config["alpha_pattern"].items()
    return next((alpha for key, alpha in patterns if re.match(rf"(.*\.)?({key})$", name)), config["lora_alpha"])
