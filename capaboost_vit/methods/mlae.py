"""MLAE: low-rank updates of rank one, each behind a learned number, that are left out at random in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, DROPOUT_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Mlae(MaskedMethod):
    """MLAE: y = base(x) + sum_i (B * MB_i) diag(dropout(l)) (A * MA_i) dropout(x), with `rank` learned coefficients l.

    It is LoRA whose terms of rank one are experts: each has a coefficient l, which starts at `alpha` (not divided by
    the rank) and has no weight decay. `rank_dropout` drops experts, drawn once per batch. It regularises, and does not
    raise the rank.

    As published there are no masks on A and B: the default is num_branches=1 with density=1. Masks can be added.

    Source: MLAE, arXiv 2405.18897, and its authors' code, whose targets and alpha these are. The published dropout is
    chosen for each task and was not found; in the code, and here, it is 0 by default.
    """

    name: ClassVar[str] = "mlae"
    usual_lr: ClassVar[float] = 5e-3
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    rank: int = option(8, "number of rank-one experts", low=1)
    alpha: float = option(
        1.0, "initial value of each expert's learned coefficient; not divided by the rank", compared=False, nonzero=True
    )
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    rank_dropout: float = option(
        0.0,
        "fraction of the rank-one terms that are dropped, drawn once per batch (MLAE)",
        low=0,
        below=1,
        compared=False,
    )
    targets: tuple[str, ...] = option(
        ("query", "key", "value"),
        "roles or name patterns of linear layers or 2d convolutions; blocks.11.query: a role in one block",
        compared=False,
    )

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the dropout of experts, by which published settings differ."""
        label = super().label(record)
        return f"{label} rank dropout {record['rank_dropout']:g}" if record.get("rank_dropout") else label

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with a branch for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that takes no low-rank update.
        """

        def make(in_features: int, out_features: int, path: str, place: core.Place) -> core.LowRankBranch:
            branch = core.LowRankBranch(
                in_features,
                out_features,
                self.rank,
                self.masking,
                dropout=self.dropout,
                rank_dropout=self.rank_dropout,
                learned_scale="rank",
                path=path,
            )
            assert branch.gain is not None
            branch.gain.data.fill_(self.alpha)
            return branch

        return core.low_rank_updates(model, self.targets, anatomy, make)
