"""CapaBoost for text: the same methods on encoders of transformers, and tasks to measure them on (extra `nlu`)."""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
