"""How much of a given matrix a low-rank branch can hold."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .branch import LowRankBranch


def held_share(branch: LowRankBranch, target: Tensor, *, iterations: int = 150) -> float:
    """The share `1 - min ||T - dW||_F^2 / ||T||_F^2` of a target T (out, in) that the branch's dW can take up.

    Of a plain branch it is known: the first R squared singular values over the sum of all (Eckart and Young 1936).
    Masked branches have no such formula. Theirs is found by L-BFGS in float64 from two starts, the plain branch's
    solution and the branch's own start, and is a lower bound, since the problem has local optima. The branch is left
    as it is.

    Raises:
        ValueError: a target of another shape, or the zero matrix.
        TypeError: a branch that is no change of a weight, see `LowRankBranch.delta_weight`.
    """
    if tuple(target.shape) != (branch.out_features, branch.in_features):
        shape = (branch.out_features, branch.in_features)
        raise ValueError(f"branch {branch.path!r} is of shape {shape}, the target of {tuple(target.shape)}")
    target = target.detach().double()
    norm = torch.linalg.matrix_norm(target)
    if norm == 0:
        raise ValueError(f"the target of branch {branch.path!r} is zero: there is nothing to hold")
    target = target / norm
    own = copy.deepcopy(branch).double().eval().requires_grad_(True)
    own.delta_weight()  # a branch that has none says so
    if branch.down.mask is None:
        values = torch.linalg.svdvals(target)[: branch.rank]
        return float(values.square().sum())
    best = copy.deepcopy(own)
    _fill_best_plain(best, target)
    return max(_fit(start, target, iterations) for start in (best, own))


@torch.no_grad()
def _fill_best_plain(branch: LowRankBranch, target: Tensor) -> None:
    """Gives the branch the factors that would be best without masks, of equal norms."""
    u, s, v = torch.linalg.svd(target, full_matrices=False)
    rank = min(branch.rank, len(s))
    roots = s[:rank].sqrt()
    branch.down.weight.zero_()
    branch.up.weight.zero_()
    branch.down.weight[:rank] = roots[:, None] * v[:rank]
    branch.up.weight[:, :rank] = u[:, :rank] * roots / branch.scaling


def _fit(branch: LowRankBranch, target: Tensor, iterations: int) -> float:
    """Trains the branch on `||T - dW||_F^2` for a target of norm one; returns the share that it holds then."""
    factors = [branch.down.weight, branch.up.weight]
    optimizer = torch.optim.LBFGS(
        factors,
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def missed() -> Tensor:
        optimizer.zero_grad()
        loss = (target - branch.delta_weight()).square().sum()
        loss.backward()
        for factor in factors:
            assert factor.grad is not None
            factor.grad = factor.grad.contiguous()  # as L-BFGS wants it
        return loss

    optimizer.step(missed)
    with torch.no_grad():
        return 1 - float((target - branch.delta_weight()).square().sum())
