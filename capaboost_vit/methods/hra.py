"""HRA: a weight is rotated by a chain of learned reflections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import INIT_SEED_HELP, TARGETS_HELP, Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Hra(Method):
    """HRA: y = x (W H_1 ... H_r)^T + b, H = I - 2 u u^T for unit vectors u; not masked.

    Each adapted weight has r vectors, half of LoRA's parameters if it is square. H_1 ... H_r is orthogonal, and the
    update of the weight has a rank of up to r. Vectors start in equal pairs, whose reflections cancel, so the model is
    the base at step 0. There are no masks, as a masked vector gives a reflection at another hyperplane.

    Source: HRA, arXiv 2405.17484; forward pass, gradients, merged weights and initialization are those of PEFT's
    HRAConfig. Deviations: an odd rank is refused (PEFT warns that the model is then not the base); there is no
    apply_GS, as the Gram-Schmidt process turns the rounding errors of equal pairs into unit vectors, and the model is
    then not the base; the paper's penalty does not exist here or in PEFT; the vectors have no weight decay, as their
    lengths have no effect. Settings for images were not found: rank is PEFT's, the targets are LoRA's.
    """

    name: ClassVar[str] = "hra"
    why_no_masks: ClassVar[str] = "a masked vector reflects at another hyperplane"
    usual_lr: ClassVar[float] = 5e-3
    rank: int = option(8, "number of reflections of a layer; even", low=2)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)
    init_seed: int = option(0, INIT_SEED_HELP, compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank % 2:
            raise ValueError(f"rank of method 'hra' must be even, as reflections start in pairs, got {self.rank}")

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises:
            ValueError: a target that matches nothing.
            TypeError: a target that is no linear layer, or has a weight of integers, which cannot be multiplied by.
        """

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            bound = (self.rank / 2) ** -0.5  # kaiming_uniform(a=sqrt(5)) of one vector of each pair
            return core.ReflectionUpdate(
                in_features, self.rank, paired=True, bound=bound, init_seed=self.init_seed, path=path
            )

        return core.dense_updates(model, self.targets, anatomy, make, reader=self.name)
