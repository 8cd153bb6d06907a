"""HiRA: a low-rank update that is multiplied, entry by entry, by the weight that it changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, DROPOUT_HELP, TARGETS_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Hira(MaskedMethod):
    """HiRA: y = base(x) + dropout(x) dW^T, dW = s W * sum_i (B * MB_i)(A * MA_i), an elementwise product with W.

    It has as many parameters as LoRA, and a rank of up to `rank` times that of W. The entries of W are small, so it
    needs a learning rate about ten times LoRA's; or an alpha (ours; PEFT has none, and s is 1), with which the head
    keeps its usual learning rate. Entries of W that are zero stay zero.

    As published there are no masks: the default is num_branches=1 with density=1. The rank is high already; it is not
    known whether masks help.

    Source: HiRA (ICLR 2025); forward pass, merged weights and initialization are those of PEFT's HiraConfig. Published
    for language models at rank 32; rank and targets here are LoRA's.
    """

    name: ClassVar[str] = "hira"
    usual_lr: ClassVar[float] = 1e-2
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    rank: int = option(8, "rank of one branch", low=1)
    alpha: float | None = option(None, "the update is scaled by alpha / rank; null: by 1, as in PEFT", nonzero=True)
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises:
            ValueError: a target that matches nothing.
            TypeError: a target that is no linear layer, or has a weight of integers, which cannot be multiplied by.
        """

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            scaling = 1.0 if self.alpha is None else self.alpha / self.rank
            return core.HadamardUpdate(
                core.LowRankBranch(in_features, out_features, self.rank, self.masking, scaling=scaling, path=path)
            )

        return core.dense_updates(model, self.targets, anatomy, make, self.dropout, reader="hira")
