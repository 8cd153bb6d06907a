"""CapaBoost for text: the same methods on encoders of transformers, and tasks to measure them on (extra `nlu`)."""

from .adapt import adapt
from .adapters import create_from_adapter, load_adapter, save_adapter
from .anatomy import anatomy_of
from .models import create_text_model

__all__ = ["adapt", "anatomy_of", "create_from_adapter", "create_text_model", "load_adapter", "save_adapter"]
