"""Lion on weights and momentum of 8 bits, with a few exact outliers: QFT's optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_LARGEST = 127  # of the integers


class QuantisedLion(torch.optim.Optimizer):
    """`m' = b1 m + (1 - b1) g; w <- Q(w - lr (sign(m') + decay w)); m <- Q(b2 m + (1 - b2) g)`, Q to 8-bit integers.

    Each row of a weight has a step s, fixed before its first update so that all but `outliers` of its entries lie
    within 127 s. Those within become integer multiples of s, rounded at random to the one above or below so that the
    mean is exact: a step below half of s, which the nearest integer would undo, moves w in the mean. Those beyond are
    outliers and stay exact, as do vectors (biases, norms). The momentum of a row has the step max |m| / 127, anew in
    each update.

    A weight stays a floating-point tensor, which the layers of a model need, of values that 8-bit integers and the
    outliers hold: it can be stored in a byte for each entry. The optimizer keeps one byte for each entry of a matrix,
    and two numbers for each row; AdamW keeps eight bytes. In 16 bits a product of integer and s is rounded, so that the
    mean would drift: such weights are refused. A row of zeros has no step, and stays exact.

    It draws from torch's global random stream, as optimizers of timm do; the training loop sets it for each update.

    Args:
        params, lr, betas, weight_decay: as in timm's Lion.
        outliers: share of the entries of each row that begin exact.

    Source: QFT, arXiv 2310.07147; its text was at hand in excerpts, and there is no official code. Granularity and
    rounding were not found, and are ours: steps by row, stochastic rounding. Deviations: gradients are not quantised;
    which entries are exact follows from s, where the paper is said to choose them once an epoch.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        outliers: float = 0.01,
    ) -> None:
        if lr < 0 or not all(0 <= beta < 1 for beta in betas) or not 0 <= outliers < 1:
            raise ValueError(f"lr must be at least 0, betas and outliers in [0, 1), got {lr}, {betas}, {outliers}")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "outliers": outliers})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient.

        Raises RuntimeError for a sparse one, TypeError for a weight of 16 bits.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    if weight.grad.is_sparse:
                        raise RuntimeError("qlion8 takes no sparse gradients: choose adamw")
                    if weight.dtype not in (torch.float32, torch.float64):
                        raise TypeError(
                            f"qlion8 makes multiples of a step, which {weight.dtype} does not hold: say model.float()"
                        )
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, is_vector = self.state[weight], weight.dim() < 2
        if not state:
            state["momentum"] = torch.zeros_like(weight, dtype=weight.dtype if is_vector else torch.int8)
            if not is_vector:
                state["step_of_weight"] = _step_of(weight.flatten(1), group["outliers"])
                state["step_of_momentum"] = torch.zeros_like(state["step_of_weight"])
        (beta1, beta2), lr = group["betas"], group["lr"]
        momentum, value = state["momentum"].to(weight.dtype), weight
        if not is_vector:
            gradient, value = gradient.flatten(1), weight.flatten(1)
            momentum = momentum.flatten(1) * state["step_of_momentum"]
        direction = torch.lerp(gradient, momentum, beta1).sign()
        value = value - lr * (direction + group["weight_decay"] * value)
        momentum = torch.lerp(gradient, momentum, beta2)
        if is_vector:
            state["momentum"] = momentum
        else:
            step = momentum.abs().amax(1, keepdim=True) / _LARGEST
            codes = _rounded(momentum / step.clamp_min(_tiny(step))).clamp(-_LARGEST, _LARGEST)
            # int8 again behind `load_state_dict`, which makes floating-point numbers of all states
            state["momentum"], state["step_of_momentum"] = codes.to(torch.int8).view(weight.shape), step
            scaled = value / state["step_of_weight"]
            dense = _rounded(scaled).clamp(-_LARGEST, _LARGEST) * state["step_of_weight"]
            value = torch.where(scaled.abs() <= _LARGEST, dense, value)
        weight.copy_(value.view(weight.shape))


def _step_of(rows: Tensor, outliers: float) -> Tensor:
    """s of each row, (rows, 1): all but a share of the entries lie within 127 s."""
    within = max(1, round((1 - outliers) * rows.shape[1]))
    step = rows.abs().kthvalue(within, 1, keepdim=True).values / _LARGEST
    return step.clamp_min(_tiny(step))


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny


def _rounded(x: Tensor) -> Tensor:
    """Integers above or below, with the mean x."""
    return (x + torch.rand_like(x)).floor()
