"""Masked low-rank layers, the wrappers that add them to a model, and the verbs on wrapped models: torch and numpy.

The names below are what a method is made of. They are loaded when they are first used, so that a method's file (and
with it the command line's help) needs no torch.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
