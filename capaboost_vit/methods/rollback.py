"""Rollback of what is done to a model within a block: its wrappers, its record, and which parameters are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from ..core.inject import replace_slots
from ..core.wrapper import Wrapper


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Where the block raises, the model gets back its wrappers, its record, and which parameters are trained."""
    restore = _restoring(model)
    try:
        yield
    except Exception:
        restore()
        raise


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Behind the block the model has its wrappers, its record, and which parameters are trained, as before."""
    restore = _restoring(model)
    try:
        yield
    finally:
        restore()


def _restoring(model: nn.Module) -> Callable[[], None]:
    earlier = set(model.modules())
    trained = [p for p in model.parameters() if p.requires_grad]
    record = getattr(model, "capaboost", None)

    def older(module: nn.Module) -> nn.Module:
        while isinstance(module, Wrapper) and module not in earlier:
            module = module.base
        return module

    def restore() -> None:
        replace_slots(model, older)
        if record is None:
            for name in ("capaboost", "save_pretrained"):
                model.__dict__.pop(name, None)
        else:
            model.capaboost = record
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)

    return restore
