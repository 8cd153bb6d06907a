"""CapaBoost for vision: parameter-efficient fine-tuning with masked low-rank layers, as a timm extension.

>>> import timm, capaboost_vit
>>> model = timm.create_model("vit_base_capaboost_lora", pretrained=True, num_classes=100)

The timm names are registered as soon as both this package and timm are imported, in either order. Importing this
package imports neither torch nor timm: the public names below are loaded when they are first used. (Without wrapt, as
on a machine that has torch and timm alone, timm is imported at once.)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._lazy import lazy_names
from ._version import __version__

if TYPE_CHECKING:
    from .core.analysis import count_flops, ranks
    from .core.inject import Anatomy, Site, branches, detach, find, freeze_base
    from .core.merge import merge
    from .core.wrapper import CannotMerge, Wrapper, merged_weights
    from .methods.adapter_file import AdapterFileError, read_header
    from .methods.apply import apply_method, fold
    from .methods.index import METHODS, make_method, register
    from .methods.method import MaskedMethod, Method
    from .vision.adapters import adapt, create_from_adapter, load_adapter, save_adapter
    from .vision.anatomy import anatomy_of
    from .vision.summary import summary

_MODULES = {
    "core.analysis": ("count_flops", "ranks"),
    "core.inject": ("Anatomy", "Site", "branches", "detach", "find", "freeze_base"),
    "core.merge": ("merge",),
    "core.wrapper": ("CannotMerge", "Wrapper", "merged_weights"),
    "methods.adapter_file": ("AdapterFileError", "read_header"),
    "methods.apply": ("apply_method", "fold"),
    "methods.index": ("METHODS", "make_method", "register"),
    "methods.method": ("MaskedMethod", "Method"),
    "vision.adapters": ("adapt", "create_from_adapter", "load_adapter", "save_adapter"),
    "vision.anatomy": ("anatomy_of",),
    "vision.summary": ("summary",),
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULES, also=("__version__",))


def _register_timm_models(_: Any = None) -> None:
    import_module(".vision.registry", __name__)


try:
    import wrapt
except ImportError:
    _register_timm_models()
else:
    wrapt.when_imported("timm")(_register_timm_models)
