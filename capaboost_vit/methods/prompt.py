"""CapaBoost-Prompt: masked learned tokens beside those of the image (VPT)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import MaskedMethod
from .recorded_masks import PLAIN_OPTIONS

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Prompt(MaskedMethod):
    """CapaBoost-Prompt: P learned tokens beside the image's, new ones in each block (deep) or only before the first.

    They are masked virtual tokens, see `VirtualTokens`. Prompts change the softmax, so the model is near the base at
    step 0, but not equal to it; with prompt_length=0 it is the base. With shallow prompts (deep=False) the outputs of
    inner blocks contain the prompt, so timm's features_only and forward_intermediates need deep ones.

    Source: VPT, arXiv 2203.12119; the masks, CapaBoost, arXiv 2407.01320. Deviation: prompts are placed after the patch
    tokens, not after the class token (equivalent for these blocks).
    """

    name: ClassVar[str] = "prompt"
    needs_plain_attention: ClassVar[bool] = True
    starts_as_base: ClassVar[bool] = False
    prompt_length: int = option(10, "number of prompt tokens", low=0)
    bottleneck: int | None = option(
        None, "width of the reparameterisation MLP (tanh); null: a masked table without an MLP", low=1
    )
    deep: bool = option(True, "new prompt tokens in each block; false: only before the first block")
    targets: tuple[str, ...] = option(("block",), "role or name pattern of the blocks", compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each block; of shallow prompts the first has tokens, and the last takes them off.

        Raises ValueError if no prompt is known for this model, or a target matches nothing (models whose blocks know
        positions have no role `block`).
        """
        if anatomy.prompted is None:
            raise ValueError(f"no prompt is known for {type(model).__name__}: use lora or adapter")
        names = list(core.find_parts(model, self.targets, anatomy))
        for index, name in enumerate(names):
            base = core.get(model, name)
            tokens = None
            if self.deep or index == 0:
                tokens = core.VirtualTokens(
                    self.prompt_length,
                    core.features(base, name)[0],
                    self.masking,
                    bottleneck=self.bottleneck,
                    path=name,
                ).to(**core.device_and_dtype(base))
            dropped = self.prompt_length if self.deep or index == len(names) - 1 else 0
            yield name, anatomy.prompted(base, tokens, dropped)

    def folded(self) -> Prompt:
        """Plain tables."""
        return self if self.bottleneck is None else replace(self, bottleneck=None, **PLAIN_OPTIONS)
