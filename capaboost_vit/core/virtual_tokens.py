"""Virtual tokens: learned vectors that stand for tokens, of which prefixes and prompts are made."""

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

    Prefixes and prompts are made of these. With `bottleneck=None` the table T (P, D) itself is shared and masked: on
    a table the sum is an entry-wise gain, T * (M_1 + ... + M_d), and raises no rank. With a bottleneck R the vectors
    are a masked low-rank map of an unmasked table (the reparameterisation MLP of prefix tuning), where it does.

    T starts from N(0, 0.02^2), as timm's tokens do. The MLP's B does not start at zero: it has a fan-in uniform start,
    since a zero map of tokens has no sense here (virtual tokens change the softmax even when they are zero).

    A `gate`, if one is put in, is for the owner to multiply the vectors by. `for_batch` knows, if they are set,
    `dropout` and a `probe` (B, P, S) of ones, by whose gradient each of the S segments of a vector is scored.

    Args:
        length: P; 0 is allowed and leaves the model as it was.
        width: D.
        tied: the second half of each vector is the first again, so that the keys of a prefix are its values: what is
            said above of T, D wide, is then of the half.
        bottleneck: rank of the MLP, or None for the plain table.
        table_width: width of the table that goes into the MLP; None takes D.
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
        """The vectors for each example of x (B, ...), (B, P, D) in its dtype; in training with dropout."""
        tokens = self().to(x.dtype).expand(x.shape[0], -1, -1)
        if self.probe is not None:
            tokens = (tokens.unflatten(-1, (self.probe.shape[-1], -1)) * self.probe.unsqueeze(-1)).flatten(-2)
        return F.dropout(tokens, self.dropout, self.training) if self.dropout else tokens

    def _learned(self) -> Tensor:
        """What is learned of the vectors: all, or of tied ones the half."""
        tokens = self.table().sum(0)
        return tokens if self.mlp is None else self.mlp(tokens)

    def no_weight_decay(self) -> set[str]:
        """The table, as timm spares class tokens and position embeddings; an MLP's weights decay like any others."""
        return {f"table.{name}" for name, _ in self.table.named_parameters()}

    def share(self, other: VirtualTokens) -> None:
        """From now on the table and the MLP's first layer are the other's own: one MLP with an output for each owner.

        Raises ValueError if one of them has no MLP, or their shapes differ.
        """
        if self.mlp is None or other.mlp is None or self.mlp.down.weight.shape != other.mlp.down.weight.shape:
            raise ValueError("only virtual tokens with an MLP of the same shape can share its first layer")
        self.table = other.table
        self.mlp.down, self.mlp.down_bias = other.mlp.down, other.mlp.down_bias

    @torch.no_grad()
    def fold(self) -> bool:
        """Becomes the plain table of what the MLP computes, if there is one; whether there was."""
        if self.mlp is None:
            return False
        value = self._learned()
        table = TiedMaskedWeight(tuple(value.shape), PLAIN, path="").to(value.device, value.dtype)
        table.weight.copy_(value)
        self.table, self.mlp = table, None
        return True
