"""Aurora: the updates of all matrices are slices of one tensor, by mode approximation."""

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
class Aurora(MaskedMethod):
    """Aurora: y = base(x) + dropout(x) dW^T, dW_k = V diag(c * p_k) U for each square k of a weight, see `FactUpdate`.

    All layers share U, V and c, and so do both towers of a model of images and texts if they have the same width. Each
    square has its own vector p_k of `rank` parameters: 107,584 parameters for ViT-B/16. Weights of an MLP are cut along
    their longer side into four squares. With `form="tk"` there is a core of `rank`^3 parameters instead of c: a Tucker
    decomposition, as in FacT. Weights of another width have their own U, V and c.

    As published there are no masks: the default is num_branches=1 with density=1. With masks (ours) each square has its
    own views of U and V.

    Source: Aurora (NeurIPS 2023), arXiv 2305.08381, whose full text was not available. The formula is that of its
    abstract; places, rank and initialization are those of its code, which is called CP and is a Tucker decomposition.
    This is only the mode approximation: Informative Context Enhancement is not in the code, and Gated Query
    Transformation (a scale and a shift after the layers of a multimodal BERT) acts between the towers; neither exists
    here. Deviations: c starts at one (its initialization was not found), p from Xavier's uniform over all squares
    (there over those of a layer); dropout is on the input of the update and 0 by default (there 0.1, inside). Published
    are retrieval and visual question answering, at learning rates from 2e-5 to 1e-4.
    """

    name: ClassVar[str] = "aurora"
    usual_lr: ClassVar[float] = 1e-2
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    rank: int = option(64, "maximum rank of the update of each square", low=1)
    form: str = option(
        "cp",
        "tensor decomposition: cp (CANDECOMP/PARAFAC) or tk (Tucker, with rank^3 more parameters)",
        choices=("cp", "tk"),
    )
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(
        ("query", "key", "value", "attn_out", "mlp_in", "mlp_out"), TARGETS_HELP, compared=False
    )

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With its form: `aurora r64 cp`."""
        return f"{super().label(record)} {record['form']}"

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
        """
        return core.fact_updates(
            model,
            self.targets,
            anatomy,
            self.rank,
            self.masking,
            form=self.form,
            scaling=self.scaling_of_masks(),
            dropout=self.dropout,
        )
