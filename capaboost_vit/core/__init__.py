"""The building blocks of methods: masked low-rank layers, wrappers, and functions on wrapped models (torch and numpy).

The names below are loaded on first use, so that the file of a method, and with it the command line's help, needs no
torch.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
