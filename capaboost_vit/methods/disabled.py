"""A context in which adapters are switched off, so that the model computes what its base does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..core.variant import Change
from ..core.wrapper import Wrapper, unwrap
from .index import make_method

_MARK = "capaboost_disabled"


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """A context in which the model computes without its adapters, bit for bit as its base; it can be nested.

    Afterwards, also after an error, wrappers, record, and training or evaluation mode are as before. Frozen batch norms
    stay frozen in the context.

    Deviation from PEFT's `disable_adapter`, which keeps a copy of the modules in `modules_to_save`: the head is trained
    in place, so it stays the trained one. To get the base's own head back, use an `AdapterBank` and `bank.use(None)`.

    Args:
        model: an adapted model, or one that contains it. Use it from one thread at a time: others see the base, too.

    Raises ValueError for a model without adapters, or with a method that trains parameters of the base itself (norm,
    bitfit, full), whose original values are lost.

    Examples:
        >>> with capaboost_vit.disabled(model), torch.no_grad():
        ...     reference = model(images)
    """
    modules = list(model.modules())
    adapted = [module for module in modules if "capaboost" in vars(module)]
    if not adapted and not any(_MARK in vars(module) for module in modules):
        raise ValueError(f"this {type(model).__name__} carries no adapter: call capaboost_vit.adapt(model, ...) first")
    for module in adapted:
        _check_kept(module)
    modes = [(module, module.training) for module in modules]
    changes = [
        Change(parent, "_modules", leaf, child, unwrap(child))
        for parent in modules
        for leaf, child in parent._modules.items()
        if isinstance(child, Wrapper) and not isinstance(parent, Wrapper)
    ]
    records: list[tuple[dict[str, Any], Any]] = [(vars(module), vars(module)["capaboost"]) for module in adapted]
    try:
        for change in changes:
            change.set(change.after)
        for attributes, _ in records:
            attributes[_MARK] = attributes.pop("capaboost")
        yield
    finally:
        for change in changes:
            change.set(change.before)
        for attributes, record in records:
            attributes.pop(_MARK, None)
            attributes["capaboost"] = record
        for module, mode in modes:
            module.training = mode


def _check_kept(model: Any) -> None:
    for record in model.capaboost["methods"]:
        method = make_method(**record)
        if method.trains_all or any(True for _ in method.base_parameters(model)):
            raise ValueError(
                f"{method.name!r} trains parameters of the base itself, whose values are gone: build the base again, "
                "or keep both in an AdapterBank, where bank.use(None) is the base"
            )
