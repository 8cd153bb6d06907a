"""Export of low-rank updates as a LoRA adapter of PEFT, a folder for `PeftModel.from_pretrained(base, folder)`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.base import is_linear, is_transposed, kind_of
from ..core.heads import head_names
from ..core.names import namer, slots, wrappers_of
from ..core.record import adapted_model
from ..core.sharded import check_whole
from ..core.wrapper import Frozen, Wrapper, unwrap
from ..io.atomic import is_taken, new_folder
from ..methods.index import make_method
from ..nlu.anatomy import is_transformers_model
from ..nlu.saved import open_trained
from ..training.saved import ModelSource, open_source
from ..vision.saved import open_saved
from .peft_check import check_reading
from .peft_format import CONFIG, PREFIX, WEIGHTS, import_client

_INSTEAD = "merge writes it into the weights, save_adapter keeps it"
# ends of the names of transformers' classes: PEFT's kind of task, by which it chooses its own class
_TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}


def export_peft(model: nn.Module, folder: str | Path) -> Path:
    """Writes the updates and the head as a LoRA adapter of PEFT (an atomic write); returns the folder.

    A layer with d masked branches of rank r becomes a LoRA layer of rank d*r. Several parts of a fused layer (q and v
    of a qkv) become one of the sum of their ranks, whose B is zero in the rows of the other parts. `lora_alpha / rank`
    is our scaling. The head, and other modules that are trained completely (norms), are in `modules_to_save`. PEFT
    computes the same outputs, also after `merge_and_unload`; if it trains the adapter further, the masks are no longer
    applied.

    Needs the package peft, which checks the adapter before anything is written.

    Args:
        model: of timm or transformers, with `lora`. Unlike the file of `save_adapter`, the folder has no fingerprint of
            the base weights.

    Raises:
        ValueError: the model has updates that LoRA cannot express, trains a part of a module, or reads the weights of
            adapted layers instead of calling them, so that PEFT's LoRA would have no effect.
        FileExistsError: the folder exists and is not empty.
        ModuleNotFoundError: peft is not installed.

    Examples:
        >>> capaboost_vit.export_peft(model, "for_peft")
        PosixPath('for_peft')
    """
    peft, folder = import_client(), Path(folder)
    model = adapted_model(model)
    check_whole(model, "save_adapter on all processes, then load_adapter and export in one")
    layers = _lora_layers(model)
    saved = _modules_to_save(model, layers)
    config = peft.LoraConfig(**_settings(model, layers, saved))
    canonical, inside = namer(model), tuple(f"{name}." for name in saved)
    tensors = {f"{name}.lora_A.weight": layer.down for name, layer in layers.items()}
    tensors |= {f"{name}.lora_B.weight": layer.up for name, layer in layers.items()}
    tensors |= {name: t for key, t in model.state_dict().items() if (name := canonical(key)).startswith(inside)}
    check_reading(model, config, tensors, {name: layer.scaling for name, layer in layers.items()})
    with new_folder(folder) as partial:
        stored = {PREFIX + name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(stored, partial / WEIGHTS, metadata={"format": "pt"})
        values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
        (partial / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")
    return folder


def export_run(run: str | Path | ModelSource, folder: str | Path, *, initial_checkpoint: str | None = None) -> Path:
    """`export_peft` for the model of a run folder or an adapter file.

    Args:
        initial_checkpoint: the base weights: a local file, for texts a folder or hub id; None: those of the run.

    Raises:
        FileNotFoundError: no model. FileExistsError: the folder exists.
        ValueError: the model cannot be opened, or what `export_peft` refuses.
    """
    folder = Path(folder)
    if folder.suffix == ".safetensors":
        raise ValueError(f"--output {folder}: PEFT's format is a folder")
    if is_taken(folder):
        raise FileExistsError(f"{folder} exists: choose another --output")
    source = open_source(run)
    if source.is_text:
        model, *_ = open_trained(source, initial_checkpoint)
    else:
        model = open_saved(source, initial_checkpoint=initial_checkpoint).model
    return export_peft(model, folder)


@dataclass(frozen=True)
class _LoraLayer:
    """`dW = scaling * B A`."""

    down: Tensor  # A (R, in), of a convolution (R, in, kh, kw)
    up: Tensor  # B (out, R), of a convolution (out, R, 1, 1)
    scaling: float
    is_transposed: bool

    def rank_and_alpha(self) -> tuple[int, float]:
        alpha = self.scaling * len(self.down)
        return len(self.down), int(alpha) if alpha == int(alpha) else alpha


@torch.no_grad()
def _lora_layers(model: nn.Module) -> dict[str, _LoraLayer]:
    """What each adapted layer adds, by canonical name. Raises ValueError for what is no low-rank change of a weight."""
    layers = {}
    for name, module in slots(model):
        wrappers = [wrapper for wrapper in wrappers_of(module) if not isinstance(wrapper, Frozen)]
        if wrappers:
            downs, ups = zip(*(_factors(name, wrapper) for wrapper in wrappers), strict=True)
            # with our scaling outside of B, and not in it, plain LoRA is trained further as it was
            scalings = (getattr(branch, "scaling", 1.0) for branch in wrappers[0].additions().values())
            scaling = next(scalings, 1.0) or 1.0
            layer, down, up = unwrap(module), torch.cat(downs), torch.cat(ups, dim=1) / scaling
            if isinstance(layer, nn.Conv2d):
                down, up = _as_convolutions(name, layer, down, up)
            elif not is_linear(layer):
                raise ValueError(f"{name!r} is a {kind_of(layer)}, which PEFT updates otherwise: {_INSTEAD}")
            layers[name] = _LoraLayer(down, up, scaling, is_transposed(layer))
    if not layers:
        raise ValueError(
            f"this {type(model).__name__} carries no LoRA, and PEFT's format is for that: use save_adapter"
        )
    return layers


def _as_convolutions(name: str, layer: nn.Conv2d, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """A (R, in, kh, kw) and B (out, R, 1, 1). Raises ValueError where PEFT's A is no convolution like the layer."""
    if layer.groups > 1 or set(layer.dilation) != {1} or layer.padding_mode != "zeros":
        raise ValueError(f"{name!r} has groups, dilation or other padding, which PEFT does not follow: {_INSTEAD}")
    return down.view(len(down), layer.in_channels, *layer.kernel_size), up[..., None, None]


