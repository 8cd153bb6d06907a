"""SSF: the outputs of the layers are scaled and shifted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Ssf(Method):
    """SSF: y = l * z + b for the output z of a layer; not masked.

    Each layer has a vector l of ones and a vector b of zeros, of its width. They merge into weight and bias. There are
    no masks, as a vector has no rank to raise.

    Source: arXiv 2210.08823; the default targets are those of the official code, 205,824 parameters for ViT-B/16.
    Deviation: l and b start from one and zero, so that the model is the base at step 0 (there from N(1, 0.02^2) and
    N(0, 0.02^2)).
    """

    name: ClassVar[str] = "ssf"
    why_no_masks: ClassVar[str] = "a vector has no rank to raise"
    timm_names: ClassVar[bool] = False
    targets: tuple[str, ...] = option(
        ("patch_embed", "query", "key", "value", "attn_out", "mlp_in", "mlp_out", "norm"),
        "roles or name patterns of linear layers, convolutions and norms",
        compared=False,
    )

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer.

        Raises:
            ValueError: a target that matches nothing, or a layer both as a whole and by its parts.
            TypeError: a target that is no linear layer, convolution, layer norm or group norm, or has no weight.
        """
        targets = self.targets
        if targets == Ssf.targets and "patch_embed" not in anatomy.roles:  # as in encoders of texts
            targets = targets[1:]
        for name, places in core.find_parts(model, targets, anatomy).items():
            base = core.get(model, name)
            layout = places[0].layout(_channels(core.unwrap(base), name))
            placed = core.device_and_dtype(base)
            scales = {p.site.part: core.Scale(layout.rows_of(p.site.part), shift=True).to(**placed) for p in places}
            yield name, core.Scaled(base, scales, layout)


def _channels(layer: nn.Module, name: str) -> int:
    """The width of what a layer gives out, where it is `weight (*) something + bias`."""
    from torch import Tensor, nn

    norms = (nn.LayerNorm, nn.GroupNorm)
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *norms)
    weight: Any = getattr(layer, "weight", None)
    scalable = isinstance(layer, layers) and isinstance(weight, Tensor) and not hasattr(layer, "act")
    if not scalable or (isinstance(layer, norms) and weight.dim() != 1):
        raise TypeError(
            "SSF needs linear layers, convolutions, and layer or group norms with a weight for each channel, but "
            f"{name!r} is a {core.kind_of(layer)}"
        )
    return core.shape_of(layer)[0] if core.is_linear(layer) else len(weight)  # packed weights have other shapes
