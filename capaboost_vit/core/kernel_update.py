"""A dense change of a weight by a kernel: distances between points that stand for its rows and columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..io.options import check_value
from .products import with_signature
from .start_values import uniform

COEFFICIENTS = (0.1, -0.1)  # of the two halves: learnable in the paper's text, fixed in its code
SPARSIFIERS = ("paper", "code")


class KernelUpdate(nn.Module):
    """`dW_ij = S(K)_ij - S(K at the start)_ij`, `K_ij = 0.1 (|p_i - q_j| - |p'_i - q'_j|)`: SNELL's kernel.

    Each row i of the weight has a point of R coordinates, (p_i, p'_i), each column j has one, (q_j, q'_j); the
    distances are Euclidean. They are computed in at least float32, also with autocast, as their gradients are
    inaccurate below.

    S sets the `round(sparsity * out * in)` smallest entries of |K| to zero; t is the largest of these. "paper": `K
    max(|K| - t, 0)`, its equation 5, with t as a constant. "code": the other entries are `K |K|` with the factor |K| as
    a constant, as in the reference code. With sparsity 0 S(K) is K itself, without that factor.

    The points alone are kept for the backward pass, which forms the distances again, as the paper's does.

    Args:
        rank: R, even.
        subtract_start: subtract the start, so that dW is zero at step 0; False: as in the paper, |dW| is about 1 for
            768 x 768 and R = 8 (Frobenius norm).
        sparsity: s, the share of zeros.
        sparsifier: "paper" or "code".
        init_seed: of the initial values, U(-1/sqrt(n), 1/sqrt(n)) with n the number of entries of a half, as in the
            code.
        path: name of the update in the model: with the seed the key of its initial values.

    Source: SNELL (NeurIPS 2024), arXiv 2411.01800. Deviations: the start is subtracted; the number of zeros is rounded
    (in the paper rounded up, in the code by a quantile).

    Raises ValueError for a sparsity outside [0, 1), or an unknown sparsifier.
    """

    start_rows: Tensor | None
    start_columns: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        subtract_start: bool = True,
        sparsity: float = 0.0,
        sparsifier: str = "paper",
        init_seed: int = 0,
        path: str = "",
    ) -> None:
        super().__init__()
        assert rank % 2 == 0, f"two halves of {rank} coordinates"
        check_value("sparsity", sparsity, float, {"low": 0, "below": 1})
        check_value("sparsifier", sparsifier, str, {"choices": SPARSIFIERS})
        self.zeros, self.sparsifier = round(sparsity * out_features * in_features), sparsifier
        self.rows = nn.Parameter(_points(out_features, rank, init_seed, f"{path}.rows"))  # (2, out, R/2)
        self.columns = nn.Parameter(_points(in_features, rank, init_seed, f"{path}.columns"))  # (2, in, R/2)
        # Not in the state: they are a function of (init_seed, path). The points, not the dense start that they make:
        # that is formed anew to the same bits as K is, on any device and in any dtype.
        for name, points in (("start_rows", self.rows), ("start_columns", self.columns)):
            self.register_buffer(name, points.detach().clone() if subtract_start else None, persistent=False)

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in), in at least float32; the weight that is changed plays no part."""
        form = _SparseKernel.apply if torch.is_grad_enabled() else _SparseKernel.forward
        update: Tensor = form(self.rows, self.columns, self.zeros, self.sparsifier)
        if self.start_rows is None or self.start_columns is None:
            return update
        dtype = self.rows.dtype  # as the others began
        start = _SparseKernel.forward(
            self.start_rows.to(dtype), self.start_columns.to(dtype), self.zeros, self.sparsifier
        )
        return update - start

    def extra_repr(self) -> str:
        return f"{self.columns.shape[1]} -> {self.rows.shape[1]}, rank={2 * self.rows.shape[2]}, zeros={self.zeros}"


def _points(number: int, rank: int, init_seed: int, path: str) -> Tensor:
    """Two halves of the coordinates of so many points at the start, (2, number, R/2)."""
    bound = 1 / math.sqrt(number * (rank // 2))  # kaiming_uniform(a=sqrt(5)) of three dimensions
    return uniform((2, number, rank // 2), bound, init_seed, f"{path}.init")


class _SparseKernel(torch.autograd.Function):
    """S(K) (out, in) of points, of which nothing dense is kept."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(rows: Tensor, columns: Tensor, zeros: int, sparsifier: str) -> Tensor:
        kernel = _kernel(_distances(rows, columns))
        if zeros == 0:
            return kernel
        size, threshold = _cut(kernel, zeros)
        return kernel * (size * (size > threshold) if sparsifier == "code" else F.relu(size - threshold))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        rows, columns, ctx.zeros, ctx.sparsifier = inputs
        ctx.save_for_backward(rows, columns)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows, columns = ctx.saved_tensors
        distances = _distances(rows, columns)
        if ctx.zeros:
            size, threshold = _cut(_kernel(distances), ctx.zeros)
            gradient = gradient * (size > threshold) * (size if ctx.sparsifier == "code" else 2 * size - threshold)
        of_distances = torch.stack([coefficient * gradient for coefficient in COEFFICIENTS])
        of_points = []
        for dim, (points, others) in enumerate(((rows, columns), (columns, rows))):
            operands = [tensor.mT.contiguous() if dim else tensor for tensor in (of_distances, distances)]
            wide = (tensor.to(distances.dtype) for tensor in (points, others))
            # what autograd calls: it has no public name, and is 0 where two points are one
            found = torch.ops.aten._cdist_backward(operands[0], *wide, 2.0, operands[1])
            of_points.append(found.to(points.dtype))
        return of_points[0], of_points[1], None, None


def _distances(rows: Tensor, columns: Tensor) -> Tensor:
    """|p_i - q_j| and |p'_i - q'_j|, (2, out, in), of (2, out, R/2) and (2, in, R/2)."""
    exact = torch.promote_types(rows.dtype, torch.float32)
    # by default large sets take a product of matrices, in which small distances lose their digits
    return torch.cdist(rows.to(exact), columns.to(exact), compute_mode="donot_use_mm_for_euclid_dist")


def _kernel(distances: Tensor) -> Tensor:
    """K (out, in) of both distances."""
    first, second = distances.unbind()
    return COEFFICIENTS[0] * first + COEFFICIENTS[1] * second


def _cut(kernel: Tensor, zeros: int) -> tuple[Tensor, Tensor]:
    """|K|, and t, the `zeros`-th smallest of it."""
    size = kernel.abs()
    # not torch.quantile, which takes no more than 2^24 entries in older releases
    return size, size.flatten().kthvalue(zeros).values
