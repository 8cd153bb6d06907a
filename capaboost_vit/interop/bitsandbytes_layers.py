"""bitsandbytes: its 4-bit and 8-bit linear layers as frozen bases."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.base import dense
from ..core.quantised import prepare_backward


def register(bitsandbytes: Any) -> None:
    """Registers the layers of the imported package: their weights as floating-point numbers, and their backward pass.

    It is called when bitsandbytes and capaboost_vit are both imported.
    """
    from_packed = bitsandbytes.nn.modules._convert_weight_packed_for_cpu_inverse

    def prepare_4bit(layer: Any) -> None:
        """Takes the weight out of the layout for CPUs with AVX512-BF16, and keeps the layer from that layout.

        A layer enters it by its first evaluation and stays in it in training, where the product of this layout has no
        gradient: without a bias a silent zero, with one a RuntimeError (bitsandbytes 0.50.2).
        """
        layer.support_avx512bf16_for_cpu = False
        weight = layer.weight
        if getattr(weight.quant_state, "packing_format_for_cpu", False):
            weight.data, weight.quant_state = from_packed(weight.data, weight.quant_state)

    def dense_4bit(layer: Any) -> Tensor:
        weight = layer.weight
        if weight.quant_state is None:  # not quantised yet, which its first move to a device does
            return weight
        prepare_4bit(layer)  # the packed bytes would be read in a wrong order
        return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)

    def dense_8bit(layer: Any) -> Tensor:
        """`W_ij = c_ij s_i / 127` for the bytes c and the scales s, each row's largest absolute value."""
        weight, state = layer.weight, layer.state
        scales = weight.SCB if state.SCB is None else state.SCB  # the first forward pass moves them
        if scales is None:
            return weight
        codes = weight.data if state.CB is None else state.CB
        return codes.float() * (scales.float() / 127).unsqueeze(1)

    prepare_backward.register(bitsandbytes.nn.Linear4bit, prepare_4bit)
    dense.register(bitsandbytes.nn.Linear4bit, dense_4bit)
    dense.register(bitsandbytes.nn.Linear8bitLt, dense_8bit)
