"""CapaBoost-LoRA: masked low-rank updates of linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..core.rescaling import RESCALES
from ..io.options import option
from .index import register
from .method import RESCALE_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Lora(MaskedMethod):
    """CapaBoost-LoRA: y = W0 x + (alpha / rank) * sum_i (B * MB_i)(A * MA_i) dropout(x).

    Parts of one fused layer (q and v of a qkv) become branches of one wrapper, each with its own factors and masks.
    Source: LoRA, arXiv 2106.09685; the masks, CapaBoost, arXiv 2407.01320.
    """

    name: ClassVar[str] = "lora"
    rank: int = option(8, "rank of one branch", low=1)
    alpha: float = option(8.0, "the update is scaled by alpha / rank")
    dropout: float = option(0.0, "dropout on the branch's input", low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(
        ("query", "value"),
        "roles or name patterns of linear layers; blocks.11.query: a role in one block",
        compared=False,
    )
    freeze_down: bool = option(False, "train only B (LoRA-FA): the inputs of the layers need not be kept")
    execution: str = option(
        "auto",
        "how the layers are computed: auto, weight, token, plain (docs/speed.md)",
        choices=("auto", "weight", "token", "plain"),
    )
    rescale: str | None = option(None, RESCALE_HELP, choices=RESCALES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout > 0 and self.execution in ("weight", "token"):
            raise ValueError(
                f"execution={self.execution!r} has no dropout, got dropout={self.dropout}: leave execution at 'auto'"
            )

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With its dropout, by which published settings differ."""
        label = super().label(record)
        return f"{label} dropout {record['dropout']:g}" if record.get("dropout") else label

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with a branch for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
        """
        scaling = self.alpha / self.rank * self.scaling_of_masks()
        for name, places in core.find_parts(model, self.targets, anatomy).items():
            base, parts = core.get(model, name), places[0].site.parts
            layer = core.unwrap(base)
            if not core.is_linear(layer):
                raise TypeError(f"LoRA needs linear layers, but {name!r} is a {core.kind_of(layer)}")
            rows, columns = core.shape_of(layer)
            branches = {
                place.site.part: core.LowRankBranch(
                    columns,
                    rows // len(parts),
                    self.rank,
                    self.masking,
                    scaling=scaling,
                    dropout=self.dropout,
                    freeze_down=self.freeze_down,
                    path=f"{name}.{place.site.part}",
                ).to(**core.device_and_dtype(base))
                for place in places
            }
            yield name, core.AdaptedLinear(base, branches, parts, self.execution)
