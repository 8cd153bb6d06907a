"""GraLoRA: the change of a weight is a grid of blocks, each of low rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import DROPOUT_HELP, INIT_SEED_HELP, TARGETS_HELP, Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Gralora(Method):
    """GraLoRA: y = base(x) + dropout(x) dW^T, dW a grid of blocks (alpha / rank) B_jn A_nj, j, n = 1 .. k; not masked.

    It has as many parameters as LoRA. Each block has rank r / k, and dW a rank of up to k r. There are no masks, as the
    grid is itself a masked LoRA: k^2 branches whose masks are fixed blocks without overlap.

    Source: GraLoRA, arXiv 2505.20355; forward pass, gradients, merged weights and initialization are those of PEFT's
    GraloraConfig without hybrid_r, a plain LoRA beside the grid. PEFT recommends k = 2 up to rank 32. Settings for
    images were not found: rank, alpha and targets are LoRA's.
    """

    name: ClassVar[str] = "gralora"
    why_no_masks: ClassVar[str] = "it is a masked LoRA already, whose masks are blocks"
    usual_lr: ClassVar[float] = 5e-3
    rank: int = option(
        8,
        "rank of a LoRA of the same size, a multiple of k; the update has rank up to k * rank",
        low=1,
    )
    gralora_k: int = option(2, "k: number of blocks along each side of the weight", low=1)
    alpha: float = option(8.0, "the update is scaled by alpha / rank", nonzero=True)
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)
    init_seed: int = option(0, INIT_SEED_HELP, compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank % self.gralora_k:
            raise ValueError(
                f"rank of method 'gralora' must be a multiple of gralora_k={self.gralora_k}, got {self.rank}"
            )

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises:
            ValueError: a target that matches nothing, or a width that k does not divide.
            TypeError: a target that is no linear layer.
        """

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            return core.BlockUpdate(
                in_features,
                out_features,
                self.rank,
                self.gralora_k,
                scaling=self.alpha / self.rank,
                init_seed=self.init_seed,
                path=path,
            )

        return core.dense_updates(model, self.targets, anatomy, make, self.dropout)
