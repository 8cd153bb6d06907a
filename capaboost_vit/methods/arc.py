"""ARC: one symmetric low-rank map in front of the layers of a place, re-composed by vectors of each block."""

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
class Arc(MaskedMethod):
    """ARC (Adapter Re-Composing): y = base(x + U diag(s) U^T x + b) for the first layers of attention and MLP.

    All blocks share one U for each place (attention, MLP); each block has its own s and b. There is no activation, so
    the adapter merges into weight and bias of these layers. ViT-B/16 has 96,432 parameters, with the attention alone
    48,216. Places with another width, as in the stages of Swin, have their own U. Layers with the same input (query,
    key and value of BERT, the two layers of a gated MLP) share one adapter; if one of them has no bias, the adapter has
    no b.

    As published there are no masks: the default is num_branches=1 with density=1. With masks (ours) each block has its
    own views of U, with the same masks for U and U^T, so that its map stays symmetric.

    Source: ARC (NeurIPS 2023), arXiv 2310.06234; bottleneck, places and learning rate are those of its code.
    Deviations: s starts at zero in front of the MLP, too (there from Xavier's uniform), so that the model is the base
    at step 0; dropout on the hidden units is 0 by default (there 0.1); s and b have no weight decay.
    """

    name: ClassVar[str] = "arc"
    usual_lr: ClassVar[float] = 1e-2
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    bottleneck: int = option(50, "width of the adapter", low=1)
    dropout: float = option(0.0, "dropout on the hidden units", low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(
        ("query", "key", "value", "mlp_in"),
        "roles or name patterns of linear layers; for fused ones all parts",
        compared=False,
    )

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer.

        Raises:
            ValueError: a target that matches nothing, or some parts of a fused layer without the others.
            TypeError: a target that is no linear layer.
        """
        owners: dict[tuple[str, int], core.SymmetricAdapter] = {}

        def make(features: int, bias: bool, path: str) -> nn.Module:
            adapter = core.SymmetricAdapter(
                features, self.bottleneck, self.masking, bias=bias, dropout=self.dropout, path=path
            )
            place = core.pattern_of(path.rpartition(".")[0])  # the layers of one module may have a name each
            owner = owners.setdefault((place, features), adapter)
            if owner is not adapter:
                adapter.share(owner)
            return adapter

        return core.adapters_in_front(model, self.targets, anatomy, make, self.name)
