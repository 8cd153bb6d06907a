"""BOFT: a weight is rotated by products of sparse orthogonal matrices, and its rows are scaled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import TARGETS_HELP, Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Boft(Method):
    """BOFT: y = x (diag(s) W Q^T)^T + b, Q a product of `n_butterfly_factor` block-diagonal rotations; not masked.

    The blocks of each factor are orthogonal matrices of `block_size` inputs. With one factor it is block-diagonal OFT;
    each further factor couples pairs of blocks of the factor before it. The update of the weight has full rank. There
    are no masks, as a masked rotation is no rotation.

    Source: BOFT, arXiv 2311.06243; forward pass, gradients, merged weights and initialization are those of PEFT's
    BOFTConfig, which supports several factors on GPUs only. Left out: boft_dropout, and boft_block_num, another way to
    give block_size. Settings for images were not found: block_size and factors are PEFT's, the targets are LoRA's.
    """

    name: ClassVar[str] = "boft"
    why_no_masks: ClassVar[str] = "a masked rotation is none"
    usual_lr: ClassVar[float] = 5e-3
    block_size: int = option(4, "number of inputs of a block", low=2)
    n_butterfly_factor: int = option(1, "number of butterfly factors, each with as many parameters", low=1, high=16)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_butterfly_factor > 1 and self.block_size % 2:
            raise ValueError(
                f"n_butterfly_factor={self.n_butterfly_factor} exchanges halves of blocks, so block_size of method "
                f"'boft' must be even, got {self.block_size}"
            )

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises:
            ValueError: a target that matches nothing, or a width that the blocks do not divide.
            TypeError: a target that is no linear layer, or has a weight of integers, which cannot be multiplied by.
        """
        run = self.block_size * 2 ** (self.n_butterfly_factor - 1)

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            if in_features % run:
                raise ValueError(
                    f"block_size * 2^(n_butterfly_factor - 1) of method 'boft' is {run}, which does not divide the "
                    f"{in_features} inputs of {path!r}: take a smaller block_size or n_butterfly_factor"
                )
            return core.ButterflyUpdate(in_features, out_features, self.block_size, self.n_butterfly_factor)

        return core.dense_updates(model, self.targets, anatomy, make, reader=self.name)
