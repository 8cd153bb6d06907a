"""CapaBoost for text: the same methods on encoders of transformers, and tasks to measure them on (extra `nlu`)."""

from .adapt import adapt
from .anatomy import anatomy_of
from .models import create_text_model

__all__ = ["adapt", "anatomy_of", "create_text_model"]
