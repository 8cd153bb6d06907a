"""Folding: reparameterisation MLPs of virtual tokens become the plain tables that they compute."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..core.inject import branches
from ..core.virtual_tokens import VirtualTokens

_PLAIN = {"num_branches": 1, "density": 1.0, "pattern": "random"}
# what a method's options are after folding
_FOLDED: dict[str, dict[str, Any]] = {
    "prefix": {"bottleneck": None, "shared": False, **_PLAIN},
    "prompt": {"bottleneck": None, **_PLAIN},
    "unipelt": {"prefix_bottleneck": None},
}


def fold(model: nn.Module) -> nn.Module:
    """Replaces each MLP of prefixes and prompts by its vectors, in place; the model computes the same.

    What was a table already is left alone. A prefix of 10 tokens for roberta-base is 184,320 values then, not 9,857,024
    parameters.
    """
    found = [b for b in branches(model).values() if isinstance(b, VirtualTokens) and b.mlp is not None]
    for tokens in found:
        tokens.fold()
    record = getattr(model, "capaboost", None)
    if found and record is not None:
        methods = [_folded(method) for method in record["methods"]]
        model.capaboost = {**record, "methods": methods}  # type: ignore[assignment]
    return model


def _folded(method: dict[str, Any]) -> dict[str, Any]:
    changed = _FOLDED.get(method["method"], {})
    width = "prefix_bottleneck" if "prefix_bottleneck" in method else "bottleneck"
    return {**method, **changed} if changed and method.get(width) is not None else method
