"""CapaBoost for vision: parameter-efficient fine-tuning with masked low-rank layers, as a timm extension.

>>> import timm, capaboost_vit
>>> model = timm.create_model("vit_base_capaboost_lora", pretrained=True, num_classes=100)

The timm names are registered as soon as this package and timm are both imported, in either order. Importing this
package imports neither torch nor timm: the public names below are loaded on first use. (Without the package wrapt, timm
is imported at once.)
"""

from importlib import import_module
from typing import Any

from ._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)


def _register_timm_models(_: Any = None) -> None:
    import_module(".vision.registry", __name__)


def _register_bitsandbytes(bitsandbytes: Any) -> None:
    import_module(".interop.bitsandbytes_layers", __name__).register(bitsandbytes)


try:
    import wrapt
except ImportError:
    _register_timm_models()
else:
    wrapt.when_imported("timm")(_register_timm_models)
    wrapt.when_imported("bitsandbytes")(_register_bitsandbytes)
