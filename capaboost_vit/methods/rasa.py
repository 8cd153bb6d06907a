"""RaSA: LoRA of which a few ranks of each layer are pooled, and used by all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, DROPOUT_HELP, TARGETS_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Rasa(MaskedMethod):
    """RaSA: y = base(x) + dropout(x) dW^T, dW = [B, B_s] diag(c) [A; A_s], see `SharedRanksUpdate`.

    Each of the L layers of one kind (all queries, say) gives k of its r ranks to a pool A_s, B_s of k L ranks that all
    of them use. So each layer has r - k + k L ranks, with LoRA's parameters and the coefficients c. c starts at alpha /
    (2 (r - k)) for private ranks and alpha / (2 k L) for shared ones. With k = 0, where the authors' code divides by
    zero, c is learned and starts at LoRA's alpha / r (ours).

    As published there are no masks: the default is num_branches=1 with density=1. With masks (ours) each layer has its
    own views of the shared factors, too.

    Source: RaSA (ICLR 2025). Published for language models (r 16, k 2, alpha 32): here rank, alpha, targets and
    learning rate are LoRA's, and k is r / 8 as there. Deviations: layers of different shapes are supported, each shape
    with its own pool; it merges. The published initialization of A was not found, so it is LoRA's.
    """

    name: ClassVar[str] = "rasa"
    usual_lr: ClassVar[float] = 5e-3  # LoRA's, which it is for k = 0 but for c
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    rank: int = option(8, "r: rank of a layer's own factors, shared ones included", low=1)
    k: int = option(
        1, "number of these ranks that are shared with all layers of the same kind; below rank", low=0, compared=False
    )
    alpha: float = option(8.0, "scale of the coefficients' initial values", compared=False, nonzero=True)
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k >= self.rank:
            raise ValueError(f"k of method 'rasa' must be below its rank, got k={self.k} and rank={self.rank}")

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the ranks that are shared: `rasa r8 k1`."""
        return f"{super().label(record)} k{record['k']}"

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
        """
        found = core.matrices_of(model, self.targets, anatomy)
        layers = Counter(matrix.kind for matrix in found.values())
        owners: dict[str, core.SharedRanksUpdate] = {}

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            kind = found[path].kind
            private, shared = self.rank - self.k, self.k * layers[kind]
            factor = self.scaling_of_masks()
            half = self.alpha / 2 * factor
            scalings = (half / private, half / shared) if shared else (self.alpha / self.rank * factor, 0.0)
            update = core.SharedRanksUpdate(
                in_features, out_features, private, shared, self.masking, scalings=scalings, path=path
            )
            owner = owners.setdefault(kind, update)
            if owner is not update:
                update.share(owner)
            return update

        return core.dense_updates(model, self.targets, anatomy, make, self.dropout)
