"""CapaBoost-LoRA: masked low-rank updates of linear layers, convolutions and nn.MultiheadAttention."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..core.masking import COEFFICIENTS
from ..core.rescaling import RESCALES
from ..io.options import option
from .index import register
from .method import COEFFICIENTS_HELP, RESCALE_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Lora(MaskedMethod):
    """CapaBoost-LoRA: y = W0 x + (alpha / rank) [ B A + sum_j (B * MB_j) diag(c_j) (A * MA_j) ] dropout(x).

    By default (`coefficients`, ours) the first branch has no masks, and the others have sign masks and learned
    coefficients c, which start at zero. If `pattern` or `density` is given without `coefficients`, all branches have
    masks, and it is CapaBoost's

        y = W0 x + (alpha / rank) sum_i (B * MB_i)(A * MA_i) dropout(x).

    It is applied to linear layers, 2d convolutions and nn.MultiheadAttention. The parts of a fused layer (q and v of a
    qkv) are branches of one wrapper, each with its own factors and masks.

    share_blocks=g (ours): the layers of one role in g consecutive blocks share one pair A, B, and each has its own
    masks. With the same number of parameters the rank is g times as high.

    Source: LoRA, arXiv 2106.09685; the masks, CapaBoost, arXiv 2407.01320; use_rslora, arXiv 2312.03732;
    loraplus_lr_ratio, LoRA+, arXiv 2402.12354; freeze_down, LoRA-FA, arXiv 2308.03303; rank_dropout, MLAE, arXiv
    2405.18897 (whose terms are branches of rank one).
    """

    name: ClassVar[str] = "lora"
    usual_lr: ClassVar[float] = 5e-3
    rank: int = option(8, "rank of one branch", low=1)
    alpha: float = option(8.0, "the update is scaled by alpha / rank", nonzero=True)
    dropout: float = option(0.0, "dropout on the input of the branches", low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(
        ("query", "value"),
        "roles or name patterns of linear layers or 2d convolutions; blocks.11.query: a role in one block",
        compared=False,
    )
    freeze_down: bool = option(False, "train only B (LoRA-FA), so that inputs of the layers need not be stored")
    execution: str = option(
        "auto",
        "computation of linear layers: auto, weight, token or plain (docs/speed.md)",
        choices=("auto", "weight", "token", "plain"),
    )
    rescale: str | None = option(None, RESCALE_HELP, choices=RESCALES)
    use_rslora: bool = option(False, "scale the update by alpha / sqrt(rank), in place of alpha / rank")
    loraplus_lr_ratio: float = option(1.0, "learning rate of B, relative to that of A (LoRA+)", above=0, compared=False)
    rank_dropout: float = option(
        0.0,
        "fraction of the rank-one terms that are dropped, drawn once per batch (MLAE)",
        low=0,
        below=1,
        compared=False,
    )
    coefficients: str | None = option(None, COEFFICIENTS_HELP, choices=COEFFICIENTS, compared=False)
    coefficient_lr_ratio: float = option(
        1.0, "learning rate of the coefficients, relative to that of the weights", above=0, compared=False
    )
    share_blocks: int = option(
        1, "g: number of consecutive blocks that share one pair A, B, each with its own masks (pattern sign)", low=1
    )
    share_shapes: bool = option(False, "adapted layers of the same shape in these blocks share one pair, too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout > 0 and self.execution in ("weight", "token"):
            raise ValueError(
                f"execution={self.execution!r} has no dropout, got dropout={self.dropout}: leave execution at 'auto'"
            )
        if (self.share_blocks > 1 or self.share_shapes) and self.masking.kept < 1:
            raise ValueError(
                f"a shared pair is told apart by its masks, and {self.pattern} ones of density {self.masking.kept:g} "
                "drop entries: say pattern='sign'"
            )

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With what its pairs are shared by, and its dropout, by which published settings differ."""
        properties = [super().label(record)]
        if record.get("share_blocks", 1) > 1:
            properties.append(f"g{record['share_blocks']}")
        if record.get("share_shapes"):
            properties.append("shared by shape")
        if record.get("use_rslora"):
            properties.append("rslora")
        if record.get("loraplus_lr_ratio", 1) != 1:
            properties.append(f"lora+ {record['loraplus_lr_ratio']:g}")
        properties += [
            f"{name.replace('_', ' ')} {record[name]:g}" for name in ("dropout", "rank_dropout") if record.get(name)
        ]
        return " ".join(properties)

    def learning_rates(self, model: nn.Module) -> Iterable[tuple[nn.Parameter, float]]:
        """B and the coefficients, at their ratios to the rate of A."""
        return core.rate_factors(model, up=self.loraplus_lr_ratio, coefficients=self.coefficient_lr_ratio)

    def scaling(self) -> float:
        """The factor in front of the sum of the branches."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank) * self.scaling_of_masks()

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with a branch for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that takes no low-rank update.
        """
        owners: dict[Any, core.LowRankBranch] = {}  # the first layer of those that share a pair
        layers: Counter[Any] = Counter()  # of a role (site) and shape, so far

        def make(in_features: int, out_features: int, path: str, place: core.Place) -> core.LowRankBranch:
            branch = core.LowRankBranch(
                in_features,
                out_features,
                self.rank,
                self.masking,
                scaling=self.scaling(),
                dropout=self.dropout,
                rank_dropout=self.rank_dropout,
                freeze_down=self.freeze_down,
                path=path,
            )
            shape = (out_features, in_features)
            role = (shape, place.site)
            owner = (layers[role] // self.share_blocks, shape if self.share_shapes else role)
            layers[role] += 1
            if owners.setdefault(owner, branch) is not branch:
                branch.share(owners[owner])
            return branch

        return core.low_rank_updates(model, self.targets, anatomy, make, self.execution)
