"""ETHER+: relaxed reflections on both sides of a weight."""

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
class Etherplus(Method):
    """ETHER+: y = x (H_out W H_in)^T + b, both H of diagonal blocks I - u u^T + v v^T of unit vectors; not masked.

    Each side of an adapted weight has two vectors, in `num_blocks` pieces. v starts as -u, so the model is the base at
    step 0, and |H - I| is at most 2 for each block. There are no masks, as a masked vector would be normalised to unit
    length again.

    Source: ETHER, arXiv 2405.20271. Deviations: those of `ether`. Settings for images were not found: targets, sides
    and number of blocks are those of the paper and its code.
    """

    name: ClassVar[str] = "etherplus"
    why_no_masks: ClassVar[str] = "a masked unit vector is none"
    usual_lr: ClassVar[float] = 5e-3
    num_blocks: int = option(1, "number of diagonal blocks; does not change the number of parameters", low=1)
    two_sided: bool = option(True, "transform the outputs, too, by H_out; false: only the inputs")
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)
    init_seed: int = option(0, INIT_SEED_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises:
            ValueError: a target that matches nothing, or a width that the number of blocks does not divide.
            TypeError: a target that is no linear layer, or has a weight of integers, which cannot be multiplied by.
        """

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            return core.RelaxedReflectionUpdate(
                in_features,
                out_features,
                num_blocks=self.num_blocks,
                two_sided=self.two_sided,
                init_seed=self.init_seed,
                path=path,
            )

        return core.dense_updates(model, self.targets, anatomy, make, reader=self.name)
