"""A change of a weight that is a function of the weight: an adapter that is fed with its columns. NEAT."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from .branch import LowRankBranch
from .start_values import uniform


class NonlinearUpdate(nn.Module):
    """`dW = s sum_i (B * MB_i) g(relu((A * MA_i) W))`, A (R, out), B (out, R): of rank up to R times the branches.

    With depth 0 g is the identity. Otherwise it consists of R x R layers with residual connections around pairs of
    them, from the outside in: `h_i = relu(E_i h_{i-1})` for i = 1 .. depth, then `h <- relu(D_i h) + h_{depth-i}`.

    Args:
        factors: A and B, as a branch from out_features to out_features.
        depth: number of pairs of E and D.
        init_seed, path: key of the initial values of E and D, U(-1/sqrt(R), 1/sqrt(R)), which is
            kaiming_uniform(a=sqrt(5)).

    Source: NEAT, arXiv 2410.01870; PEFT's PeanutConfig.
    """

    def __init__(self, factors: LowRankBranch, depth: int = 0, *, init_seed: int = 0, path: str = "") -> None:
        super().__init__()
        self.factors = factors
        shape, bound = (depth, factors.rank, factors.rank), factors.rank**-0.5
        self.encoders, self.decoders = (
            nn.Parameter(uniform(shape, bound, init_seed, f"{path}.{name}.init")) if depth else None
            for name in ("encoders", "decoders")
        )

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in), in at least float32 if the factors are. Raises what `weight` raises."""
        down, up = self.factors.factors()
        hidden = F.relu(down @ weight().to(down.dtype))  # (K*R, in)
        if self.encoders is not None and self.decoders is not None:
            views = hidden.unflatten(0, (self.factors.num_branches, -1))  # (K, R, in)
            kept: list[Tensor] = []
            for encoder in self.encoders:
                kept.append(views)
                views = F.relu(encoder @ views)
            for decoder in self.decoders:
                views = F.relu(decoder @ views) + kept.pop()
            hidden = views.flatten(0, 1)
        return self.factors.scaling * (up @ hidden)
