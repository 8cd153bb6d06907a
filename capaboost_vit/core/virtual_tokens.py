"""Virtual tokens: learned vectors in place of tokens, for prefixes and prompts."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..io.options import check_value
from .branch import LowRankBranch
from .gate import Gate
from .masking import PLAIN, Masking
from .pruned_table import PrunedTable
from .tied import TiedMaskedWeight


class VirtualTokens(nn.Module):
    """P learned vectors of width D, `sum_i T * M_i`, or a masked MLP of them, `sum_i (B * MB_i) tanh((A * MA_i) T)`.

    Prefixes and prompts consist of these. With `bottleneck=None` the table T (P, D) itself is shared and masked: the
    sum is then an elementwise factor, T * (M_1 + ... + M_d), and does not raise the rank. With a bottleneck R the
    vectors are a masked low-rank map of an unmasked table (the reparameterisation MLP of prefix tuning), which does.

    T starts from N(0, 0.02^2), as timm's tokens. The MLP's B starts from U(-1/sqrt(R), 1/sqrt(R)), not at zero, as
    virtual tokens change the softmax even if they are zero.

    The owner multiplies the vectors by `gate`, if it is set. `for_batch` applies `dropout`, and a `probe` (B, P, S) of
    ones, whose gradient scores each of the S segments of a vector.

    Args:
        length: P; with 0 the model stays as it is.
        width: D.
        tied: the second half of each vector equals the first, so that the keys of a prefix are its values; T then has
            the width D / 2.
        bottleneck: rank of the MLP; None: no MLP.
        table_width: width of the table that is the input of the MLP; None: D.
        masking, path: as in `LowRankBranch`.
    """

    def __init__(
        self,
        length: int,
        width: int,
        masking: Masking = Masking(),  # noqa: B008  frozen
        *,
        tied: bool = False,
        bottleneck: int | None = None,
        table_width: int | None = None,
        path: str = "",
    ) -> None:
        super().__init__()
        check_value("the number of virtual tokens", length, int, {"low": 0})
        self.length, self.width, self.tied, self.dropout = length, width, tied, 0.0
        self.probe: Tensor | None = None
        width = width // 2 if tied else width
        plain = bottleneck is not None or length == 0  # nothing to mask in the table
        inner = width if bottleneck is None or table_width is None else table_width
        table_masking = replace(PLAIN, init_seed=masking.init_seed) if plain else masking
        self.table: TiedMaskedWeight | PrunedTable
        self.table = table = TiedMaskedWeight((length, inner), table_masking, path=f"{path}.table")
        table.fill_normal(0.02)
        self.mlp: LowRankBranch | None = None
        self.gate: Gate | None = None
        if bottleneck is not None:
            self.mlp = LowRankBranch(inner, width, bottleneck, masking, act="tanh", bias=True, path=f"{path}.mlp")
            self.mlp.up.fill_uniform(1 / math.sqrt(bottleneck))

    def forward(self) -> Tensor:
        """The vectors, (P, D)."""
        tokens = self._learned()
        return torch.cat([tokens, tokens], dim=-1) if self.tied else tokens

    def for_batch(self, x: Tensor) -> Tensor:
        """The vectors for each example of x (B, ...), (B, P, D) in the dtype of x; in training with dropout."""
        tokens = self().to(x.dtype).expand(x.shape[0], -1, -1)
        if self.probe is not None:
            tokens = (tokens.unflatten(-1, (self.probe.shape[-1], -1)) * self.probe.unsqueeze(-1)).flatten(-2)
        return F.dropout(tokens, self.dropout, self.training) if self.dropout else tokens

    def _learned(self) -> Tensor:
        """What is learned of the vectors: all, or of tied ones the half."""
        tokens = self.table().sum(0)
        return tokens if self.mlp is None else self.mlp(tokens)

    def no_weight_decay(self) -> set[str]:
        """The table, like timm's class tokens and position embeddings; the weights of an MLP have weight decay."""
        return {f"table.{name}" for name, _ in self.table.named_parameters()}

    def share(self, other: VirtualTokens) -> None:
        """Makes the table and the MLP's first layer those of `other`: one MLP with an output for each owner.

        Raises ValueError if one of them has no MLP, or their shapes differ.
        """
        if self.mlp is None or other.mlp is None or self.mlp.down.weight.shape != other.mlp.down.weight.shape:
            raise ValueError("only virtual tokens with an MLP of the same shape can share its first layer")
        self.table = other.table
        self.mlp.down, self.mlp.down_bias = other.mlp.down, other.mlp.down_bias

    @torch.no_grad()
    def fold(self) -> bool:
        """Replaces the MLP, if there is one, by a table of its vectors; returns whether there was one."""
        if self.mlp is None:
            return False
        value = self._learned()
        table = TiedMaskedWeight(tuple(value.shape), PLAIN, path="").to(value.device, value.dtype)
        table.weight.copy_(value)
        self.table, self.mlp = table, None
        return True
