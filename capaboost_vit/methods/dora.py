"""DoRA: a low-rank update of the direction of each row of a weight, and a learned length of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, DROPOUT_HELP, TARGETS_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class Dora(MaskedMethod):
    """DoRA: y = base(x) + dropout(x) (W' - W)^T, W' = m V / |V| row by row, V = W + s sum_i (B * MB_i)(A * MA_i).

    s is alpha / rank. The parameters are those of LoRA, and a length m for each row, which starts as |W|. |V| is a
    constant of the backward pass.

    As published there are no masks: the default is num_branches=1 with density=1. Masks apply to the low-rank update of
    the direction; it is not known whether they help.

    Source: DoRA, arXiv 2402.09353; forward pass, gradients, merged weights and initialization are those of PEFT's
    LoraConfig(use_dora=True). Settings for images were not found: rank, alpha and targets are LoRA's.
    """

    name: ClassVar[str] = "dora"
    usual_lr: ClassVar[float] = 5e-3
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    rank: int = option(8, "rank of one branch", low=1)
    alpha: float = option(8.0, "the update is scaled by alpha / rank", nonzero=True)
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises:
            ValueError: a target that matches nothing.
            TypeError: a target that is no linear layer, or has a weight of integers, whose rows have no length.
        """

        def make(weight: Callable[[], Tensor], in_features: int, out_features: int, path: str) -> nn.Module:
            factors = core.LowRankBranch(
                in_features, out_features, self.rank, self.masking, scaling=self.alpha / self.rank, path=path
            )
            return core.MagnitudeUpdate(factors, weight())

        return core.dense_updates(model, self.targets, anatomy, make, self.dropout, reader="dora")
