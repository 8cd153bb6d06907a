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
    from .methods.apply import apply_method
    from .methods.fold import fold
    from .methods.index import METHODS, make_method, register
    from .methods.method import MaskedMethod, Method
    from .vision.adapters import adapt, create_from_adapter, load_adapter, save_adapter
    from .vision.anatomy import anatomy_of
    from .vision.summary import summary

_PUBLIC = {
    "AdapterFileError": "methods.adapter_file",
    "Anatomy": "core.inject",
    "CannotMerge": "core.wrapper",
    "METHODS": "methods.index",
    "MaskedMethod": "methods.method",
    "Method": "methods.method",
    "Site": "core.inject",
    "Wrapper": "core.wrapper",
    "adapt": "vision.adapters",
    "anatomy_of": "vision.anatomy",
    "apply_method": "methods.apply",
    "branches": "core.inject",
    "count_flops": "core.analysis",
    "create_from_adapter": "vision.adapters",
    "detach": "core.inject",
    "find": "core.inject",
    "fold": "methods.fold",
    "freeze_base": "core.inject",
    "load_adapter": "vision.adapters",
    "make_method": "methods.index",
    "merge": "core.merge",
    "merged_weights": "core.wrapper",
    "ranks": "core.analysis",
    "read_header": "methods.adapter_file",
    "register": "methods.index",
    "save_adapter": "vision.adapters",
    "summary": "vision.summary",
}
__all__ = ["__version__", *_PUBLIC]


__getattr__, _ = lazy_names(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)


def _register_timm_models(_: Any = None) -> None:
    import_module(".vision.registry", __name__)


try:
    import wrapt
except ImportError:
    _register_timm_models()
else:
    wrapt.when_imported("timm")(_register_timm_models)
