"""Masked low-rank layers, the wrappers that add them to a model, and the verbs on wrapped models: torch and numpy.

The names below are what a method is made of. They are loaded when they are first used, so that a method's file (and
with it the command line's help) needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .adapted import Adapted, Prompted
    from .adapted_linear import AdaptedLinear
    from .base import dense, device_and_dtype, is_linear, shape_of
    from .branch import LowRankBranch
    from .gate import Gate, Padding
    from .inject import Anatomy, Place, Site, branches, features, find, find_parts, wrappers
    from .masking import PLAIN, Masking
    from .names import carries, get, namer, norm_names, slots
    from .scaled import Scale, Scaled
    from .tied import TiedMaskedWeight
    from .virtual_tokens import VirtualTokens
    from .wrapper import CannotMerge, Wrapper, merged_weights, unwrap

_MODULES = {
    "adapted": ("Adapted", "Prompted"),
    "adapted_linear": ("AdaptedLinear",),
    "base": ("dense", "device_and_dtype", "is_linear", "shape_of"),
    "branch": ("LowRankBranch",),
    "gate": ("Gate", "Padding"),
    "inject": ("Anatomy", "Place", "Site", "branches", "features", "find", "find_parts", "wrappers"),
    "masking": ("PLAIN", "Masking"),
    "names": ("carries", "get", "namer", "norm_names", "slots"),
    "scaled": ("Scale", "Scaled"),
    "tied": ("TiedMaskedWeight",),
    "virtual_tokens": ("VirtualTokens",),
    "wrapper": ("CannotMerge", "Wrapper", "merged_weights", "unwrap"),
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULES)
