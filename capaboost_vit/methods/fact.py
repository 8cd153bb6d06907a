"""FacT: the updates of all layers are squares of one decomposed tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, DROPOUT_HELP, TARGETS_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Fact(MaskedMethod):
    """FacT: y = base(x) + dropout(x) dW^T, dW = scale V S_l U for each square l of a weight, see `FactUpdate`.

    All layers share U and V. A square is a D x D block of a weight, D the width of the model; a model of L blocks has
    12 L. With form="tt" (tensor train) each square has its own S_l, with form="tk" (Tucker decomposition) one core
    tensor yields all S_l. ViT-B/16 has 61,440 parameters at rank 16 ("tt"), 86,528 at rank 32 ("tk"). Weights of
    another width, as in the stages of Swin, have their own U, V and core.

    As published there are no masks: the default is num_branches=1 with density=1. With masks (ours) each square has its
    own views of U and V.

    Source: FacT (AAAI 2023), arXiv 2212.03145; places, ranks (up to 16 and 32) and learning rate are published for
    ViT-B/16 on VTAB-1k, where scale is chosen for each task. Deviations: `usual_lr` is ours, for shorter runs than the
    published 100 epochs at 1e-3; dropout is on the input of the update and 0 by
    default (0.1 after S_l in the code); if a side is no multiple of the width, the last square is cut off (there an
    error).
    """

    name: ClassVar[str] = "fact"
    usual_lr: ClassVar[float] = 5e-3
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    form: str = option("tt", "tensor decomposition: tt (tensor train) or tk (Tucker)", choices=("tt", "tk"))
    rank: int = option(16, "rank of the update of each square", low=1)
    scale: float = option(1.0, "factor of the update", nonzero=True)
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(
        ("query", "key", "value", "attn_out", "mlp_in", "mlp_out"), TARGETS_HELP, compared=False
    )

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With its form, and a scale other than 1: `fact r16 tt`."""
        scale = f" scale {record['scale']:g}" if record.get("scale", 1.0) != 1 else ""
        return f"{super().label(record)} {record['form']}{scale}"

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
        """
        scaling = self.scale * self.scaling_of_masks()
        return core.fact_updates(
            model,
            self.targets,
            anatomy,
            self.rank,
            self.masking,
            form=self.form,
            scaling=scaling,
            dropout=self.dropout,
        )
