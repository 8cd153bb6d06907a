"""RepAdapter: a linear bottleneck in front of attention and MLP, which merges into their first layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Repadapter(MaskedMethod):
    """RepAdapter: y = base(x + scale [sum_i (B * MB_i) ((A * MA_i) x + a) + b]) for the first layers of a sub-layer.

    There is no activation, so the adapter merges into weight and bias of these layers: the fused qkv and the MLP's
    first layer. ViT-B/16 has 239,808 parameters. B is block-diagonal with `groups` blocks. Layers with the same input
    (query, key and value of BERT, the two layers of a gated MLP) share one adapter; if one of them has no bias, the
    adapter has no biases.

    As published there are no masks: the default is num_branches=1 with density=1.

    Source: RepAdapter, arXiv 2302.08106; bottleneck, groups and scale are those of its code for ViT-B. Deviations:
    dropout on the hidden units is 0 by default (there 0.1); groups=1 merges, too. Its learning rate was not found;
    `usual_lr` is measured.
    """

    name: ClassVar[str] = "repadapter"
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    bottleneck: int = option(8, "width of the adapter", low=1)
    groups: int = option(2, "number of groups of the grouped up-projection", low=1)
    scale: float = option(1.0, "factor of the adapter's output", nonzero=True)
    dropout: float = option(0.0, "dropout on the hidden units", low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(
        ("query", "key", "value", "mlp_in"),
        "roles or name patterns of linear layers; for fused ones all parts",
        compared=False,
    )

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer.

        Raises:
            ValueError: a target that matches nothing, some parts of a fused layer without the others, or groups that do
                not divide the bottleneck or a width.
            TypeError: a target that is no linear layer.
        """

        def make(features: int, bias: bool, path: str) -> nn.Module:
            return core.FrontAdapter(
                features,
                self.bottleneck,
                self.groups,
                self.masking,
                scaling=self.scale * self.scaling_of_masks(),
                bias=bias,
                dropout=self.dropout,
                path=path,
            )

        return core.adapters_in_front(model, self.targets, anatomy, make, self.name)
