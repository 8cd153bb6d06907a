"""LoRTA: the updates of all attention layers are slices of one low-rank tensor."""

from __future__ import annotations

from collections.abc import Iterator
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
class Lorta(MaskedMethod):
    """LoRTA: y = base(x) + dropout(x) dW^T, with the dW of all layers as slices of one tensor, see `CpUpdate`.

    The parameters of the tensor are A, B, and a vector for each head, each kind of matrix (query, key, value, attn_out)
    and each layer: rank (D + D / H + H + 4 + L) parameters, 6,880 for ViT-B/16. Matrices of another width or number of
    heads, as in the stages of Swin, have their own tensor.

    As published there are no masks: the default is num_branches=1 with density=1. With masks (ours) each slice has its
    own views of A and B.

    Source: arXiv 2410.04060; rank and alpha are its defaults. Published for language models at learning rates from 4e-3
    to 5e-2; `usual_lr` is one of them. Deviations: heads split the rows of query, key and value, which are their
    outputs (in the authors' code the inputs), and the columns of attn_out; it merges. Its option init_scale is fixed at
    its default.
    """

    name: ClassVar[str] = "lorta"
    usual_lr: ClassVar[float] = 1e-2
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    rank: int = option(8, "rank of the tensor; the maximum rank of each update", low=1)
    alpha: float = option(8.0, "the update is scaled by alpha / rank", nonzero=True)
    heads: int | None = option(None, "number of attention heads; null: the model's own", low=1)
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "key", "value", "attn_out"), TARGETS_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with a slice for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, or heads that are not known or do not divide a width;
        TypeError for a target that is no linear layer.
        """
        behind = core.names_of(model, "attn_out", anatomy)  # the heads
        found = core.matrices_of(model, self.targets, anatomy)
        keys: dict[str, tuple[int, int, int, bool]] = {}  # entries whole and split, heads; whether these are in columns
        tensors: dict[tuple[int, int, int], list[core.Matrix]] = {}
        for path, matrix in found.items():
            name = path.rpartition(".")[0]
            heads = self.heads or core.heads_of(model, name)
            split, whole = matrix.shape[::-1] if name in behind else matrix.shape
            if heads is None or split % heads:
                what = "how many there are is not known" if heads is None else f"{heads} do not divide {split}"
                raise ValueError(f"lorta splits the weight of {name!r} into heads, and {what}: say heads=1, or another")
            keys[path] = (whole, split, heads, name in behind)
            tensors.setdefault((whole, split, heads), []).append(matrix)
        owners: dict[Any, core.CpUpdate] = {}

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            whole, split, heads, in_columns = keys[path]
            slices = tensors[whole, split, heads]
            kinds = list(dict.fromkeys(matrix.kind for matrix in slices))
            update = core.CpUpdate(
                whole,
                split,
                self.rank,
                (heads, len(kinds), 1 + max(matrix.layer for matrix in slices)),
                self.masking,
                kind=kinds.index(found[path].kind),
                layer=found[path].layer,
                heads_in_columns=in_columns,
                scaling=self.alpha / self.rank * self.scaling_of_masks(),
                path=path,
            )
            owner = owners.setdefault((whole, split, heads), update)
            if owner is not update:
                update.share(owner)
            return update

        return core.dense_updates(model, self.targets, anatomy, make, self.dropout)
