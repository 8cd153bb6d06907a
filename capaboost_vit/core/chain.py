"""Chains: what was merged into the weights of a model before it was adapted again; the fingerprint of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..io.sealed import digest
from .base import plain_tensor
from .names import namer
from .wrapper import Wrapper

_NAME = "capaboost_merged"


def merged_into(model: nn.Module) -> list[dict[str, Any]]:
    """The adapters that were merged into a model, the first one first: options and digest of each, as JSON values."""
    return list(getattr(model, _NAME, []))


def chain_with(model: nn.Module) -> list[dict[str, Any]]:
    """The same and, behind them, what an adapted model carries: what `merge` leaves on the model that it returns."""
    record = getattr(model, "capaboost", None)
    if record is None:
        return merged_into(model)
    canonical = namer(model)
    added = {
        canonical(name): tensor
        for path, module in model.named_modules()
        if isinstance(module, Wrapper)
        for name, tensor in module.added_state(f"{path}." if path else "").items()
    }
    return [*merged_into(model), {"methods": record["methods"], "digest": fingerprint(added)}]


def note_chain(model: nn.Module, chain: list[dict[str, Any]]) -> None:
    """Notes on a model what was merged into it, for the adapter files of what is added next."""
    if chain:
        model.__dict__[_NAME] = chain


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values rounded to bfloat16, so that a bfloat16 copy of the base has the same."""
    return digest(tensors, read=_rounded)


def _rounded(tensor: Tensor) -> Tensor:
    plain = plain_tensor(tensor)
    return plain.to(torch.bfloat16) if plain.is_floating_point() else plain
