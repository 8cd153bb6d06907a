"""DyT: a gate for each token decides whether the MLP, or the attention, sees it; an adapter sees all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .hooks import Counts, Pass, Stage
from .index import register
from .method import BRANCHES_HELP, DENSITY_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class Dyt(MaskedMethod):
    """DyT (Dynamic Tuning): x = x + Attn(LN x); y = x + M * MLP(LN x) + scale * adapter(x), M 0 or 1 for each token.

    The gate of a token is g = x w + b. In training M is 1 with probability sigmoid(g); in evaluation M = [g > 0], the
    tokens with M = 1 are gathered, and the MLP computes nothing for the others. The class token, and all other tokens
    that are no patches, always have M = 1 (`core.TokenDispatcher`). The adapter is sum_i (Wup * Mup_i) relu((Wdn *
    Mdn_i) x + a) + b of the output of the attention, residual included, without a norm.

    Let y be the outputs of a batch of B examples, and y' those of a second pass with M = 1. To the loss L(y) is added

        complete_weight L(y') + kl_weight KL(y' || y) + B rate_weight (mean(M) - rate)^2.

    y' has no gradient in the second term. The mean is over the examples of the process, the blocks and the patches, so
    the rates of single blocks may differ. As published, the realised rate stays above the target (0.545 instead of
    0.5); a run reports it on val and test.

    With other values of `dispatch` the gate selects the tokens of the attention, which is then among the selected
    tokens only, or those of attention and MLP, by a gate each or by one (`vision.dispatched_block.DispatchedBlock`).
    They are published with rates of 0.5, 0.7 and 0.7, and lower accuracy.

    At step 0 the model with M = 1 is the base; with gates, which select about half of the tokens, it is not. If the
    head reads only the class token, the last block's outputs for patches are unused: its gate learns from the third
    term alone.

    As published there are no masks: the default is num_branches=1 with density=1. Masks apply to the adapter.

    Source: DyT (NeurIPS 2024), arXiv 2403.11808, without its MoE-adapter, whose experts are mixed by weights for each
    image: it is not released, and lowers accuracy on images (CIFAR-100 from 91.37 to 91.01). Deviations: dropout is on
    the input of the adapter and 0 by default (there 0.1, inside), and the second pass draws no noise, as it has no
    gates. The published position of the adapter with other values of `dispatch` was not found: here it is parallel to
    the MLP, or to attention and MLP ("layer"). `capacity` is ours.
    """

    name: ClassVar[str] = "dyt"
    needs_plain_attention: ClassVar[bool] = True
    starts_as_base: ClassVar[bool] = False
    usual_lr: ClassVar[float] = 3e-3
    measures: ClassVar[tuple[str, ...]] = ("rate",)
    num_branches: int = option(1, BRANCHES_HELP, low=1)
    density: float | None = option(1.0, DENSITY_HELP, compared=False)
    bottleneck: int = option(8, "width of the adapter", low=1)
    scale: float = option(1.0, "factor of the adapter's output", nonzero=True)
    dropout: float = option(0.0, "dropout on the adapter's input", low=0, below=1, compared=False)
    dispatch: str = option(
        "mlp",
        "which sub-layer only the selected tokens enter: mlp; attn (attention among them); attn-mlp (both, with a gate "
        "each); layer (both, with one gate)",
        choices=("mlp", "attn", "attn-mlp", "layer"),
    )
    rate: float = option(0.5, "target of the fraction of patches that are selected", low=0, high=1)
    rate_weight: float = option(
        2.0, "weight of the squared distance of that fraction from its target in the loss", low=0, compared=False
    )
    complete_weight: float = option(1.0, "weight of the loss of a second pass with all tokens", low=0, compared=False)
    kl_weight: float = option(
        1.0, "weight of the KL divergence from the predictions of the second pass", low=0, compared=False
    )
    tau: float = option(5.0, "temperature of the gate's gradient", above=0, compared=False)
    sampled: bool = option(
        True,
        "select tokens at random by the gate's probability in training; false: by its sign, as in evaluation",
        compared=False,
    )
    capacity: float | None = option(
        None,
        "in evaluation select at most this fraction of patches, the same number in each image, so that shapes are "
        "fixed; null: all that the gate selects",
        above=0,
        high=1,
        compared=False,
    )
    targets: tuple[str, ...] = option(("block",), "role or name pattern of the blocks", compared=False)

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the target of the rate, and what is dispatched: `dyt w8 rate 0.5`, `dyt w8 layer rate 0.7`."""
        dispatch = "" if record["dispatch"] == "mlp" else f" {record['dispatch']}"
        return f"{super().label(record)}{dispatch} rate {record['rate']:g}"

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each block.

        Raises ValueError if no token dispatch is known for this model, or none of attention where there is no class
        token; TypeError for a block in another wrapper.
        """
        if anatomy.dispatched is None:
            raise ValueError(
                f"no token dispatch is known for {type(model).__name__}: dyt takes ViTs of timm with plain blocks; use "
                "adapter"
            )
        always = getattr(model, "num_prefix_tokens", 0)
        if self.dispatch != "mlp" and always == 0:
            raise ValueError(
                f"dispatch={self.dispatch!r} needs a token that takes part in every attention, and this "
                f"{type(model).__name__} has no class token: use dispatch='mlp'"
            )
        for name in core.find_parts(model, self.targets, anatomy):
            base = core.get(model, name)
            width = core.features(base, name)[0]
            device = core.device_and_dtype(base)
            gates = {
                gate: core.TokenDispatcher(
                    width,
                    always=always,
                    tau=self.tau,
                    sampled=self.sampled,
                    capacity=self.capacity,
                    init_seed=self.init_seed,
                    path=f"{name}.gates.{gate}",
                ).to(**device)
                for gate in self.dispatch.split("-")
            }
            adapter = core.LowRankBranch(
                width,
                width,
                self.bottleneck,
                self.masking,
                scaling=self.scale,
                dropout=self.dropout,
                act="relu",
                bias=True,
                path=name,
            )
            yield name, anatomy.dispatched(base, gates, adapter.to(**device))

    @contextmanager
    def counted(self, model: nn.Module) -> Iterator[Callable[[], Counts]]:
        """The tokens that are dispatched, of all but those that always are."""
        with core.realised_rate(model) as rate:
            yield lambda: {"rate": rate.counts()}

    def stages(self, job: Any) -> Iterable[Stage]:
        """None; refuses before it begins what the losses do not fit.

        Raises ValueError for recomputed blocks, or for a KL term of what is no class.
        """
        if job.config.grad_checkpointing:
            raise ValueError(
                "recomputed blocks cannot tell the two passes of dyt apart: train without --grad-checkpointing"
            )
        if self.kl_weight > 0 and not job.objective.confusion:
            raise ValueError("the KL term of dyt is of classes, and these are none: say --method.kl-weight 0")
        return ()

    def losses(self, forward: Pass, inputs: Any, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The three terms; a second pass only where its terms have a weight."""
        from torch.nn import functional as F

        means = [gate.mask.mean() for gate in core.dispatchers(forward.model) if gate.mask is not None]
        mean = sum(means[1:], means[0]) / len(means)
        value = len(outputs) * self.rate_weight * (mean - self.rate) ** 2
        if self.complete_weight > 0 or self.kl_weight > 0:
            with core.complete(forward.model):
                complete = forward(inputs)
            if self.complete_weight > 0:
                value = value + self.complete_weight * forward.loss(complete, targets)
            if self.kl_weight > 0:
                of_routed, of_complete = (y.float().log_softmax(-1) for y in (outputs, complete.detach()))
                value = value + self.kl_weight * F.kl_div(of_routed, of_complete, reduction="sum", log_target=True)
        return value
