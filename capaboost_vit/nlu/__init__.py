"""CapaBoost for text: the same methods on encoders of transformers, and tasks to measure them on (extra `nlu`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .adapters import create_from_adapter, load_adapter, save_adapter
    from .anatomy import anatomy_of
    from .models import adapt, create_text_model

_MODULES = {
    "adapters": ("create_from_adapter", "load_adapter", "save_adapter"),
    "anatomy": ("anatomy_of",),
    "models": ("adapt", "create_text_model"),
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULES)
