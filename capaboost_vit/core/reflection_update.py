"""Changes of a weight by Householder reflections: HRA, ETHER and the relaxed ones of ETHER+."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .start_values import uniform


class ReflectionUpdate(nn.Module):
    """`W + dW = W diag(Q_1, ..., Q_n)`, `Q = (I - 2 u_1 u_1^T) ... (I - 2 u_R u_R^T)` for unit vectors u of each block.

    The vectors are normalised in each call, so their lengths only change the size of a step, and they have no weight
    decay. dW is computed without Q: with `T^-1 = I / 2 + triu(U^T U, 1)` (R, R) it is `-(W U) T U^T`, the compact WY
    form.

    Args:
        rank: R, the number of reflections of a block.
        num_blocks: n, a divisor of the number of inputs.
        paired: vectors start in equal pairs, whose reflections cancel, so that dW is zero at step 0.
        bound: the initial values are from U(-bound, bound).
        init_seed: with the path the key of the initial values.
        path: name of the update in the model.

    Source: Householder reflections in HRA, arXiv 2405.17484, and ETHER, arXiv 2405.20271. Raises ValueError if
    num_blocks does not divide the number of inputs, or equals it.
    """

    def __init__(
        self,
        in_features: int,
        rank: int,
        *,
        num_blocks: int = 1,
        paired: bool,
        bound: float,
        init_seed: int = 0,
        path: str = "",
    ) -> None:
        super().__init__()
        assert not (paired and rank % 2), f"pairs of {rank} reflections"
        width = _width(in_features, num_blocks, path)
        start = uniform((num_blocks, width, rank // 2 if paired else rank), bound, init_seed, f"{path}.init")
        self.vectors = nn.Parameter(start.repeat_interleave(2, dim=2) if paired else start)  # (n, in / n, R)

    def no_weight_decay(self) -> set[str]:
        """All parameters."""
        return {"vectors"}

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in), in at least float32. Raises what `weight` raises."""
        wide = torch.promote_types(self.vectors.dtype, torch.float32)
        u = F.normalize(self.vectors.to(wide), dim=1)
        blocks = weight().to(wide).unflatten(1, (len(u), -1)).transpose(0, 1)  # (n, out, in / n)
        inverse = (u.mT @ u).triu(1) + 0.5 * torch.eye(u.shape[2], dtype=wide, device=u.device)
        change = torch.linalg.solve_triangular(inverse, u.mT, upper=True)  # T U^T, (n, R, in / n)
        return -((blocks @ u) @ change).transpose(0, 1).flatten(1)

    def extra_repr(self) -> str:
        blocks, width, rank = self.vectors.shape
        return f"rank={rank}, {blocks} blocks of {width}"


class RelaxedReflectionUpdate(nn.Module):
    """`W + dW = H_out W H_in`, both block-diagonal with n blocks `I - u u^T + v v^T` for unit vectors u and v: ETHER+.

    v starts as -u, so that dW is zero at step 0. The vectors have no weight decay, as those of `ReflectionUpdate`.

    Args:
        num_blocks: n, a divisor of both widths.
        two_sided: whether there is an H_out.
        init_seed, path: key of the initial values, U(-1/sqrt(k), 1/sqrt(k)) for vectors of k entries, which is
            kaiming_uniform(a=sqrt(5)).

    Source: ETHER+, arXiv 2405.20271. Raises ValueError if num_blocks does not divide a width,
    or equals it.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_blocks: int = 1,
        two_sided: bool = True,
        init_seed: int = 0,
        path: str = "",
    ) -> None:
        super().__init__()
        self.inputs = nn.Parameter(_pair("inputs", in_features, num_blocks, init_seed, path))
        self.outputs = nn.Parameter(_pair("outputs", out_features, num_blocks, init_seed, path)) if two_sided else None

    def no_weight_decay(self) -> set[str]:
        """All: their length has no effect."""
        return {"inputs", "outputs"}

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in), in at least float32. Raises what `weight` raises."""
        w = weight().to(torch.promote_types(self.inputs.dtype, torch.float32))
        change = _relaxed(w, self.inputs)
        return change if self.outputs is None else change + _relaxed((w + change).t(), self.outputs).t()

    def extra_repr(self) -> str:
        return f"{self.inputs.shape[1]} blocks, {'one side' if self.outputs is None else 'two sides'}"


def _width(features: int, num_blocks: int, path: str) -> int:
    """Of a block; of one number a unit vector is a sign, which no gradient changes."""
    if features % num_blocks or features == num_blocks:
        raise ValueError(
            f"num_blocks must divide the width of each layer, {features} of {path!r}, into blocks of two or more, got "
            f"{num_blocks}"
        )
    return features // num_blocks


def _pair(side: str, features: int, num_blocks: int, init_seed: int, path: str) -> Tensor:
    """u and v = -u of all blocks, (2, n, features / n)."""
    width = _width(features, num_blocks, path)
    u = uniform((num_blocks, width), width**-0.5, init_seed, f"{path}.{side}.init")
    return torch.stack([u, -u])


def _relaxed(weight: Tensor, pair: Tensor) -> Tensor:
    """`W (H - I)` for the H of a pair (2, n, in / n), (out, in)."""
    u, v = F.normalize(pair.to(weight.dtype), dim=2).unsqueeze(2)  # (n, 1, in / n) each
    blocks = weight.unflatten(1, (u.shape[0], -1)).transpose(0, 1)  # (n, out, in / n)
    change = (blocks @ v.mT) @ v - (blocks @ u.mT) @ u  # exactly zero for v = -u
    return change.transpose(0, 1).flatten(1)
