"""RandLoRA: an update of full rank, a sum of products of frozen random matrices that learned vectors weight."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import DROPOUT_HELP, TARGETS_HELP, Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Randlora(Method):
    """RandLoRA: y = base(x) + dropout(x) dW^T, dW = (alpha / rank) sum_j B_j diag(l_j) A diag(g_j); not masked.

    A and B_j are random, frozen and shared by all layers; they are functions of `projection_prng_key` and not stored.
    The sum has as many terms as full rank needs, so a LARGER rank has fewer parameters: for query and value of ViT-B
    460,800 at rank 32, and 295,200, about as many as LoRA, at rank 52. There are no masks, as no matrix is trained.

    Source: RandLoRA, arXiv 2502.00987; forward pass, gradients, merged weights and initialization are those of PEFT's
    RandLoraConfig with the same A and B. Deviations: A and B are drawn with unit variance by numpy (PEFT draws them in
    low precision by torch and divides them by their standard deviation); sparse bases are left out, as they cost the
    same.
    """

    name: ClassVar[str] = "randlora"
    why_no_masks: ClassVar[str] = "no matrix is trained that could be masked"
    usual_lr: ClassVar[float] = 1e-3
    rank: int = option(32, "rank of one product; a larger rank has fewer parameters", low=1)
    alpha: float = option(640.0, "the update is scaled by alpha / rank; published: 20 times the rank", nonzero=True)
    projection_prng_key: int = option(0, "seed of A and B, independent of --seed")
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
        """
        shapes = core.part_shapes(model, self.targets, anatomy)
        width, height = max(min(shape) for shape in shapes), max(max(shape) for shape in shapes)
        bound, key = math.sqrt(3), self.projection_prng_key  # of unit variance
        down = core.RandomMatrix((self.rank, width), bound, key, "randlora.A")
        up = core.RandomMatrix((height, self.rank, math.ceil(width / self.rank)), bound, key, "randlora.B")

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            return core.BasisUpdate(in_features, out_features, down, up, self.alpha / self.rank)

        yield from core.dense_updates(model, self.targets, anatomy, make, self.dropout)
