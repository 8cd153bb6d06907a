"""A check of a LoRA adapter for PEFT, by PEFT's own model without weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from timm.data import resolve_input_data_config
from torch import Tensor, nn

from ..core.base import dtype_of
from ..core.inject import detach
from ..core.precision import narrow
from .peft_format import PREFIX, import_client


def check_reading(model: nn.Module, config: Any, tensors: Mapping[str, Tensor], scalings: Mapping[str, float]) -> None:
    """Compares tensors and scalings with those that PEFT would use with this `LoraConfig`.

    PEFT ignores, without a warning, what its rules for names do not match.

    Args:
        model: the adapted model.
        tensors: to be stored, without PEFT's prefix.
        scalings: of the layers, by name.

    Raises:
        ValueError: they differ, PEFT cannot adapt such a model, or some of its layers are never called.
    """
    peft, kind = import_client(), type(model).__name__
    config = copy.deepcopy(config)
    config.base_model_name_or_path = None  # or PEFT warns where it finds another name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a model that nobody else sees
            theirs = peft.get_peft_model(_without_weights(model), config, low_cpu_mem_usage=True).eval()
    except Exception as error:  # of many classes, for layers that it does not know
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"PEFT cannot adapt this {kind}: {reason}") from error
    state = peft.get_peft_model_state_dict(theirs, save_embedding_layers=False)
    read = {(name.removeprefix(PREFIX), tensor.shape) for name, tensor in state.items()}
    if differing := read ^ {(name, tensor.shape) for name, tensor in tensors.items()}:
        raise ValueError(f"PEFT's rules for names would lose or miss {min(differing)[0]!r}: use save_adapter")
    layers = {name: theirs.get_submodule(PREFIX + name) for name in scalings}
    assert all(math.isclose(layers[name].scaling["default"], scaling) for name, scaling in scalings.items())
    if never := _never_called(theirs, layers):
        raise ValueError(
            f"this {kind} reads the weight of {never[0]!r} and never calls it, so PEFT's LoRA would do nothing there: "
            "merge writes it into the weights, save_adapter keeps it"
        )


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy of the base on the meta device, which takes no memory."""
    empty: dict[int, Any] = {}
    computed = (t for module in model.modules() for t in vars(module).values() if isinstance(t, Tensor))  # by hooks
    for tensor in chain(model.parameters(), model.buffers(), computed):
        alone = torch.empty_like(tensor, device="meta")
        empty[id(tensor)] = nn.Parameter(alone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else alone
    base = detach(copy.deepcopy(model, empty))
    narrow(base)
    return base


def _never_called(theirs: Any, layers: Mapping[str, nn.Module]) -> list[str]:
    """Layers of a timm model that one image does not pass through: EVA, BEiT and Swin V2 read the weight of `qkv`."""
    base = theirs.get_base_model()
    if not hasattr(base, "pretrained_cfg"):
        return []
    called: set[nn.Module] = set()
    for layer in layers.values():
        layer.register_forward_pre_hook(lambda module, _: called.add(module))
    size = resolve_input_data_config(base)["input_size"]
    try:
        theirs(torch.zeros(1, *size, dtype=dtype_of(base), device="meta"))
    except Exception:  # a model that looks at values cannot be tried without any
        return []
    return [name for name, layer in layers.items() if layer not in called]
