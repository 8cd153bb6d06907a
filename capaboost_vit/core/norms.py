"""The normalisation layers of a model."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .inject import slots
from .wrapper import unwrap


def norm_names(model: nn.Module) -> list[str]:
    """Canonical names of the normalisation layers that have parameters of their own: those of torch and of others.

    Others, such as timm's, are known by their class: it has Norm in its name, or comes of one that has, and no layer in
    it has parameters.
    """
    return [name for name, module in slots(model) if _is_norm(unwrap(module))]


def _is_norm(module: nn.Module) -> bool:
    own = len(list(module.parameters(recurse=False)))
    if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm)):
        return own > 0
    named = any("Norm" in kind.__name__ for kind in type(module).__mro__)
    return named and own > 0 and own == len(list(module.parameters()))