def _factors(name: str, wrapper: Wrapper) -> tuple[Tensor, ...]:
    """A and B of a wrapper, in at least float32."""
    factors = wrapper.linear_factors()
    if factors is None:
        gate = " behind a gate" if wrapper.gated() else ""
        instead = "save_adapter keeps it" if wrapper.cannot_merge() else _INSTEAD
        raise ValueError(f"{name!r} carries {wrapper.adds}{gate}, for which PEFT's LoRA has no form: {instead}")
    return tuple(factor.to(torch.promote_types(factor.dtype, torch.float32)) for factor in factors)


def _modules_to_save(model: nn.Module, layers: Collection[str]) -> list[str]:
    """The head, and other modules that are trained as a whole. Raises ValueError for those trained in part."""
    record: dict[str, Any] = model.capaboost  # type: ignore[assignment]
    methods = [make_method(**method) for method in record["methods"]]
    trained = {p for p in model.parameters() if p.requires_grad or any(method.trains_all for method in methods)}
    trained |= {p for method in methods for p in method.base_parameters(model)}  # even if all was frozen since
    saved = [head for head in head_names(model) if not any(f"{name}.".startswith(f"{head}.") for name in layers)]
    in_head = tuple(f"{name}." for name in saved)
    for name, module in [("", model), *slots(model)]:
        own = dict(unwrap(module).named_parameters(recurse=False))
        learning = [parameter for parameter, tensor in own.items() if tensor in trained]
        if not learning or f"{name}.".startswith(in_head):
            continue
        if not name or name in layers or len(learning) < len(own):
            where = f"{name}.{learning[0]}" if name else learning[0]
            raise ValueError(f"{where!r} is trained, and PEFT saves whole modules without LoRA: {_INSTEAD}")
        saved.append(name)
    return saved


def _settings(model: nn.Module, layers: Mapping[str, _LoraLayer], saved: list[str]) -> dict[str, Any]:
    """Arguments of `LoraConfig`: rank and alpha of most layers, those of others by name; every module by its full name.

    PEFT takes names in patterns as regular expressions that match a name's end.
    """
    sizes = {name: layer.rank_and_alpha() for name, layer in layers.items()}
    ((rank, alpha), _), *_ = Counter(sizes.values()).most_common(1)
    kind, is_text = type(model), is_transformers_model(model)
    task = next((task for end, task in _TASKS.items() if is_text and kind.__name__.endswith(end)), None)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{re.escape(name)}": r for name, (r, _) in sizes.items() if r != rank},
        "alpha_pattern": {f"^{re.escape(name)}": a for name, (_, a) in sizes.items() if a != alpha},
        "target_modules": list(layers),
        "modules_to_save": saved or None,
        "fan_in_fan_out": all(layer.is_transposed for layer in layers.values()),
        "task_type": task,
        "auto_mapping": None if task else {"base_model_class": kind.__name__, "parent_library": kind.__module__},
        "base_model_name_or_path": _base_name(model),
        "inference_mode": True,
    }


def _base_name(model: nn.Module) -> str | None:
    """timm's name with its tag; or the hub id, or the folder, that transformers has loaded."""
    record: dict[str, Any] = model.capaboost  # type: ignore[assignment]
    base = record.get("base", {})
    if hasattr(model, "pretrained_cfg"):
        return ".".join(part for part in (base.get("architecture"), base.get("tag")) if part) or None
    return base.get("tag") or getattr(model, "name_or_path", None) or None
