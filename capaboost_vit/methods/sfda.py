"""Source-free domain adaptation: a trained model learns a new domain from its images alone, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .hooks import Pass, Stage
from .index import register
from .method import TARGETS_HELP, Method

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class Sfda(Method):
    """Source-free domain adaptation: y = base(x) + x dW^T, dW = U G V^T, G trained without labels, the head frozen.

    U and V are the first singular vectors of the weight and frozen (`core.SingularUpdate`). The loss of the run is
    replaced: for the predicted probabilities p of a batch of B examples, and the entropy H, it is

        B [entropy_weight mean(H(p)) - diversity_weight H(mean(p))],

    so that each prediction is confident, and predictions differ from each other. The base has to be a trained model
    with the same classes; the model is the base at step 0. Labels of the training split are not used, those of val and
    test only for scores; options that would select by labels are refused. There are no masks, as two of three factors
    are frozen.

    Source: low-rank core adaptation of arXiv 2410.02147 (ICLR 2025), with the objective of SHOT (ICML 2020) without
    pseudo-labels. There the factors come from a Tucker decomposition of convolutions over time, and replace the weights
    when source training continues, which saves operations and changes the base. Here the rest of the weight is kept, so
    no operations are saved. The published ranks and learning rates were not found: these are ours.
    """

    name: ClassVar[str] = "sfda"
    why_no_masks: ClassVar[str] = "two of its three factors are frozen"
    timm_names: ClassVar[bool] = False  # a head that is new would stay random
    trains_head: ClassVar[bool] = False
    uses_labels: ClassVar[bool] = False
    usual_lr: ClassVar[float] = 3e-3
    rank: int = option(16, "number of singular vectors of each weight that are mixed", low=1)
    entropy_weight: float = option(
        1.0, "weight of the mean entropy of the predictions, which is minimised", low=0, compared=False
    )
    diversity_weight: float = option(
        1.0, "weight of the entropy of the mean prediction, which is maximised", low=0, compared=False
    )
    targets: tuple[str, ...] = option(("query", "key", "value", "attn_out"), TARGETS_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises:
            ValueError: a target that matches nothing, or a rank above the smaller side of a weight.
            TypeError: a target that is no linear layer, or has a weight of integers.
        """

        def make(weight: Callable[[], Tensor], in_features: int, out_features: int, path: str) -> nn.Module:
            return core.SingularUpdate(weight(), self.rank)

        return core.dense_updates(model, self.targets, anatomy, make, reader="sfda")

    def stages(self, job: Any) -> Iterable[Stage]:
        """None; refuses before it begins what has no classes, a head that is not trained, and a choice by labels.

        Raises ValueError.
        """
        config = job.config
        if not job.objective.confusion:
            raise ValueError("sfda makes answers sure and different, which is of one class per example: these are none")
        if fresh := getattr(job.model, "fresh_modules", ()):
            raise ValueError(
                f"sfda keeps the head, and {fresh[0]} is not in the weights for these classes: train on a source, "
                "`capaboost merge` that run, and give its folder as --model"
            )
        by_labels = {"--patience": config.patience is not None, f"--select {config.select}": config.select != "last"}
        by_labels["--class-weights"] = getattr(config, "class_weights", None) is not None
        by_labels["--sampling balanced"] = getattr(config, "sampling", "shuffle") == "balanced"
        by_labels["--mixup or --cutmix"] = any(getattr(config, name, 0) > 0 for name in ("mixup", "cutmix"))
        if used := [name for name, is_given in by_labels.items() if is_given]:
            raise ValueError(f"sfda reads no labels, and {used[0]} goes by them: leave it out")
        return ()

    def losses(self, forward: Pass, inputs: Any, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch; the targets are not read."""
        logs = outputs.float().log_softmax(-1)
        entropy = -(logs.exp() * logs).sum(-1).mean()
        mean = logs.exp().mean(0)
        diversity = -(mean * mean.clamp(min=1e-12).log()).sum()
        return len(outputs) * (self.entropy_weight * entropy - self.diversity_weight * diversity)
