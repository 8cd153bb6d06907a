"""AdaLoRA: updates P diag(lambda) Q, whose ranks share one budget that shrinks in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, DROPOUT_HELP, TARGETS_HELP, MaskedMethod, Stage

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class Adalora(MaskedMethod):
    """AdaLoRA: y = base(x) + dropout(x) dW^T, dW = alpha / (init_r + 1e-5) sum_i (P * MP_i) diag(lambda) (Q * MQ_i).

    A triplet is an entry of lambda with its column of P and its row of Q. After update t of T (counted from 1) the K
    adapted matrices together keep the b(t) triplets with the highest scores (`SvdUpdate.scores`); the lambda of all
    others is set to zero, and a pruned triplet can come back later. b(t) is init_r K up to update tinit, and target_r K
    from update T - tfinal on, where scores no longer change. In between, triplets are pruned if deltaT divides t, with

        b(t) = int((init_r - target_r) K (1 - (t - tinit) / (T - tfinal - tinit))^3 + target_r K).

    In training, orth_reg_weight times the mean of |P^T P - I| and |Q Q^T - I| over all matrices is added to the mean
    loss of an update. These are Frobenius norms, not squared, of the factors without masks.

    The adapter file stores all triplets, the pruned ones with lambda zero: the shapes of its tensors follow from the
    options alone, so it loads into any model with these options, and pruned triplets can come back in further training.
    It is init_r / target_r times as large as needed; a merged model contains only dW. Scores use the unscaled gradient
    of the whole update, with gradient accumulation and mixed precision, too.

    After the last update the mean rank is target_r. A model selected on val before update T - tfinal, or a moving
    average of the weights, has a higher mean rank. A training loop of your own adds `penalty` to the loss, and calls
    `after_step` after each step of the optimizer, before the gradients are set to zero.

    As published there are no masks: the default is num_branches=1 with density=1. With masks (ours) all views share
    lambda, and P diag(lambda) Q is no longer a singular value decomposition.

    Source: AdaLoRA (ICLR 2023), arXiv 2303.10512. Names and defaults are those of PEFT's AdaLoraConfig, except for
    total_step, which is that of the run. As in the reference code, scores combine the gradients of an update with the
    weights after it (paper: before it), norms are not squared (paper: squared), and the scaling keeps init_r when ranks
    fall. Settings for images are not published: the targets are LoRA's, and `usual_lr` is measured.
    """

    name: ClassVar[str] = "adalora"
    usual_lr: ClassVar[float] = 3e-2
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    init_r: int = option(12, "initial rank of each matrix", low=1)
    target_r: int = option(8, "final rank, on average over the matrices", low=1, compared=False)
    tinit: int = option(0, "updates before the first pruning", low=0, compared=False)
    tfinal: int = option(0, "updates at the end with fixed ranks", low=0, compared=False)
    deltaT: int = option(1, "updates between prunings", low=1, compared=False)  # PEFT's name
    beta1: float = option(0.85, "decay of the moving average of the sensitivity", above=0, below=1, compared=False)
    beta2: float = option(0.85, "decay of the moving average of the uncertainty", above=0, below=1, compared=False)
    orth_reg_weight: float = option(
        0.5, "gamma: weight of the penalty that keeps P and Q orthogonal", low=0, compared=False
    )
    alpha: float = option(8.0, "the update is scaled by alpha / init_r", nonzero=True)
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_r > self.init_r:
            raise ValueError(
                f"ranks fall from init_r to target_r: target_r={self.target_r} must be at most init_r={self.init_r}"
            )

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the rank that it begins with, and the one that is left: `adalora r12-8`."""
        name, *properties = super().label(record).split(" ")
        return " ".join([name, f"r{record['init_r']}-{record['target_r']}", *properties])

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, TypeError for one that is no linear layer.
        """

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            scaling = self.alpha / (self.init_r + 1e-5)  # as in the reference code
            return core.SvdUpdate(in_features, out_features, self.init_r, self.masking, scaling=scaling, path=path)

        return core.dense_updates(model, self.targets, anatomy, make, self.dropout)

    def budget(self, t: int, updates: int, matrices: int) -> int:
        """b(t), of the t-th of so many updates (from 1). Raises ValueError if there is no update to prune in."""
        last = updates - self.tfinal
        if self.tinit >= last:
            raise ValueError(
                f"adalora prunes between tinit={self.tinit} and the {updates} updates of the run less "
                f"tfinal={self.tfinal}, which is no update at all: make one of the two smaller, or train longer"
            )
        remaining = 1 - (min(max(t, self.tinit), last) - self.tinit) / (last - self.tinit)
        return int(((self.init_r - self.target_r) * remaining**3 + self.target_r) * matrices)

    def stages(self, job: Any) -> Iterable[Stage]:
        """None; refuses a run that is too short for its schedule before it begins, as `budget` does."""
        self.budget(0, job.state.updates, 1)
        return ()

    def penalty(self, model: nn.Module) -> Tensor | None:
        """gamma times the mean over all P and Q."""
        if self.orth_reg_weight == 0:
            return None
        norms = [update.orthogonality() for update in _updates(model)]
        return self.orth_reg_weight * sum(norms[1:], norms[0]) / (2 * len(norms))

    def after_step(self, model: nn.Module, update: int, updates: int) -> None:
        """Takes the gradients into the scores, up to T - tfinal, and prunes where it is time."""
        parts, t, last = _updates(model), update + 1, updates - self.tfinal
        budget = self.budget(t, updates, len(parts))
        if t < last:
            for part in parts:
                part.update_averages(self.beta1, self.beta2)
        if t >= last or (t > self.tinit and t % self.deltaT == 0):
            for part, kept in zip(parts, core.kept_triplets(parts, budget), strict=True):
                part.keep(kept)


def _updates(model: nn.Module) -> list[core.SvdUpdate]:
    return [module for module in model.modules() if isinstance(module, core.SvdUpdate)]
