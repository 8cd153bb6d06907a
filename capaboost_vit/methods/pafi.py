"""PaFi: the smallest entries of the weights are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import DROPOUT_HELP, TARGETS_HELP, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class Pafi(Method):
    """PaFi: W + dW, where dW is zero except for the entries with the smallest |W|, which do not depend on the task.

    `fraction` of the entries of each weight are trained. 0.02 of query and value are 283,104 parameters for ViT-B,
    about as many as LoRA's at rank 8. A file stores the values and their positions. CapaBoost's masks are not used, as
    dW has full rank already.

    Source: PaFi (ACL 2023), arXiv 2305.16742, whose text was not available: the fraction, the adapted weights, and
    whether the smallest entries are those of each weight (as here) or of all weights are not known. Deviation: weight
    decay pulls dW to zero, and so an entry to its value in the base.
    """

    name: ClassVar[str] = "pafi"
    why_no_masks: ClassVar[str] = "its update is of full rank already"
    timm_names: ClassVar[bool] = False
    fraction: float = option(
        0.02, "fraction of the entries of each weight that is trained", above=0, high=1, compared=False
    )
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, or a fraction of less than one entry, and TypeError for a
        target that is no linear layer, or has a weight of integers.
        """

        def make(weight: Callable[[], Tensor], in_features: int, out_features: int, path: str) -> nn.Module:
            count = round(self.fraction * in_features * out_features)
            if count < 1:
                entries = in_features * out_features
                raise ValueError(f"fraction {self.fraction:g} of the {entries} entries of {path} is none: say more")
            return core.SparseUpdate(weight(), count)

        return core.dense_updates(model, self.targets, anatomy, make, self.dropout, reader="pafi")

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the share that is trained."""
        return f"{super().label(record)} {record['fraction']:g}"
