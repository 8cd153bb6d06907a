"""Folders that transformers' `save_pretrained` writes of adapted models, under the names of the base."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from ..core.inject import wrappers
from ..core.names import namer, wrappers_of
from ..core.wrapper import Wrapper


def save_readably(model: nn.Module) -> None:
    """Puts `save_pretrained` below before that of a model of transformers, by which its Trainer saves too.

    With transformers' own the folder would name what stands inside wrappers, and be read with fresh random weights.
    """
    save = getattr(type(model), "save_pretrained", None)
    if save is not None and "state_dict" in inspect.signature(save).parameters:
        model.save_pretrained = partial(save_pretrained, model)  # type: ignore[assignment]


def save_pretrained(
    model: nn.Module, save_directory: Any, is_main_process: bool = True, state_dict: Any = None, **options: Any
) -> None:
    """`save_pretrained` of transformers under canonical names: the folder reads as the base model with its head.

    What was added stands beside the base; a model that is adapted alike finds it there (`load_state_dict`).

    Raises:
        ValueError: several wrappers of one class in one slot, which `load_state_dict` cannot tell apart by these names.
    """
    for name, wrapper in wrappers(model):
        if any(type(inner) is type(wrapper) for inner in wrappers_of(wrapper.base)):
            raise ValueError(
                f"{name!r} carries {wrapper.adds} several times, for which a folder of transformers has no names: use "
                "save_adapter(model, path)"
            )
    canonical = namer(model)
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, Wrapper)]
    added = {key for name, wrapper in modules for key in wrapper.added_state(f"{name}.")}
    state = model.state_dict() if state_dict is None else state_dict
    # layers may share what was added, and transformers refuses tensors that are tied in no way it knows
    state = {canonical(key): tensor.clone() if key in added else tensor for key, tensor in state.items()}
    options |= {"is_main_process": is_main_process, "state_dict": state}
    type(model).save_pretrained(model, save_directory, **options)  # type: ignore[attr-defined]
