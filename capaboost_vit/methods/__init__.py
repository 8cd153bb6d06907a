"""The methods, one per file, and functions to apply, save, load and fold them.

Importing this package registers all of them, and those of other packages, from entry points in the group
`capaboost_vit.methods`.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import entry_points

from .hooks import Pass, Stage
from .index import METHODS, make_method, register
from .method import MaskedMethod, Method

# in the order in which people are told of them
for _name in (
    "lora",
    "adapter",
    "prefix",
    "prompt",
    "e2vpt",
    "hira",
    "adalora",
    "lorta",
    "fact",
    "aurora",
    "rasa",
    "deep_lora",
    "repadapter",
    "arc",
    "snell",
    "dora",
    "vera",
    "ether",
    "etherplus",
    "neat",
    "hra",
    "boft",
    "randlora",
    "gralora",
    "mlae",
    "intlora",
    "pafi",
    "ia3",
    "ssf",
    "unipelt",
    "dyt",
    "sfda",
    "das",
    "pha",
    "norm",
    "bitfit",
    "hiwi",
    "head",
    "full",
):
    import_module(f".{_name}", __name__)

for _entry in entry_points(group="capaboost_vit.methods"):
    try:
        _entry.load()
    except Exception as error:  # somebody else's package must not take this one down
        warnings.warn(f"the method {_entry.name!r} of {_entry.value} cannot be loaded: {error}", stacklevel=1)

__all__ = ["METHODS", "MaskedMethod", "Method", "Pass", "Stage", "make_method", "register"]
