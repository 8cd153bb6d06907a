"""First rows: modules that compute only the tokens that somebody reads, with the parameters of those that compute all.

The head of many transformers reads the class token alone, which stands first. Of the last block it then needs the keys
and values of all tokens, and everything else for the first one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _BatchNorm

from .base import is_linear, is_norm, kind_of
from .wrapper import NoShortCut, Wrapper, sharing

M = TypeVar("M", bound=nn.Module)

_BY_ELEMENT = tuple(
    kind
    for name in activation.__all__
    if not issubclass(kind := getattr(activation, name), (nn.MultiheadAttention, nn.Softmax2d))
)
_BY_ROW = (nn.Identity, nn.modules.dropout._DropoutNd, *_BY_ELEMENT)


def twin(model: M, exchanged: Mapping[str, nn.Module]) -> M:
    """A twin of a model: a shallow copy with other modules in some slots, which shares all else, parameters too.

    Args:
        exchanged: the new modules, by the names of `model.named_modules()`.
    """
    by_child: dict[str, dict[str, nn.Module]] = {}
    for name, module in exchanged.items():
        child, _, rest = name.partition(".")
        by_child.setdefault(child, {})[rest] = module
    children = {
        # not `inner.get("") or`: an empty list of modules is false
        child: inner[""] if "" in inner else twin(model.get_submodule(child), inner)
        for child, inner in by_child.items()
    }
    return sharing(model, **children)


def recast(module: nn.Module, kind: type[nn.Module], **attributes: Any) -> nn.Module:
    """A shallow copy of a module as one of a class that computes otherwise, with these attributes."""
    alone = copy.copy(module)
    alone.__class__ = kind  # of the module's own class, so that all it has is in place
    for name, value in attributes.items():
        setattr(alone, name, value)
    return alone


def first_rows(module: nn.Module, rows: int, bare: Callable[[nn.Module, int], nn.Module]) -> nn.Module:
    """What computes the first rows of what stands in a slot: `module(x)[:, :rows]` of x (B, N, D).

    Args:
        bare: makes it of the module below all wrappers.

    Raises NoShortCut where a wrapper, or `bare`, cannot.
    """
    if isinstance(module, Wrapper):
        return module.first_rows(first_rows(module.base, rows, bare), rows)
    if module._forward_hooks or module._forward_pre_hooks:
        raise NoShortCut(f"a hook looks at all rows of a {type(module).__name__}")
    return bare(module, rows)


def why_not_by_row(module: nn.Module, containers: tuple[type[Any], ...]) -> str | None:
    """Why a row of a module's output may depend on other rows of its input, in words; None where it does not.

    Known are linear layers, norms of rows, dropout and activations, wrappers that say so, and `containers`, classes
    whose children are applied one after the other.
    """
    if isinstance(module, Wrapper):
        return why_not_by_row(module.base, containers) if module.by_row() else f"{module.adds} there needs all rows"
    if isinstance(module, containers):
        reasons = (why_not_by_row(child, containers) for child in module.children())
        return next((reason for reason in reasons if reason), None)
    by_row = isinstance(module, _BY_ROW) or is_linear(module) or is_norm(module)
    return None if by_row and not isinstance(module, _BatchNorm) else f"a {kind_of(module)} may need all rows"


def check_by_row(modules: Iterable[nn.Module | None], containers: tuple[type[Any], ...]) -> None:
    """Raises NoShortCut with the first `why_not_by_row` of the modules that are there."""
    for module in modules:
        if module is not None and (reason := why_not_by_row(module, containers)):
            raise NoShortCut(reason)


def outputs(layer: Any, x: Tensor, start: int, stop: int) -> Tensor:
    """`layer(x)[..., start:stop]` of a linear layer, (..., stop - start): computed alone where that is known how."""
    if isinstance(layer, Wrapper):
        return layer.outputs(x, start, stop)
    if type(layer).forward is not nn.Linear.forward or layer._forward_hooks or layer._forward_pre_hooks:
        return layer(x)[..., start:stop]
    weight, bias = layer.weight, layer.bias
    return F.linear(x, weight[start:stop], None if bias is None else bias[start:stop])
