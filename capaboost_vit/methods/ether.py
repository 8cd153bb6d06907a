"""ETHER: a weight is reflected at learned hyperplanes."""

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
class Ether(Method):
    """ETHER: y = x H W^T + b, H block-diagonal with blocks I - 2 u u^T for unit vectors u; not masked.

    Each adapted weight has one vector, in `num_blocks` pieces. H is orthogonal, and its distance from the identity is
    constant, |H - I| = 2 for each block. u starts at random, so the model is NOT the base at step 0; `etherplus` starts
    as the base. There are no masks, as a masked vector gives a reflection at another hyperplane.

    Source: ETHER, arXiv 2405.20271. With one block it is PEFT's HRAConfig(r=1). Deviations: each block of H multiplies
    its block of inputs (the reshape of the reference code mixes them); there is no dropout (there it is on the whole
    input); u has no weight decay, as its length has no effect. Settings for images were not found: targets and number
    of blocks are those of its code.
    """

    name: ClassVar[str] = "ether"
    why_no_masks: ClassVar[str] = "a masked unit vector is none"
    starts_as_base: ClassVar[bool] = False
    usual_lr: ClassVar[float] = 5e-3
    num_blocks: int = option(1, "number of diagonal blocks; does not change the number of parameters", low=1)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)
    init_seed: int = option(0, INIT_SEED_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises:
            ValueError: a target that matches nothing, or a width that the number of blocks does not divide.
            TypeError: a target that is no linear layer, or has a weight of integers, which cannot be multiplied by.
        """

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            return core.ReflectionUpdate(
                in_features,
                1,
                num_blocks=self.num_blocks,
                paired=False,
                # kaiming_uniform(a=sqrt(5)); more blocks than inputs are refused there
                bound=max(in_features // self.num_blocks, 1) ** -0.5,
                init_seed=self.init_seed,
                path=path,
            )

        return core.dense_updates(model, self.targets, anatomy, make, reader=self.name)
