"""SNELL: an update whose entries are distances between learned points, one for each row and column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import DROPOUT_HELP, INIT_SEED_HELP, TARGETS_HELP, Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Snell(Method):
    """SNELL: y = base(x) + dropout(x) dW^T, dW_ij = 0.1 (|p_i - q_j| - |p'_i - q'_j|) minus its start; not masked.

    Row i of the weight has learned points p_i, p'_i, and column j learned points q_j, q'_j: as many parameters as LoRA,
    and an update of full rank. With sparsity 0 it is what its authors call KLoRA; with a larger value that share of the
    entries of dW, the smallest ones, is zero, see `KernelUpdate`. There are no masks: a sum of kernels of masked points
    fits matrices worse than one kernel, whose rank is full already.

    Source: arXiv 2411.01800. Deviations: the start is subtracted, so that the model is the base at step 0;
    start="paper" does not subtract it. The targets are LoRA's and dropout is 0; the authors adapt all six linear layers
    of a block with dropout 0.1, choose the sparsity for each task, and train the class token, too.
    """

    name: ClassVar[str] = "snell"
    why_no_masks: ClassVar[str] = "its update is of full rank already, and masked ones fit worse"
    usual_lr: ClassVar[float] = 1e-2
    rank: int = option(8, "number of coordinates of a point; even", low=2)
    sparsity: float = option(0.0, "fraction of the update's entries that are zero; 0: KLoRA", low=0, below=1)
    sparsifier: str = option(
        "paper",
        "how the entries are set to zero: by the paper's equation 5, or as in its code",
        choices=("paper", "code"),
    )
    start: str = option(
        "base",
        "model at step 0: base (the base model), or paper (with the kernel's initial update)",
        choices=("base", "paper"),
    )
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)
    # compared: the start that is subtracted is a function of it, and not in the file
    init_seed: int = option(0, INIT_SEED_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank % 2:
            raise ValueError(f"rank of method 'snell' must be even, as it makes two halves, got {self.rank}")

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With its sparsity, which is published for each task, and the start that is not the base."""
        words = [super().label(record)]
        if record.get("sparsity"):
            words.append(f"sparsity {record['sparsity']:g} ({record['sparsifier']})")
        if record.get("start") == "paper":
            words.append("from the paper's start")
        return " ".join(words)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
        """

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            return core.KernelUpdate(
                in_features,
                out_features,
                self.rank,
                subtract_start=self.start == "base",
                sparsity=self.sparsity,
                sparsifier=self.sparsifier,
                init_seed=self.init_seed,
                path=path,
            )

        return core.dense_updates(model, self.targets, anatomy, make, self.dropout)
