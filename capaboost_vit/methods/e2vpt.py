"""E^2VPT: deep prompts, and learned keys and values in each attention that are one tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from .. import core
from ..io.options import option
from .index import register
from .method import SIZES, MaskedMethod
from .prefix import Prefix
from .prompt import Prompt

_PATCH = 3 * 16 * 16  # numbers of a patch of 16 pixels, by which prompts start, whatever patches the model has


@register
@dataclass(frozen=True)
class E2vpt(MaskedMethod):
    """E^2VPT: P learned tokens in each block, and K learned keys in each attention that are its learned values too.

    `softmax(q [T; K]^T) [T; V]` with T (K, D) behind the projections, by head (`Prefix`, tied), of q, K and V that see
    the image's tokens and the block's P prompts (`Prompt`, deep). Not tied, keys and values are learned apart. An
    encoder of texts has its prompts once, in front.

    Prompts start from U(-v, v), v = sqrt(6 / (3 * 16 * 16 + D)), keys and values from U(-w, w), w = sqrt(6 / (K d)), d
    the width of a head. They change the softmax, so the model is not exactly the base at step 0; with both lengths 0 it
    is.

    As published there are no masks: the default is num_branches=1 with density=1.

    Source: E^2VPT (ICCV 2023), arXiv 2307.13770. Deviations: prompts stand behind the patch tokens instead of behind
    the class token (these blocks cannot tell), v is that of patches of 16 pixels for every model, and prompts have no
    weight decay. The rate is not measured here; published is SGD, with a rate and a decay for each task.
    """

    name: ClassVar[str] = "e2vpt"
    needs_plain_attention: ClassVar[bool] = True
    starts_as_base: ClassVar[bool] = False
    num_branches: int = option(1, "d: how many masked views of the tables are summed", low=1)
    density: float | None = option(1.0, "fraction kept by each mask; none: the pattern's own", compared=False)
    prompt_length: int = option(10, "P: number of prompt tokens of each block", low=0)
    prefix_length: int = option(5, "K: number of learned keys and values of each attention layer", low=0)
    tied: bool = option(True, "one learned tensor is both keys and values", compared=False)
    dropout: float = option(0.1, "dropout on the prompt tokens", low=0, below=1, compared=False)

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With both lengths, and whether keys and values are learned apart: `e2vpt p10 k5`, `e2vpt p10 k5 untied`."""
        name, *properties = super().label({key: value for key, value in record.items() if key not in SIZES}).split(" ")
        sizes = [f"p{record['prompt_length']}", f"k{record['prefix_length']}"]
        return " ".join([name, *sizes, *([] if record["tied"] else ["untied"]), *properties])

    def build(self, model: Any, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """The wrappers of the attention layers, then those of the blocks.

        Raises ValueError if no prefix attention or no prompt is known for this model.
        """
        masks: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(MaskedMethod)}
        wrapper: Any
        for name, wrapper in Prefix(prefix_length=self.prefix_length, tied=self.tied, **masks).build(model, anatomy):
            if self.prefix_length:
                wrapper.tokens.table.fill_uniform(math.sqrt(6 / (self.prefix_length * wrapper.head_dim)))
            yield name, wrapper
        for name, wrapper in Prompt(prompt_length=self.prompt_length, **masks).build(model, anatomy):
            wrapper.tokens.table.fill_uniform(math.sqrt(6 / (_PATCH + wrapper.tokens.width)))
            wrapper.tokens.dropout = self.dropout
            yield name, wrapper
