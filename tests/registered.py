"""The package's own methods, from the registry: a new one is in the tests that iterate over it by itself."""

from __future__ import annotations

from capaboost_vit import METHODS

# with options where the defaults do not fit timm's ViT, or draw random numbers in training
_OPTIONS = {"unipelt": {"parts": ("lora", "adapter")}, "dyt": {"sampled": False}, "e2vpt": {"dropout": 0.0}}
# without those that another test module has registered from outside
OWN = {
    name: _OPTIONS.get(name, {}) for name, method in METHODS.items() if method.__module__.startswith("capaboost_vit.")
}
# those that change parameters of the base itself
CHANGE_THE_BASE = ("norm", "bitfit", "full")
