"""The low-rank branch of two tied masked weights, which is added to a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..io.options import check_value
from .base import meets, operand
from .bottleneck import ACTIVATIONS, add_bottleneck
from .gate import Gate, TokenScale
from .masking import Masking
from .tied import TiedMaskedWeight

_HOULSBY_STD = 0.01
Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


@runtime_checkable
class LowRankFactors(Protocol):
    """What an addition offers that is a low-rank change of a weight: pictures of spectra are drawn of these."""

    rank: int  # of one branch
    num_branches: int

    def linear_factors(
        self,
    ) -> tuple[Tensor, Tensor] | None: ...  # A (R, in) and B (out, R), dW = B A; None: not linear


class LowRankBranch(nn.Module):
    """`y = scaling * [ sum_i (B * MB_i) act((A * MA_i) dropout(x) + a) + b ]`; without act and bias a LoRA branch.

    A (R, in) is `down`, B (out, R) is `up`. The d masked views are concatenated along the rank, so there are two matrix
    products for any d: tied masked branches are one low-rank pair of rank d*R.

    B and the biases start at zero, so each branch is zero at step 0 (the official code fills all but the first with
    noise). Biases are tied and added once (the official code adds b once per branch).

    With `coefficients` the first view has no mask, and the others have learned coefficients c that start at zero, (d -
    1) R or d - 1 more parameters; at step 0 it is the plain branch:

        y = scaling * [ B act(A dropout(x) + a) + sum_j (B * MB_j) diag(c_j) act((A * MA_j) dropout(x) + a) + b ].

    A `gain` is a learned factor that starts at one: of y (AdaptFormer, arXiv 2205.13535), of each channel of y
    (Adapter+, arXiv 2406.06820), or of each row of A in all views (MLAE). A `gate` is a factor of y that depends on the
    input, for each example (UniPELT) or each token (DAPT).

    Args:
        rank: R, the rank of one branch (the bottleneck width of an adapter).
        scaling: the factor in front; alpha / rank for LoRA.
        act: name of the activation between the two products, or None.
        bias: whether both products have a bias.
        dropout: probability of dropping an input entry, in training.
        drop_path: probability of dropping y for an example, in training.
        rank_dropout: probability of dropping a term of rank one (a row of A_cat with its column of B_cat), in training;
            drawn once per call for the whole batch (MLAE, whose terms are branches of rank one).
        learned_scale: the gain, "scalar", "channel" or "rank"; "token": a gate for each token, `TokenScale`; None:
            neither.
        init: "zero", or "houlsby" (arXiv 1902.00751): A and B start from N(0, 0.01^2) truncated at two standard
            deviations.
        freeze_down: A is not trained (LoRA-FA, arXiv 2308.03303), so the input need not be stored.
        masking: of both factors, with the kind of `coefficients`. Its init_seed is that of A; for "zero" A starts from
            U(-1/sqrt(in), 1/sqrt(in)), which is kaiming_uniform(a=sqrt(5)).
        path: name of the branch in the model: the key of its masks and initial values.

    Raises:
        ValueError: rank < 1, an unknown activation, init or learned_scale, a dropout, drop_path or rank_dropout outside
            [0, 1), or what `make_masks` refuses.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        masking: Masking = Masking(),  # noqa: B008  frozen
        *,
        scaling: float = 1.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        rank_dropout: float = 0.0,
        learned_scale: str | None = None,
        init: str = "zero",
        freeze_down: bool = False,
        act: str | None = None,
        bias: bool = False,
        path: str = "",
    ) -> None:
        super().__init__()
        check_value("rank", rank, int, {"low": 1})
        check_value("act", act, str | None, {"choices": tuple(ACTIVATIONS)})
        check_value("dropout", dropout, float, {"low": 0, "below": 1})
        check_value("drop_path", drop_path, float, {"low": 0, "below": 1})
        check_value("rank_dropout", rank_dropout, float, {"low": 0, "below": 1})
        check_value("init", init, str, {"choices": ("zero", "houlsby")})
        check_value("learned_scale", learned_scale, str | None, {"choices": ("scalar", "channel", "rank", "token")})
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.num_branches, self.scaling, self.dropout, self.act = masking.num_branches, scaling, dropout, act
        self.path, self.init, self.drop_path = path, init, drop_path
        self.freeze_down, self.rank_dropout, self.by_rank = freeze_down, rank_dropout, learned_scale == "rank"
        self.down = TiedMaskedWeight((rank, in_features), masking, path=f"{path}.down")
        self.up = TiedMaskedWeight((out_features, rank), masking, path=f"{path}.up")
        self.down_bias = nn.Parameter(torch.zeros(rank)) if bias else None
        self.up_bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        channels = {"scalar": 1, "channel": out_features, "rank": rank}.get(learned_scale or "", 0)
        self.gain = nn.Parameter(torch.ones(channels)) if channels else None
        of_a_view = {None: 0, "rank": rank, "branch": 1}[masking.coefficients]
        # a vector, which optimizers of timm's kind do not decay
        self.coefficients = nn.Parameter(torch.zeros((self.num_branches - 1) * of_a_view)) if of_a_view else None
        self.gate: Gate | TokenScale | None = TokenScale(in_features) if learned_scale == "token" else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initializes A (for "houlsby" B, too) by (init_seed, path), a gain with one, and the rest with zero."""
        if self.init == "houlsby":
            self.down.fill_truncated_normal(_HOULSBY_STD)
            self.up.fill_truncated_normal(_HOULSBY_STD)
        else:
            self.down.fill_uniform(1 / math.sqrt(self.in_features))
            self.up.weight.zero_()
        for parameter in (self.down_bias, self.up_bias, self.coefficients):
            if parameter is not None:
                parameter.zero_()
        if self.gain is not None:
            self.gain.fill_(1)
        if isinstance(self.gate, TokenScale):
            self.gate.reset_parameters()

    def share(self, other: LowRankBranch) -> None:
        """Makes A and B the same Parameters as those of `other`; masks, coefficients and biases stay separate.

        Raises ValueError if the shapes differ.
        """
        self.down.share(other.down)
        self.up.share(other.up)

    def factors(self) -> tuple[Tensor, Tensor]:
        """The concatenated masked factors A_cat (K*R, in) and B_cat (out, K*R), with coefficients and gain in B_cat."""
        down, up = self.down.joined(0), self.up.joined(1)
        if self.coefficients is not None:
            c = self.coefficients.unflatten(0, (self.num_branches - 1, -1)).expand(-1, self.rank).flatten()
            up = up * F.pad(c, (self.rank, 0), value=1.0)
        if self.by_rank and self.gain is not None:
            return down, up * self.gain.repeat(self.num_branches)
        return down, up if self.gain is None else self.gain.unsqueeze(1) * up

    def draws(self) -> bool:
        """Whether a call draws random numbers: in training, with any kind of dropout."""
        return self.training and max(self.dropout, self.drop_path, self.rank_dropout) > 0

    @property
    def kept_share(self) -> float:
        """The fraction of entries that a masked view keeps, by which the ideal FLOPs of a branch scale."""
        return self.down.density

    def linear_factors(self) -> tuple[Tensor, Tensor] | None:
        """(A_cat, scaling * B_cat), the factors of dW; None for a branch with an activation, a bias or a gate."""
        if self.act is not None or self.up_bias is not None or self.gate is not None:
            return None
        down, up = self.factors()
        return down, self.scaling * up

    def trained_parameters(self) -> list[nn.Parameter]:
        """All parameters, without A if freeze_down."""
        return [p for p in self.parameters() if not (self.freeze_down and p is self.down.weight)]

    def delta_weight(self) -> Tensor:
        """`dW = scaling * B_cat @ A_cat`, (out, in).

        Raises:
            TypeError: the branch has an activation, a bias or a gate, so it is not equal to a matrix.
            ValueError: the branch is in training with any kind of dropout, which a weight cannot have.
        """
        if self.act is not None or self.up_bias is not None:
            raise TypeError(f"branch {self.path!r} has an activation or a bias: it is not a change of a weight")
        if self.gate is not None:
            raise TypeError(f"branch {self.path!r} has a gate, which depends on the input: no weight can express it")
        if self.draws():
            raise ValueError(
                f"branch {self.path!r} draws random numbers in training: use dropout=0 on models that read .weight"
            )
        down, up = self.factors()
        return self.scaling * (up @ down)

    def forward(self, x: Tensor, down_product: Product = F.linear, up_product: Product = F.linear) -> Tensor:
        """Maps (..., in) to (..., out), in the dtype of the weights (or of autocast).

        Args:
            down_product: `product(x, weight, bias)` with A, for another product than F.linear, such as a convolution; a
                gate needs linear products.
            up_product: the same for B.
        """
        x = operand(x, self.down.weight)
        down, up = self.factors()
        down_bias, up_bias = self._biases()
        hidden = down_product(F.dropout(x, self.dropout, self.training), down, down_bias)  # (..., K*R)
        if self.act is not None:
            hidden = ACTIVATIONS[self.act][0](hidden)
        if self.training and self.rank_dropout > 0:
            up = up * F.dropout(up.new_ones(up.shape[1]), self.rank_dropout)
        y = up_product(hidden, self.scaling * up, up_bias)  # scaled before: a pass over (N, out) less
        if self.gate is not None:
            y = self.gate(x) * y
        if self.training and self.drop_path > 0:
            share = 1 - self.drop_path
            y = y * (y.new_empty(len(y), *[1] * (y.dim() - 1)).bernoulli_(share) / share)  # one number an example
        return y

    def added_to(self, y: Tensor, x: Tensor) -> Tensor:
        """`y + self(x)` in the dtype of y, rounded once.

        It is one pass where possible: for an adapter without dropout, gate and tracing, in the dtype of x.
        """
        act, (down_bias, up_bias) = self.act, self._biases()
        one_pass = self.gate is None and not self.draws() and x.numel() > 0 and not torch.jit.is_tracing()
        if act is None or down_bias is None or up_bias is None or not one_pass or not meets(x, down_bias):
            return (y + self(x)).to(y.dtype)
        down, up = self.factors()
        return add_bottleneck(y, x, down, down_bias, self.scaling * up, up_bias, act=act)

    def _biases(self) -> tuple[Tensor | None, Tensor | None]:
        """a, once for each view, and the scaled b."""
        down = None if self.down_bias is None else self.down_bias.repeat(self.num_branches)
        up = self.up_bias if self.up_bias is None or self.gain is None or self.by_rank else self.gain * self.up_bias
        return down, None if up is None else self.scaling * up

    def extra_repr(self) -> str:
        act = f", act={self.act}" if self.act else ""
        return f"{self.in_features} -> {self.rank} -> {self.out_features}, scaling={self.scaling:g}{act}"


def rate_factors(
    model: nn.Module, *, up: float = 1.0, coefficients: float = 1.0
) -> Iterator[tuple[nn.Parameter, float]]:
    """(parameter, factor) pairs of the low-rank branches of a model whose learning rate has a factor other than 1."""
    for branch in (module for module in model.modules() if isinstance(module, LowRankBranch)):
        if up != 1:
            yield branch.up.weight, up
        if coefficients != 1 and branch.coefficients is not None:
            yield branch.coefficients, coefficients
