"""IA3: learned vectors that scale keys, values and the hidden units of the MLP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Ia3(Method):
    """IA3: y = l * (W x + b) for layers whose outputs are scaled, y = W (l * x) + b where inputs are; not masked.

    Each layer has one learned vector l of its width, which starts at one. The inputs of the MLP's second layer are its
    hidden units. There are no masks, as a vector has no rank to raise. If a model reads the weight of a layer and keeps
    its bias elsewhere (timm's BEiT and EVA), l multiplies only W x. Source: arXiv 2205.05638.
    """

    name: ClassVar[str] = "ia3"
    why_no_masks: ClassVar[str] = "a vector has no rank to raise"
    usual_lr: ClassVar[float] = 2e-2
    timm_names: ClassVar[bool] = False
    targets: tuple[str, ...] = option(
        ("key", "value"), "roles or name patterns of layers whose outputs are scaled", compared=False
    )
    inputs: tuple[str, ...] = option(("mlp_out",), "roles or name patterns of linear layers whose inputs are scaled")

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer.

        Raises:
            ValueError: a target that matches nothing, a layer both as a whole and by its parts, or among both kinds, or
                a part of a fused layer among the inputs.
            TypeError: a target without linear layers, whose width cannot be told.
        """
        outputs = core.find_parts(model, self.targets, anatomy)
        entered = core.find_parts(model, self.inputs, anatomy)
        for name in dict.fromkeys([*outputs, *entered]):
            base = core.get(model, name)
            if name in outputs and name in entered:
                raise ValueError(f"{name!r} is named by targets and by inputs: choose one")
            columns, rows = core.features(base, name)
            if name in entered:
                if entered[name][0].site.part != "all":
                    raise ValueError(f"inputs name a part of {name!r}, whose input is that of all parts")
                layout, scales, side = core.layout_of(columns, ("all",)), {"all": core.Scale(columns)}, "input"
            else:
                layout, side = outputs[name][0].layout(rows), "output"
                scales = {p.site.part: core.Scale(layout.rows_of(p.site.part)) for p in outputs[name]}
            placed = {part: scale.to(**core.device_and_dtype(base)) for part, scale in scales.items()}
            yield name, core.Scaled(base, placed, layout, side)
