"""VeRA: two learned vectors around two frozen random matrices that all layers share."""

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
class Vera(Method):
    """VeRA: y = base(x) + dropout(x) dW^T, dW = diag(b) B diag(d) A, A and B random, frozen and shared; not masked.

    The parameters of an adapted weight are two vectors, b (zero at first) and d. A and B are functions of
    `projection_prng_key` and not stored, so files are small. There are no masks, as no matrix is trained.

    Source: VeRA, arXiv 2310.11454; forward pass, gradients, merged weights and initialization are those of PEFT's
    VeraConfig with the same A and B. Deviations: A and B are drawn by numpy, whose streams never change, so the same
    key gives other matrices than in PEFT; the parts of a fused layer have their own vectors.
    """

    name: ClassVar[str] = "vera"
    why_no_masks: ClassVar[str] = "no matrix is trained that could be masked"
    usual_lr: ClassVar[float] = 3e-2
    rank: int = option(256, "rank of the frozen factors A and B", low=1)
    d_initial: float = option(0.1, "initial value of d (b starts at zero)", compared=False, nonzero=True)
    projection_prng_key: int = option(0, "seed of A and B, independent of --seed")
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
        """
        rows, columns = zip(*core.part_shapes(model, self.targets, anatomy), strict=True)
        key = self.projection_prng_key
        # kaiming_uniform, of the largest layer
        down = core.RandomMatrix((self.rank, max(columns)), math.sqrt(6 / max(columns)), key, "vera.A")
        up = core.RandomMatrix((max(rows), self.rank), math.sqrt(6 / self.rank), key, "vera.B")

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            return core.VectorUpdate(in_features, out_features, down, up, self.d_initial)

        yield from core.dense_updates(model, self.targets, anatomy, make, self.dropout)
