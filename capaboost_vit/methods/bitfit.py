"""BitFit: the biases are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .index import register
from .method import Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Bitfit(Method):
    """BitFit: only the parameters named `bias` and the head are trained. Source: arXiv 2106.10199."""

    name: ClassVar[str] = "bitfit"
    why_no_masks: ClassVar[str] = "it adds nothing that could be masked"
    timm_names: ClassVar[bool] = False

    def base_parameters(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """All that are called `bias`."""
        return [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"]
