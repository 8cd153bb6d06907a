"""A frozen linear layer with low-rank branches for parts of its rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..io.options import check_value
from .base import dense, is_plain_linear, meets, shape_of
from .branch import LowRankBranch
from .first_rows import outputs, splits
from .functional import EXECUTIONS, low_rank_linear, weight_space_pays
from .layout import Layout, layout_of
from .part_branches import LowRankWrapper, PartBranches
from .wrapper import merged_weights, unwrap

_SMALL = 4e7  # multiply-adds of the base's product: ViT-Tiny at 224 px with one or two images


class AdaptedLinear(LowRankWrapper):
    """`y = base(x) + dW x`, with a branch for each adapted part of a (possibly fused) linear layer.

    Args:
        base: the linear layer, also in wrappers.
        branches: a branch without activation for each adapted part, by name.
        parts: the names of all parts in the order of the rows, such as q, k and v of a fused qkv, if they are equal
            parts; otherwise a layout.
        execution: how it is computed, see `_space`.

    `weight` is W + dW, so code that reads the weight instead of calling the layer (timm's EVA, BEiT, Swin V2) is right,
    too.

    Raises:
        TypeError: base is not a linear layer.
        ValueError: rows that cannot be divided into the parts, a branch for an unknown part, or one of the wrong shape.
    """

    def __init__(
        self,
        base: nn.Module,
        branches: Mapping[str, LowRankBranch],
        parts: tuple[str, ...] | Layout = ("all",),
        execution: str = "auto",
    ) -> None:
        rows, columns = shape_of(unwrap(base))
        super().__init__(base)
        check_value("execution", execution, str, {"choices": EXECUTIONS})
        self.out_features, self.in_features = rows, columns
        self.layout = layout_of(rows, parts, branches)
        self.parts, self.execution = self.layout.parts, execution
        self.branches = PartBranches(branches, self.layout, columns)
        self.train(base.training)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def weight(self) -> Tensor:
        """W + dW, (out, in). Errors in it are never AttributeErrors, which nn.Module would hide."""
        weight = dense(self.base)
        return (weight + self.delta_weight()).to(weight.dtype)

    def gate_widths(self) -> dict[str, int]:
        """The gates look at the layer's input."""
        return dict.fromkeys(self.additions(), self.in_features)

    def merged(self, base: nn.Module) -> nn.Module:
        """The layer with W + dW."""
        return merged_weights(self, base)

    def by_row(self) -> bool:
        """Yes, but for a gate, which looks at all of them."""
        return not self.gated()

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x, 0, self.out_features)

    def splits(self, at: int) -> bool:
        """Between its parts: a branch draws its dropout once."""
        return self.layout.splits(at) and self.by_row() and splits(self.base, at)

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The features from `start` to `stop` of whole parts, (..., stop - start)."""
        layout = self.layout.between(start, stop)
        branches = {part: branch for part, branch in self.branches.in_order().items() if part in layout.parts}
        if not branches:
            return outputs(self.base, x, start, stop)
        space = self._space(x)
        if space != "plain":
            return self._fast(x, start, stop, branches, in_weight_space=space == "weight")
        y = outputs(self.base, x, start, stop)
        deltas = {part: branch(x) for part, branch in branches.items()}
        return (y + layout.join(deltas, -1, lambda rows: torch.zeros_like(y[..., :rows]))).to(y.dtype)

    def _space(self, x: Tensor) -> str:
        """Where this call is computed.

        - plain: by PyTorch's own operations, one after the other. Always, where the others do not apply: a gate;
          dropout in training; a base that is trained, quantised, hooked or no plain `nn.Linear`; an empty input, or
          one of another dtype than the branches (float32 beside a bfloat16 base) without autocast; parts that lie
          head by head;
          tracing by `torch.jit` (FLOP counters) and `torch.export`, whose graphs are for all batch sizes. With "auto"
          also where a function written in Python costs more than it saves: little work, differentiated in eager mode.
        - weight: one product with W + dW, see `functional.low_rank_linear`; with "auto", where it costs less than
          token space.
        - token: the two thin products beside the base's, in one function.
        """
        branches = self.branches.in_order().values()
        fast = (
            self.execution != "plain"
            and self.layout.heads == 1
            and is_plain_linear(self.base)
            and not self.base.weight.requires_grad
            and self.base.weight.is_floating_point()
            and x.is_floating_point()
            and x.numel() > 0
            and all(meets(x, branch.down.weight) for branch in branches)
            and not any(branch.gate is not None or branch.draws() for branch in branches)
            and not torch.jit.is_tracing()
            # older releases cannot tell torch.export from torch.compile
            and not getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
        )
        if not fast:
            return "plain"
        if self.execution != "auto":
            return self.execution
        weight, tokens = self.base.weight, x.numel() // x.shape[-1]
        eager = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if eager and tokens * weight.numel() < _SMALL:
            return "plain"
        return "weight" if weight_space_pays(tokens, *weight.shape) else "token"

    def _fast(
        self, x: Tensor, start: int, stop: int, branches: Mapping[str, LowRankBranch], *, in_weight_space: bool
    ) -> Tensor:
        spans = self.layout.spans()
        downs, ups = zip(*(branch.factors() for branch in branches.values()), strict=True)
        bias = self.base.bias
        return low_rank_linear(
            x,
            self.base.weight[start:stop],
            None if bias is None else bias[start:stop],
            [(spans[p][0] - start, spans[p][1] - start, branch.scaling) for p, branch in branches.items()],
            downs[0] if len(downs) == 1 else torch.cat(downs),
            ups,
            in_weight_space=in_weight_space,
        )
