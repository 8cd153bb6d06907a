"""First rows: modules that compute only the tokens that somebody reads, with the parameters of those that compute all.

The head of many transformers reads the class token alone, which stands first. Of the last block it then needs the keys
and values of all tokens, and everything else for the first one. What is not known to be exact has no short cut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .base import computes_a_weight, is_plain_linear, kind_of, shape_of
from .precision import casts
from .wrapper import NoShortCut, Wrapper, sharing, unwrap

M = TypeVar("M", bound=nn.Module)
Kinds = tuple[type[Any], ...]

_ACTIVATIONS = (nn.ELU, nn.GELU, nn.Hardswish, nn.LeakyReLU, nn.Mish, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh)
_BY_ROW: Kinds = (nn.Identity, nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Dropout, *_ACTIVATIONS)


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

    Raises NoShortCut where a wrapper, a hook or `bare` cannot.
    """
    _check_unwatched(module)
    if isinstance(module, Wrapper):
        return module.first_rows(first_rows(module.base, rows, bare), rows)
    return bare(module, rows)


def check_by_row(modules: Iterable[nn.Module | None], containers: Kinds) -> None:
    """Raises NoShortCut unless each module that is there makes a row of its output of that row of its input.

    Known are linear layers, layer norms, dropout and activations of torch, wrappers that say so, and `containers`:
    classes with nothing but such children between which their own operations act on each row, too. Another class is
    known if it has the `forward` of one of these.
    """
    for module in modules:
        if module is not None:
            _check_unwatched(module)
            if reason := why_not_by_row(module, containers):
                raise NoShortCut(reason)


def why_not_by_row(module: nn.Module, containers: Kinds) -> str | None:
    """Why a row of a module's output may depend on other rows of its input, in words; None where it does not."""
    if isinstance(module, Wrapper):
        return why_not_by_row(module.base, containers) if module.by_row() else module.needs_all_rows()
    if any(type(module).forward is kind.forward for kind in containers):
        reasons = (why_not_by_row(child, containers) for child in module.children())
        return next((reason for reason in reasons if reason), None)
    # a weight that is a class of its own may quantise what it is multiplied with by the scale of all rows
    plain = not any(is_traceable_wrapper_subclass(tensor) for tensor in module.parameters(recurse=False))
    if plain and any(type(module).forward is kind.forward for kind in _BY_ROW):
        return None
    return f"a {kind_of(module)} may need all rows"


def watched(module: nn.Module) -> bool:
    """Whether somebody looks at, or changes, what goes through a module: a hook, or a `forward` put in its place."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    foreign = (hook for hook in chain(*(kind.values() for kind in hooks)) if not computes_a_weight(hook))
    return "forward" in vars(module) or not all(casts(hook) for hook in foreign)


def _check_unwatched(module: nn.Module) -> None:
    for inner in module.modules():
        if watched(inner):
            raise NoShortCut(f"a hook, or a forward put in place of its own, watches all rows of a {kind_of(inner)}")


def splits(layer: nn.Module, at: int) -> bool:
    """Whether `outputs` computes the features of a linear layer before and from `at` on apart, to the same numbers."""
    if isinstance(layer, Wrapper):
        return layer.splits(at)
    return is_plain_linear(layer) and not is_traceable_wrapper_subclass(cast(Tensor, layer.weight))


def outputs(layer: Any, x: Tensor, start: int, stop: int) -> Tensor:
    """`layer(x)[..., start:stop]`, (..., stop - start), of a layer that `splits` there; or all of it, of any."""
    if (start, stop) == (0, shape_of(unwrap(layer))[0]):
        return layer(x)
    if isinstance(layer, Wrapper):
        return layer.outputs(x, start, stop)
    return F.linear(x, layer.weight[start:stop], None if layer.bias is None else layer.bias[start:stop])
