"""CapaBoost for text: the same methods on encoders of transformers, and tasks to measure them on (extra `nlu`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .adapters import create_from_adapter, load_adapter, save_adapter
    from .anatomy import anatomy_of
    from .models import adapt, create_text_model

__all__ = ["adapt", "anatomy_of", "create_from_adapter", "create_text_model", "load_adapter", "save_adapter"]
_MODULES = {
    "adapt": "models",
    "anatomy_of": "anatomy",
    "create_from_adapter": "adapters",
    "create_text_model": "models",
    "load_adapter": "adapters",
    "save_adapter": "adapters",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
