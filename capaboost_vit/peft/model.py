"""The tuner: it puts CapaBoost layers into a model, and is registered with PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    get_quantization_kwargs,
    register_peft_method,
)
from torch import nn

from ..core.inject import wrappers
from .config import NAME, CapaBoostConfig
from .layer import CapaBoostLayer


class CapaBoostModel(BaseTuner):
    """A model whose target modules are CapaBoost layers; `get_peft_model` makes it."""

    prefix = "capaboost_"
    tuner_layer_cls = CapaBoostLayer
    target_module_mapping = cast("dict[str, list[str]]", TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        for name, wrapper in wrappers(model):
            raise ValueError(f"{name!r} carries {wrapper.adds}, which PEFT would freeze: merge or detach it first")

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        assert isinstance(peft_config, CapaBoostConfig)
        path = current_key.removeprefix("_orig_mod.")  # of a compiled model
        if isinstance(target, CapaBoostLayer):
            target.update_layer(adapter_name, peft_config, path)
            return
        layer = CapaBoostLayer(target, adapter_name, peft_config, path, **get_quantization_kwargs(self))
        if adapter_name not in self.active_adapters:  # one that is added beside others is not trained yet
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        layers = {name: layer for name, layer in self.model.named_modules() if isinstance(layer, CapaBoostLayer)}
        for name, layer in layers.items():  # before the first one is merged
            if reason := layer.cannot_merge():
                raise ValueError(f"cannot merge {name!r}: {reason}")
        if any(layer.quantization_backend is not None for layer in layers.values()):
            warnings.warn("merged weights are quantised again, which rounds them once more", stacklevel=3)

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:  # PEFT would drop it without a word
            raise ValueError(
                "CapaBoost adapters cannot be chosen for each example: call set_adapter, without adapter_names"
            )
        yield

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The key in a file, where the adapter has no name: an adapter is a module with modules of its own in it."""
        branches = CapaBoostLayer.adapter_layer_names[0]
        inside = f".{branches}.{adapter_name}."
        if inside in key:
            return key.replace(inside, f".{branches}.")
        return super()._remove_adapter_name_from_key(key, adapter_name)


register_peft_method(name=NAME.lower(), config_cls=CapaBoostConfig, model_cls=CapaBoostModel)
