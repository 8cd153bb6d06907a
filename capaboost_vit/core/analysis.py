"""Costs of an adapted model and capacity of its updates: parameters, ranks, FLOPs."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .branch import LowRankBranch
from .inject import branches
from .names import namer
from .tied import TiedMaskedWeight


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: `trained` have requires_grad, `stored` are in the adapter file, `live` have an effect.

    An entry that all branches mask is trained and stored, but not live: a fraction (1 - density)^d with random masks.
    """

    trained: int
    stored: int
    live: int


def count_parameters(branch: nn.Module, counted: set[int] | None = None) -> Parameters:
    """Counts the parameters of a branch, each once; masks are buffers and not counted.

    Args:
        counted: ids of parameters that were counted before and are left out; those of this branch are added.
    """
    counted = set() if counted is None else counted
    parameters = [p for p in branch.parameters() if id(p) not in counted]
    masked = sum(
        int(m.mask.eq(0).all(0).sum())
        for m in branch.modules()
        if isinstance(m, TiedMaskedWeight) and m.mask is not None and id(m.weight) not in counted
    )
    counted.update(map(id, parameters))
    stored = sum(p.numel() for p in parameters)
    return Parameters(sum(p.numel() for p in parameters if p.requires_grad), stored, stored - masked)


@dataclass(frozen=True)
class Ranks:
    """Three ranks of a matrix with singular values s.

    algebraic: the number of s above max(shape) * eps * s_1; stable: sum(s^2) / s_1^2; effective: exp of the entropy of
    s / sum(s) (Roy and Vetterli 2007).
    """

    algebraic: int
    stable: float
    effective: float


def spectrum(matrix: Tensor) -> Tensor:
    """Singular values in float64, in descending order."""
    return torch.linalg.svdvals(matrix.detach().double().cpu())


def ranks(matrix: Tensor) -> Ranks:
    """The ranks of a matrix (out, in), all zero for the zero matrix; eps is that of its own dtype.

    Raises TypeError if it is no matrix.

    Examples:
        >>> branch = capaboost_vit.branches(model)["blocks.0.attn.qkv.branches.q"]  # trained, of rank 4, two copies
        >>> capaboost_vit.ranks(branch.delta_weight()).algebraic
        8
    """
    if not isinstance(matrix, Tensor) or matrix.ndim != 2:
        raise TypeError(f"ranks takes a matrix (out, in), such as branch.delta_weight(), got {type(matrix).__name__}")
    s = spectrum(matrix)
    if s[0] == 0:
        return Ranks(0, 0.0, 0.0)
    eps = torch.finfo(matrix.dtype).eps
    share = s[s > 0] / s.sum()
    return Ranks(
        algebraic=int((s > max(matrix.shape) * eps * s[0]).sum()),
        stable=float((s**2).sum() / s[0] ** 2),
        effective=math.exp(float(-(share * share.log()).sum())),
    )


def held_share(branch: LowRankBranch, target: Tensor, *, iterations: int = 150) -> float:
    """The share `1 - min ||T - dW||_F^2 / ||T||_F^2` of a target T (out, in) that the dW of a branch can fit.

    For a plain branch it is the sum of the first R squared singular values over that of all (Eckart and Young 1936).
    For masked branches there is no such formula: it is found by L-BFGS in float64 from two starts, the solution of the
    plain branch and the branch's own values, and is a lower bound, as the problem has local optima. The branch is not
    changed.

    Raises:
        ValueError: a target of another shape, or the zero matrix.
        TypeError: a branch that is no update of a weight, see `LowRankBranch.delta_weight`.
    """
    if tuple(target.shape) != (branch.out_features, branch.in_features):
        shape = (branch.out_features, branch.in_features)
        raise ValueError(f"branch {branch.path!r} is of shape {shape}, the target of {tuple(target.shape)}")
    target = target.detach().double()
    norm = torch.linalg.matrix_norm(target)
    if norm == 0:
        raise ValueError(f"the target of branch {branch.path!r} is zero: there is nothing to hold")
    target = target / norm
    start = copy.deepcopy(branch).double().eval().requires_grad_(True)
    start.delta_weight()  # a branch that has none says so
    if branch.down.mask is None:
        return float(torch.linalg.svdvals(target)[: branch.rank].square().sum())
    best_plain = copy.deepcopy(start)
    _fill_best_plain(best_plain, target)
    return max(_fit(candidate, target, iterations) for candidate in (best_plain, start))


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


@dataclass(frozen=True)
class Flops:
    """Multiply-adds of one forward pass: `executed` by dense kernels, and `ideal`, without masked entries."""

    executed: int
    ideal: int


def count_flops(model: nn.Module, inputs: Tensor) -> Flops:
    """Counts multiply-adds with fvcore, fused attention included (fvcore leaves it out: 14 % of ViT-Tiny).

    Low-rank updates are counted in token space, as two thin products beside that of the layer. If a layer is computed
    in weight space (`functional.low_rank_linear`), the update costs `R * out * in` instead, for any number of tokens. A
    dense update (`DenseUpdate`) is counted as a product `x dW^T` beside that of the layer, although one product with W
    + dW is computed. Ideal FLOPs scale each low-rank branch by the density of its masks. In models that read `.weight`
    (EVA-02, BEiT, Swin V2) the update is computed as a dense matrix, which the ideal number does not reduce.

    Examples:
        >>> flops = capaboost_vit.count_flops(model, images[:1])
        >>> flops.executed >= flops.ideal
        True
    """
    with warnings.catch_warnings():
        # torch calls torch.jit deprecated: fvcore scripts a loss with it when imported, and traces the model with it
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, inputs)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        by_module = analysis.by_module()
    canonical = namer(model)
    executed = {canonical(name): count for name, count in by_module.items()}
    shares = {name: getattr(branch, "kept_share", 1.0) for name, branch in branches(model).items()}
    saved = sum(executed.get(name, 0) * (1 - share) for name, share in shares.items())
    return Flops(int(analysis.total()), int(analysis.total() - saved))


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """softmax(Q K^T) V with q, k, v of shape (..., N, D), (..., M, D), (..., M, E): N*M*(D + E) per head and image."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
