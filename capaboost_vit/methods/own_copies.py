"""Own copies of what an adapter file has values for, so that loading it leaves the base's tensors as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.base import copied, dtype_of
from ..core.names import get
from .adapter_file import AdapterFile


def make_own_copies(model: nn.Module, file: AdapterFile) -> None:
    """Puts copies in place of the heads, and of the base's parameters and buffers, that a file has values for.

    A head gets the file's number of classes: of timm's models by `reset_classifier`, in others where it is a linear
    layer with other rows.
    """
    head = file.header["head"]
    classes = file.header.get("num_classes")
    if classes is not None and classes != getattr(model, "num_classes", classes):
        like, dtype = next(model.parameters()), dtype_of(model)
        with torch.random.fork_rng(devices=[]):  # for start values that are overwritten
            model.reset_classifier(classes)  # type: ignore[operator]
        for name in head:
            get(model, name).to(like.device, dtype).requires_grad_(False)
    for name in head:
        old = get(model, name)
        new = copied(old)
        for inner, layer in new.named_modules():
            stored = file.tensors.get(".".join(part for part in (name, inner, "weight") if part))
            if type(layer) is nn.Linear and stored is not None and len(stored) != layer.out_features:
                _resize(layer, len(stored))
        for parent in list(model.modules()):
            for leaf in [leaf for leaf, module in parent._modules.items() if module is old]:
                parent._modules[leaf] = new
    state: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    inside = tuple(f"{name}." for name in head)
    ours = {id(t): _copy(t) for name, t in state.items() if name in file.tensors and not name.startswith(inside)}
    for module in model.modules():
        for entries in (module._parameters, module._buffers):
            entries.update({name: ours[id(t)] for name, t in entries.items() if id(t) in ours})  # type: ignore


def _copy(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy


def _resize(layer: nn.Linear, rows: int) -> None:
    """Another number of classes: rows to be filled from the file."""
    layer.out_features = rows
    layer.weight = nn.Parameter(layer.weight.new_zeros(rows, layer.in_features))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_zeros(rows))
