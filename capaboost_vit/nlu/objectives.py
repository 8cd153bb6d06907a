"""Objectives of tasks that are no classification: regression, spans of a text, masked language modelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..training.distributed import ProcessGroup

Score = Callable[[Tensor, Any], Mapping[str, float]]


class Outputs:
    """Accumulated outputs (examples, ...), in the order of the split, each once.

    Args:
        batches: have `indices`, those in the split of this process's examples.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.rows: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Keeps the rows of all examples but those that are padding."""
        if targets.is_floating_point():
            real = ~targets.isnan()
        else:
            real = (targets if targets.ndim == 1 else targets[:, 0]) >= 0
        self.rows.append(outputs.float().cpu()[real.cpu()])

    def result(self, world: ProcessGroup) -> Tensor:
        """Gathered from all processes; outputs of unequal length are padded with -inf."""
        rows = world.gather(self.rows)
        longest = max(block.shape[-1] for block in rows)
        padded = torch.cat([F.pad(block, (0, longest - block.shape[-1]), value=-torch.inf) for block in rows])
        # process k has every n-th example: back to the order of the split
        return padded[torch.tensor(world.gather(self.batches.indices)).argsort()]


class Regression:
    """Squared error of outputs (B, 1) against targets (B,); NaN is the padding label.

    Args:
        score: scores by name, from the outputs (examples,) and the batches.
        names: of the scores; the best epoch is chosen by the first.
    """

    counts_right = False

    def __init__(self, *, score: Score, names: tuple[str, ...]) -> None:
        self.score, self.names = score, names

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over the examples."""
        real = ~targets.isnan()
        return ((outputs.float().squeeze(-1) - targets.nan_to_num()) * real).square().sum()

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """None: a number is never right or wrong."""
        return torch.zeros((), device=outputs.device)

    def accumulator(self, batches: Any) -> Outputs:
        """Outputs are kept."""
        return Outputs(batches)

    def scores(self, accumulated: Tensor, batches: Any) -> dict[str, float]:
        """From the outputs."""
        return dict(self.score(accumulated.squeeze(-1), batches))


class Spans:
    """Mean of the cross-entropies of start and end, outputs (B, 2, N), targets (B, 2); -1 is the padding label.

    Args:
        score: scores by name, from the outputs (windows, 2, N) and the batches.
        names: of the scores; the best epoch is chosen by the first.
    """

    counts_right = True

    def __init__(self, *, score: Score, names: tuple[str, ...]) -> None:
        self.score, self.names = score, names

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over the windows."""
        return F.cross_entropy(outputs.float().transpose(1, 2), targets, ignore_index=-1, reduction="sum") / 2

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Windows of which both ends are found."""
        return (outputs.argmax(-1) == targets).all(-1).sum()

    def accumulator(self, batches: Any) -> Outputs:
        """Outputs are kept, for the answer of a question is chosen among its windows."""
        return Outputs(batches)

    def scores(self, accumulated: Tensor, batches: Any) -> dict[str, float]:
        """From the outputs."""
        return dict(self.score(accumulated, batches))


class MaskedTokens:
    """Cross-entropy of the asked tokens, the mean in each example: outputs (B, N, V), targets (B, N), -100 elsewhere.

    An example without an asked token counts for nothing.
    """

    counts_right = False
    names = ("accuracy", "log_likelihood")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over the examples."""
        losses, asked = _token_losses(outputs, targets)
        return (losses.sum(1) / asked.sum(1).clamp(min=1)).sum()

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """None: an example has many tokens."""
        return torch.zeros((), device=outputs.device)

    def accumulator(self, batches: Any) -> TokenCounts:
        """Masked tokens are counted."""
        return TokenCounts()

    def scores(self, accumulated: Tensor, batches: Any) -> dict[str, float]:
        """Share of tokens that are found (%), and minus the mean cross-entropy of a token, in nats."""
        right, total, loss = accumulated.tolist()
        return {"accuracy": 100 * right / total, "log_likelihood": -loss / total}


class TokenCounts:
    """How many asked tokens were found, how many there were, and the sum of their cross-entropies."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """outputs (B, N, V), targets (B, N)."""
        losses, asked = _token_losses(outputs, targets)
        right = (outputs.argmax(-1) == targets) & asked
        sums = torch.stack([right.sum().double(), asked.sum().double(), losses.double().sum()])
        self.sums = sums if self.sums is None else self.sums + sums

    def result(self, world: ProcessGroup) -> Tensor:
        """The sums over all processes."""
        assert self.sums is not None
        return world.sum(self.sums).cpu()


def _token_losses(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token (B, N), zero where none is asked, and where one is."""
    asked = targets >= 0
    losses = F.cross_entropy(outputs.float().transpose(1, 2), targets.where(asked, -100), reduction="none")
    return losses, asked
