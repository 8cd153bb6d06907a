"""A linear layer with CapaBoost adapters, as PEFT's tuners have them: several, switched, merged and taken off."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn

from ..core.adapted_linear import AdaptedLinear
from ..core.base import device_and_dtype, is_linear, is_transposed, kind_of, shape_of, why_not_dense
from ..core.branch import LowRankBranch
from ..core.quantised import prepare_backward
from ..core.tied import TiedMaskedWeight
from .config import CapaBoostConfig


class CapaBoostLayer(nn.Module, BaseTunerLayer):
    """`y = base_layer(x)` and the updates of the active adapters, each an `AdaptedLinear` around the layer.

    The adapters are in at least float32, whatever the base is.

    Args:
        base_layer: the linear layer, quantised or not.
        path: its name within the model: the key of masks and start values.
        quantization: what PEFT needs to quantise a merged weight again.

    Raises TypeError for a layer that is not linear.
    """

    adapter_layer_names = ("capaboost_branches",)
    other_param_names = ("capaboost_adapted",)

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: CapaBoostConfig, path: str, **quantization: Any
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        base = self.get_base_layer()
        if not is_linear(base):
            raise TypeError(f"CapaBoost needs linear layers, but {path!r} is a {kind_of(base)}: do not target it")
        self.out_features, self.in_features = shape_of(base)
        self.quantization_backend = resolve_quantization_backend(base, **quantization)
        prepare_backward(base)
        self.capaboost_branches = nn.ModuleDict()
        # no ModuleDict: their modules are those of this layer, which has them by the names that PEFT expects
        self.capaboost_adapted: dict[str, AdaptedLinear] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, path)

    def update_layer(self, adapter_name: str, config: CapaBoostConfig, path: str) -> None:
        """Adds an adapter."""
        method = config.method()
        branch = LowRankBranch(
            self.in_features,
            self.out_features,
            method.rank,
            method.masking,
            scaling=method.scaling(),
            dropout=method.dropout,
            path=f"{path}.all",
        )
        for weight in (branch.down, branch.up):
            _keep_digest_for_mask(weight)
        self.capaboost_branches[adapter_name] = branch
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self._adapted(adapter_name)  # now, not in the first pass, which torch.compile may be tracing
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """To the base's device; unlike PEFT's own, which then rounds float32 to a base of bfloat16."""
        branch = self.capaboost_branches[adapter_name]
        if not any(parameter.is_meta for parameter in branch.parameters()):  # a file is to be read into these
            target = device_and_dtype(self.get_base_layer())
            branch.to(device or target["device"], target["dtype"])

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x)
        names = [name for name in self.active_adapters if name in self.capaboost_branches]
        if not names:
            return self.base_layer(x)
        y = self._adapted(names[0])(x)
        for name in names[1:]:
            y = (y + self.capaboost_branches[name](x)).to(y.dtype)
        return y

    def _adapted(self, adapter_name: str) -> AdaptedLinear:
        """The layer with one adapter, made anew where a merge has replaced the base."""
        adapted = self.capaboost_adapted.get(adapter_name)
        if adapted is None or adapted.base is not self.base_layer:
            branch = cast(LowRankBranch, self.capaboost_branches[adapter_name])
            adapted = self.capaboost_adapted[adapter_name] = AdaptedLinear(self.base_layer, {"all": branch})
        return adapted

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds the updates of adapters, by default the active ones, to the weight of the base.

        Raises ValueError with `safe_merge` if they are not finite.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.capaboost_branches:
                delta = self.get_delta_weight(name)
                if safe_merge and not delta.isfinite().all():
                    raise ValueError(f"cannot merge adapter {name!r}: its update is not finite")
                self._add_to_base(delta)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Takes the updates off again, by subtraction: up to rounding, which in a quantised base is coarse."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            self._add_to_base(-self.get_delta_weight(self.merged_adapters.pop()))

    def cannot_merge(self) -> str | None:
        """Why an update cannot be written into the weight of the base, in words; None where it can."""
        base = self.get_base_layer()
        if self.quantization_backend is not None:
            return (
                None if self.quantization_backend.supports_merge else f"a {type(base).__name__} is quantised for good"
            )
        if "weight" not in base._parameters and "weight" not in base._buffers:  # parametrised: PEFT writes to a copy
            return f"the weight of a {type(base).__name__} is computed, so an update would be lost: keep the adapter"
        return why_not_dense(base)

    @torch.no_grad()
    def _add_to_base(self, delta: Tensor) -> None:
        weight = self.get_base_weight()
        self.set_base_weight((weight.to(torch.promote_types(weight.dtype, delta.dtype)) + delta).to(weight.dtype))

    @torch.no_grad()
    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """The update of an adapter, in the shape of the base's weight."""
        factors = cast(LowRankBranch, self.capaboost_branches[adapter_name]).linear_factors()
        assert factors is not None  # no gate, no activation
        down, up = factors
        return (up @ down).t() if is_transposed(self.get_base_layer()) else up @ down

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Yes: it is an update of rank num_branches * r."""
        return True

    def __repr__(self) -> str:
        return f"capaboost.{super().__repr__()}"

    def extra_repr(self) -> str:
        """Which kind of quantised base there is."""
        return quantization_extra_repr(self)


def _keep_digest_for_mask(weight: TiedMaskedWeight) -> None:
    """Takes the masks, which the seed gives again, out of a weight's state, and puts their digest in.

    A state with another digest, or none, is refused when it is loaded.
    """
    if weight.mask is not None:
        weight.register_buffer("mask", weight.mask, persistent=False)
        digest = hashlib.sha256(weight.mask.numpy().tobytes()).digest()
        weight.register_buffer("mask_digest", torch.tensor(list(digest), dtype=torch.uint8))
        weight.register_load_state_dict_pre_hook(_check_masks)


def _check_masks(weight: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Raises ValueError if the state of a weight was stored beside other masks."""
    if f"{prefix}weight" not in state:  # of another adapter
        return
    stored, own = state.get(f"{prefix}mask_digest"), cast(Tensor, weight.mask_digest)
    if stored is None or not torch.equal(stored.to(own.device), own):
        found = "are not those" if stored is not None else "cannot be compared with those"
        raise ValueError(
            f"the masks of {weight.path!r} {found} that the adapter was trained with: load it with its own r, "
            "num_branches, density, pattern, coefficients and mask_seed, on a model whose layers have the same names"
        )
