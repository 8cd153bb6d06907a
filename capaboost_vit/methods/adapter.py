"""CapaBoost-Adapter: a masked bottleneck beside (parallel) or behind (sequential) a sub-layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..core.masking import COEFFICIENTS
from ..core.rescaling import RESCALES
from ..io.options import option
from .index import register
from .method import COEFFICIENTS_HELP, RESCALE_HELP, MaskedMethod

if TYPE_CHECKING:
    from torch import nn


# what feeds the branch, and the scale where none is given (AdaptFormer's; Pfeiffer's)
_PLACEMENTS = {"parallel": ("input", 0.1), "sequential": ("output", 1.0)}


@register
@dataclass(frozen=True)
class Adapter(MaskedMethod):
    """CapaBoost-Adapter: s [ Wup act(Wdn x + a) + sum_j (Wup * Mup_j) diag(c_j) act((Wdn * Mdn_j) x + a) + b ].

    By default (`coefficients`, ours) the first branch has no masks, and the others have sign masks and learned
    coefficients c of their hidden units, which start at zero. If `pattern` or `density` is given without
    `coefficients`, all branches have masks, and it is CapaBoost's

        s [ sum_i (Wup * Mup_i) act((Wdn * Mdn_i) x + a) + b ].

    placement="parallel": x is the input of the sub-layer (for an MLP the output of the block's norm; AdaptFormer's own
    code uses the residual stream and a norm of the adapter). "sequential": x is the output of the sub-layer, before the
    residual connection; with whole blocks as targets it is the block's output, position "post" of Adapter+ (arXiv
    2406.06820).

    `learned_scale` is a further learned factor that starts at one; s is then 1 by default. "token" is relu(x w + b) for
    each token, with w of width D: the dynamic adapter of DAPT (arXiv 2403.01439, for point clouds, with rank 64 and a
    random start of w). A token with scale 0 has no update. `internal_prompt`: gelu of the adapter's output, averaged
    over the tokens, is one more token after the class token in all following blocks; the last adapted block removes
    these tokens (`vision.internal_prompt.InternallyPrompted`). The model then differs from the base at step 0.
    `rescale` scales the update, b too, by the factor that would give it the mean or the norm of the plain one if there
    were no activation.
    """

    name: ClassVar[str] = "adapter"
    usual_lr: ClassVar[float] = 1e-2  # its output is scaled by 0.1
    bottleneck: int = option(8, "width of the adapter", low=1)
    placement: str = option(
        "parallel",
        "parallel (on the sub-layer's input) or sequential (on its output)",
        choices=tuple(_PLACEMENTS),
    )
    scale: float | None = option(
        None,
        "factor of the adapter's output; null: 0.1 for parallel, 1 for sequential or with --method.learned-scale",
        nonzero=True,
    )
    learned_scale: str | None = option(
        None,
        "learned factor of the output, which starts at 1: scalar, channel, or token (relu(x w + b) of each token "
        "x); null: none",
        choices=("scalar", "channel", "token"),
    )
    internal_prompt: bool = option(
        False, "append the mean over tokens of gelu of the adapter's output as a token for the next blocks (DAPT)"
    )
    activation: str = option(
        "relu", "activation of the adapter: relu, gelu, silu or tanh", choices=("relu", "gelu", "silu", "tanh")
    )
    init: str = option(
        "zero",
        "initial values: zero (starts as the base model), or houlsby (weights from N(0, 0.01^2), starts near it)",
        choices=("zero", "houlsby"),
        compared=False,
    )
    dropout: float = option(0.0, "dropout on the adapter's input", low=0, below=1, compared=False)
    drop_path: float = option(
        0.0,
        "stochastic depth: probability that the adapter is skipped for an example in training",
        low=0,
        below=1,
        compared=False,
    )
    rescale: str | None = option(None, RESCALE_HELP, choices=RESCALES)
    coefficients: str | None = option(None, COEFFICIENTS_HELP, choices=COEFFICIENTS, compared=False)
    coefficient_lr_ratio: float = option(
        1.0, "learning rate of the coefficients, relative to that of the weights", above=0, compared=False
    )
    targets: tuple[str, ...] = option(
        ("mlp",), "roles or name patterns of sub-layers, or of whole blocks", compared=False
    )

    def learning_rates(self, model: nn.Module) -> Iterable[tuple[nn.Parameter, float]]:
        """The coefficients, at their ratio."""
        return core.rate_factors(model, coefficients=self.coefficient_lr_ratio)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper with one branch for each sub-layer.

        Raises ValueError for a target that matches nothing, TypeError for one without linear layers, whose width cannot
        be told.
        """
        source, default_scale = _PLACEMENTS[self.placement]
        scale = self.scale
        if scale is None:
            scale = default_scale if self.learned_scale is None else 1.0
        for name, places in core.find_parts(model, self.targets, anatomy, use=self.placement).items():
            base = core.get(model, name)
            in_features, out_features = core.features(base, name)
            # where a parallel place is the end of a sub-layer, its input comes as that module's residual
            fed_with = "residual" if places[0].site.only == "parallel" else source
            branch = core.LowRankBranch(
                in_features if fed_with == "input" else out_features,
                out_features,
                self.bottleneck,
                self.masking,
                scaling=scale * self.scaling_of_masks(),
                learned_scale=self.learned_scale,
                init=self.init,
                dropout=self.dropout,
                drop_path=self.drop_path,
                act=self.activation,
                bias=True,
                path=name,
            )
            yield name, core.Adapted(base, branch.to(**core.device_and_dtype(base)), fed_with)
        if self.internal_prompt:
            yield from self._internal_prompts(model, anatomy)

    def _internal_prompts(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each block with an adapter; the last takes off what the others have put in."""
        if anatomy.internally_prompted is None:
            raise ValueError(
                f"no internal prompt is known for {type(model).__name__}: it takes ViTs of timm with plain blocks, "
                "whose positions are absolute; leave internal_prompt out"
            )
        adapted = core.find_parts(model, self.targets, anatomy, use=self.placement)
        names = [name.rpartition(".")[0] for name in adapted]
        if len(names) < 2:
            raise ValueError("internal_prompt needs adapters in two blocks: a prompt is for those that follow")
        for index, name in enumerate(names):
            dropped = index if index == len(names) - 1 else None
            behind = getattr(model, "num_prefix_tokens", 0)
            yield name, anatomy.internally_prompted(core.get(model, name), behind=behind, dropped=dropped)

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the internal prompt."""
        return super().label(record) + (" internal prompt" if record.get("internal_prompt") else "")
