"""A change of a weight in the form of a singular value decomposition, whose triplets can be pruned: AdaLoRA's."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import gathered
from .masking import Masking
from .sharded import fill
from .tied import TiedMaskedWeight

_STD = 0.02


class SvdUpdate(nn.Module):
    """`dW = s * sum_i (P * MP_i) diag(lambda) (Q * MQ_i)`, with P (out, R), Q (R, in), and lambda (R,) for all views.

    A triplet is an entry of lambda with its column of P and its row of Q. `keep` prunes triplets by setting their
    lambda to zero; P and Q stay, so a pruned triplet can come back.

    The buffers `sensitivity` and `uncertainty` hold the moving averages from which `scores` are computed, for all
    entries of P, lambda and Q in this order. Only the checkpoints of a run store them.

    Args:
        rank: R at the start.
        masking: of P and Q. Its init_seed is that of their initial values, N(0, 0.02^2); lambda starts at zero.
        scaling: s.
        path: name of the update in the model: the key of its masks and initial values.

    Source: AdaLoRA (ICLR 2023), arXiv 2303.10512. Deviations: the masks (ours); lambda is a vector, for which timm's
    optimizers have no weight decay.
    """

    training_state: ClassVar[tuple[str, ...]] = ("sensitivity", "uncertainty")
    sensitivity: Tensor
    uncertainty: Tensor

    def __init__(
        self, in_features: int, out_features: int, rank: int, masking: Masking, *, scaling: float = 1.0, path: str = ""
    ) -> None:
        super().__init__()
        self.num_branches, self.scaling = masking.num_branches, scaling
        self.left = TiedMaskedWeight((out_features, rank), masking, path=f"{path}.left")
        self.right = TiedMaskedWeight((rank, in_features), masking, path=f"{path}.right")
        self.singular = nn.Parameter(torch.zeros(rank))
        self.left.fill_normal(_STD)
        self.right.fill_normal(_STD)
        entries = sum(p.numel() for p in self._factors())
        for name in self.training_state:
            self.register_buffer(name, torch.zeros(entries), persistent=False)

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part."""
        singular = self.singular.repeat(self.num_branches)
        delta: Tensor = self.scaling * (self.left.joined(1) @ (singular.unsqueeze(1) * self.right.joined(0)))
        return delta

    def orthogonality(self) -> Tensor:
        """`|P^T P - I| + |Q Q^T - I|`, Frobenius norms, of the factors without masks."""
        p, q = gathered(self.left.weight), gathered(self.right.weight)
        identity = torch.eye(len(q), dtype=q.dtype, device=q.device)
        return (p.t() @ p - identity).norm() + (q @ q.t() - identity).norm()

    @torch.no_grad()
    def update_averages(self, beta1: float, beta2: float) -> None:
        """Takes the gradients at hand in: I = |w dL/dw|, then the average of I, then that of |I - the average|."""
        factors = self._factors()
        values = _flat([gathered(p) for p in factors])
        gradients = _flat([torch.zeros_like(gathered(p)) if p.grad is None else gathered(p.grad) for p in factors])
        importance = (values * gradients).abs().to(self.sensitivity.dtype)
        self.sensitivity.copy_(beta1 * self.sensitivity + (1 - beta1) * importance)
        self.uncertainty.copy_(beta2 * self.uncertainty + (1 - beta2) * (importance - self.sensitivity).abs())

    def scores(self) -> Tensor:
        """Of each triplet, (R,): s(lambda) + the means of s over its column of P and its row of Q."""
        p, q = self.left.weight, self.right.weight
        of_entries = self.sensitivity * self.uncertainty
        left, singular, right = of_entries.split([p.numel(), len(q), q.numel()])
        return singular + left.view(p.shape).mean(0) + right.view(q.shape).mean(1)

    @torch.no_grad()
    def keep(self, kept: Tensor) -> None:
        """Sets lambda to zero where `kept` (R,) is not true."""
        fill(self.singular, gathered(self.singular).masked_fill(~kept, 0))

    def active_rank(self) -> int:
        """How many triplets there are whose lambda is not zero."""
        return int(gathered(self.singular).count_nonzero())

    def _factors(self) -> list[nn.Parameter]:
        return [self.left.weight, self.singular, self.right.weight]

    def extra_repr(self) -> str:
        (out_features, rank), in_features = self.left.weight.shape, self.right.weight.shape[1]
        return f"{in_features} -> {rank} -> {out_features}, scaling={self.scaling:g}"


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def kept_triplets(updates: list[SvdUpdate], budget: int) -> list[Tensor]:
    """The `budget` triplets with the highest scores of all updates, as a mask (R,) for each; of equals the first."""
    scores = torch.cat([update.scores() for update in updates])
    best = scores.argsort(descending=True, stable=True)[:budget]
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[best] = True
    return list(kept.split([len(update.singular) for update in updates]))
