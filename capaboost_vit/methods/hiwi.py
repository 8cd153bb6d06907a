"""HiWi: adapters of the biases, of which the new biases alone are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .hooks import Stage
from .index import register
from .method import INIT_SEED_HELP, Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Hiwi(Method):
    """HiWi: y = W x + b', b' = b + B act(A b), an adapter whose input is the bias of a layer; not masked.

    It is trained as an adapter and stored as the new biases: `fold`, which a run calls before it saves, keeps only b',
    46,080 parameters for both MLP layers of ViT-B at any width. There are no masks, as a vector has no rank to raise. A
    bias of zeros, as in untrained models, stays zero; a run whose biases are all zero is refused: use bitfit there.

    Source: HiWi (ACL 2023), arXiv 2305.16742, whose text was not available: the exact equation, the adapted biases,
    width and activation are not known. This is how others describe it, an adapter applied to a bias as a row, with B
    zero at first so that the model is the base at step 0. The published size, 0.03 % of RoBERTa-large, fits the biases
    of both MLP layers, and those of the first alone. The variant for weights does not exist here: `neat` has the same
    formula.
    """

    name: ClassVar[str] = "hiwi"
    why_no_masks: ClassVar[str] = "a vector has no rank to raise"
    timm_names: ClassVar[bool] = False
    bottleneck: int | None = option(8, "width of the adapter; null: train the biases themselves", low=1)
    activation: str = option(
        "relu", "activation of the adapter: relu, gelu, silu or tanh", choices=("relu", "gelu", "silu", "tanh")
    )
    targets: tuple[str, ...] = option(
        ("mlp_in", "mlp_out"), "roles or name patterns of linear layers with a bias", compared=False
    )
    init_seed: int = option(0, INIT_SEED_HELP, compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each layer, as a whole.

        Raises ValueError for a target that matches nothing, TypeError for one without a bias.
        """
        for name in core.find_parts(model, self.targets, anatomy):
            base = core.get(model, name)
            bias = core.bias_of(base, name)
            update = core.BiasUpdate(
                bias, self.bottleneck, activation=self.activation, init_seed=self.init_seed, path=name
            )
            yield name, core.AdaptedBias(base, update.to(**core.device_and_dtype(base)))

    def stages(self, job: Any) -> Iterable[Stage]:
        """None; refuses a run whose biases are all zeros, which no adapter of them moves."""
        from ..core.base import gathered

        adapted = [w for w in job.model.modules() if isinstance(w, core.AdaptedBias) and w.update.branch is not None]
        if adapted and not any(gathered(wrapper.base.bias).any() for wrapper in adapted):
            raise ValueError(
                "hiwi makes new biases of those that there are, and all of them are zeros, as in a model that is not "
                "trained, where they would stay so: give it weights, or take --method.name bitfit"
            )
        return ()

    def folded(self) -> Hiwi:
        """The biases alone."""
        return replace(self, bottleneck=None)
