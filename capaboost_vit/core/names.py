"""Canonical names: the names of modules, parameters and buffers in the base model, without wrappers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from .base import class_of, is_norm
from .wrapper import Wrapper, unwrap


def slots(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(canonical name, module) of each slot of `model`, with its wrappers, but without the modules that they add.

    A module in several slots appears once for each; the first name is that in state dicts.
    """
    for name, module in unwrap(model)._modules.items():  # named_children() would leave the second slot out
        if module is not None:
            yield f"{prefix}{name}", module
            yield from slots(module, f"{prefix}{name}.")


def get(model: nn.Module, name: str) -> nn.Module:
    """The module in the slot with this canonical name, with its wrappers."""
    module = model
    for segment in name.split(".") if name else ():
        module = unwrap(module).get_submodule(segment)
    return module


def norm_names(model: nn.Module) -> list[str]:
    """Canonical names of the normalisation layers with parameters of their own."""
    return [name for name, module in slots(model) if is_norm(unwrap(module))]


def carries(module: nn.Module, kind: type[Any]) -> bool:
    """Whether a slot has a wrapper of this class."""
    return any(isinstance(wrapper, kind) for wrapper in wrappers_of(module))


def wrappers_of(module: nn.Module) -> Iterator[Wrapper]:
    """The wrappers of a slot, from the outside in; empty for a module without wrappers."""
    while isinstance(module, Wrapper):
        yield module
        module = module.base


def namer(model: nn.Module) -> Callable[[str], str]:
    """A function from names of modules, parameters and buffers to canonical names, without the wrappers' `.base`.

    If a slot has several wrappers of one class, the additions of the second from the inside have `_2` in their names,
    and so on.
    """
    levels = {  # of each wrapper, how many of its class it contains in its slot
        name: sum(class_of(inner) is class_of(module) for inner in wrappers_of(module.base))
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, Wrapper)
    }

    def canonical(name: str) -> str:
        kept: list[str] = []
        path = ""
        for segment in name.split("."):
            level = levels.get(path)
            if level is None or segment != "base":
                kept.append(f"{segment}_{level + 1}" if level else segment)
            path = f"{path}.{segment}" if path else segment
        return ".".join(kept)

    return canonical


def distinct(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's state by name, not copied, each once: tied ones with their first name."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if first.setdefault(id(tensor), name) == name}


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """The names that match a pattern: only the pattern itself if it is one of them, else those whose end it matches."""
    return [pattern] if pattern in names else [name for name in names if _matches(name, pattern)]


def pattern_of(name: str) -> str:
    """The pattern of a name in all blocks, with a star for each index: `blocks.*.attn.qkv`."""
    return ".".join("*" if segment.isdigit() else segment for segment in name.split("."))


def is_inside(name: str, pattern: str) -> bool:
    """Whether a module that contains the one of this name matches the pattern."""
    return any(_matches(parent, pattern) for parent in accumulate(name.split(".")[:-1], "{}.{}".format))


def _matches(name: str, pattern: str) -> bool:
    segments, wanted = name.split("."), pattern.split(".")
    tail = segments[-len(wanted) :]
    return len(tail) == len(wanted) and all(w in ("*", s) for s, w in zip(tail, wanted, strict=True))
