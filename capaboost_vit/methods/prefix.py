"""CapaBoost-Prefix: masked learned keys and values in front of an attention layer's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import MaskedMethod
from .recorded_masks import PLAIN_OPTIONS

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Prefix(MaskedMethod):
    """CapaBoost-Prefix: `softmax(q [K_p; K]^T) [V_p; V]`, P learned keys K_p and values V_p in each attention layer.

    They are masked virtual tokens, see `VirtualTokens`. Which attention layers take a prefix, and how, is defined by
    `Anatomy.prefix_attention`. A prefix changes the softmax, so unlike with LoRA and adapters the model is near the
    base at step 0, but not equal to it; with prefix_length=0 it is the base.

    Source: prefix tuning, arXiv 2101.00190; the masks, CapaBoost, arXiv 2407.01320.
    """

    name: ClassVar[str] = "prefix"
    usual_lr: ClassVar[float] = 2e-2
    needs_plain_attention: ClassVar[bool] = True
    starts_as_base: ClassVar[bool] = False
    prefix_length: int = option(10, "number of prefix tokens in each layer", low=0)
    bottleneck: int | None = option(
        None, "width of the reparameterisation MLP (tanh); null: a masked table without an MLP", low=1
    )
    tied: bool = option(False, "use one learned tensor as both keys and values", compared=False)
    shared: bool = option(False, "share the table and the MLP's first layer over all layers, as in prefix tuning")
    targets: tuple[str, ...] = option(("attn",), "roles or name patterns of attention layers", compared=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shared and self.bottleneck is None:
            raise ValueError("a shared prefix is that of one reparameterisation MLP: say its width, bottleneck=512")

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper with virtual tokens for each attention layer.

        Raises ValueError if no prefix attention is known for this model, or a target matches nothing.
        """
        if anatomy.prefix_attention is None:
            raise ValueError(f"no prefix attention is known for {type(model).__name__}: use lora or adapter")
        first: core.VirtualTokens | None = None
        for name in core.find_parts(model, self.targets, anatomy, use="prefix"):
            base = core.get(model, name)

            def make_tokens(width: int, path: str = name) -> core.VirtualTokens:
                return core.VirtualTokens(
                    self.prefix_length,
                    width,
                    self.masking,
                    tied=self.tied,
                    bottleneck=self.bottleneck,
                    # keys and values of one layer come of one shared vector of its width
                    table_width=width // 2 if self.shared else None,
                    path=path,
                )

            wrapper: Any = anatomy.prefix_attention(base, make_tokens)
            wrapper.tokens.to(**core.device_and_dtype(base))
            if self.shared:
                first = first or wrapper.tokens
                wrapper.tokens.share(first)
            yield name, wrapper

    def folded(self) -> Prefix:
        """Plain tables."""
        return self if self.bottleneck is None else replace(self, bottleneck=None, shared=False, **PLAIN_OPTIONS)
