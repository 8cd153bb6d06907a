"""NEAT (PEANuT): the change of a weight is what an adapter makes of its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, TARGETS_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Neat(MaskedMethod):
    """NEAT: y = x (W + dW)^T + b, dW = scaling * sum_i (B * MB_i) g(relu((A * MA_i) W)), g of `hidden_depth`.

    An adapter whose inputs are the columns of W. It has 2 r out (+ 2 hidden_depth r^2) parameters, as many as LoRA for
    square layers, and the rank is not higher: r at most, or num_branches r with masks. W is always the weight of the
    base, without dW.

    As published there are no masks: the default is num_branches=1 with density=1. It is not known whether masks help.

    Source: NEAT, arXiv 2410.01870, renamed PEANuT; forward pass, gradients, merged weights and initialization are those
    of PEFT's PeanutConfig with act_fn="relu". hidden_depth is PEFT's depth (timm's models have an argument of that
    name); hidden_depth=2 is depth 6 in the authors' code. Rank, targets and scaling are those of that code for ViT-B,
    with learning rates of 5e-3 to 1e-2.
    """

    name: ClassVar[str] = "neat"
    usual_lr: ClassVar[float] = 1e-2
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    rank: int = option(7, "rank of one branch", low=1)
    hidden_depth: int = option(
        0, "number of further pairs of layers (rank x rank, with residuals) between A and B", low=0
    )
    scaling: float = option(1.0, "factor of the update", nonzero=True)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With its depth, where there is one."""
        label = super().label(record)
        return f"{label} depth {record['hidden_depth']}" if record.get("hidden_depth") else label

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises:
            ValueError: a target that matches nothing.
            TypeError: a target that is no linear layer, or has a weight of integers, which cannot be multiplied by.
        """

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            factors = core.LowRankBranch(
                out_features, out_features, self.rank, self.masking, scaling=self.scaling, path=path
            )
            return core.NonlinearUpdate(factors, self.hidden_depth, init_seed=self.init_seed, path=path)

        return core.dense_updates(model, self.targets, anatomy, make, reader=self.name)
