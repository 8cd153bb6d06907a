"""Deep LoRA: updates that are products of three factors, which training leads to few directions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .hooks import Stage
from .index import register
from .method import DROPOUT_HELP, INIT_SEED_HELP, TARGETS_HELP, Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class DeepLora(Method):
    """Deep LoRA: y = base(x) + dropout(x) dW^T, dW = W_3 W_2 W_1, or left W_3 W_2 W_1 right^T; not masked.

    With compress=True a run begins with a stage that computes the gradient of one update and sets left and right from
    it, see `DeepUpdate.compress`; they are trained at outer_lr_ratio times the learning rate. Without a run they are
    random.

    The gradient of a factor is about init_scale^2 = 1e-6 times that of the weight, which is of the size of Adam's eps,
    so the size of a step depends on eps. The authors use 1e-6, torch's default is 1e-8: --opt-eps 1e-6 gives theirs.

    There are no masks: the published results need orthogonal factors, and masked factors are not orthogonal.

    Source: Deep LoRA (ICML 2024), arXiv 2406.04112. Published for the dense layers of BERT at rank 8, not
    compressed, with AdamW at 1e-4 without weight decay: rank and form are these, the targets are LoRA's, and
    `usual_lr` is measured on images, where 1e-4 trains next to nothing in a short run. The paper has figures, but
    no accuracies in numbers, and nothing on images. The product of full width (594,542,592 parameters) does not
    exist here.
    """

    name: ClassVar[str] = "deep_lora"
    why_no_masks: ClassVar[str] = "it rests on orthogonal factors, which masked ones are not"
    usual_lr: ClassVar[float] = 1e-2
    rank: int = option(8, "width of the product; even with --method.compress", low=1)
    compress: bool = option(False, "add an outer factor on each side, set by the gradient of one update")
    init_scale: float = option(
        1e-3, "initial scale of the three factors, which start as orthogonal matrices", above=0, compared=False
    )
    outer_lr_ratio: float = option(
        1e-2, "gamma: learning rate of the outer factors, relative to that of the three", above=0, compared=False
    )
    dropout: float = option(0.0, DROPOUT_HELP, low=0, below=1, compared=False)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP, compared=False)
    init_seed: int = option(0, INIT_SEED_HELP, compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compress and self.rank % 2:
            raise ValueError(f"rank of method 'deep_lora' must be even to be compressed, got {self.rank}")

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With its form: `deep_lora r8 compressed`."""
        return super().label(record) + (" compressed" if record.get("compress") else "")

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, with an update for each of its parts that is a target.

        Raises ValueError for a target that matches nothing, or a compressed rank above a width; TypeError for a target
        that is no linear layer.
        """

        def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
            if self.compress and self.rank > min(in_features, out_features):
                raise ValueError(
                    f"a weight of {out_features} x {in_features}, as {path!r} has, has no {self.rank} directions to be "
                    "compressed to: say a smaller rank"
                )
            return core.DeepUpdate(
                in_features,
                out_features,
                self.rank,
                init_scale=self.init_scale,
                compressed=self.compress,
                init_seed=self.init_seed,
                path=path,
            )

        return core.dense_updates(model, self.targets, anatomy, make, self.dropout)

    def learning_rates(self, model: nn.Module) -> Iterable[tuple[nn.Parameter, float]]:
        """left and right, at their ratio."""
        return [(factor, self.outer_lr_ratio) for update in _updates(model) for factor in update.outer()]

    def stages(self, job: Any) -> Iterable[Stage]:
        """Compression, where it is asked for. Raises ValueError for a sharded model, whose weights no process has."""
        if not self.compress:
            return
        if job.config.fsdp:
            raise ValueError("deep_lora compresses whole weights, which --fsdp has in no process: leave it out")
        yield Stage("directions of the gradient of one update", lambda: _compress(job))


def _updates(model: nn.Module) -> list[core.DeepUpdate]:
    return [module for module in model.modules() if isinstance(module, core.DeepUpdate)]


def _compress(job: Any) -> None:
    """Compresses all updates by the gradient of the first update of the run, in float32, summed over the processes."""
    import torch

    updates = _updates(job.model)
    for update in updates:
        like = update.factors[0]
        update.probe = torch.nn.Parameter(like.new_zeros(update.out_features, update.in_features))
    job.called.train()
    if job.front is not None:
        job.front.fill()
    for batch in next(iter(job.train.epoch(0))).batches:
        inputs, targets = job.mix(job.prepare(batch))
        job.objective.loss(job.logits(inputs), targets).backward()
    for update in updates:
        assert update.probe is not None
        gradient, update.probe = update.probe.grad, None
        if gradient is not None:  # of a layer that the model calls; of others training complains
            update.compress(job.world.sum(gradient))
    job.model.zero_grad(set_to_none=True)
