"""LayerNorm-tuning: the parameters of the normalisation layers are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import core
from .index import register
from .method import Method

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class Norm(Method):
    """LayerNorm-tuning: only the parameters of the normalisation layers and the head are trained.

    Batch norms keep their running statistics, as with every method except full fine-tuning.
    """

    name: ClassVar[str] = "norm"
    why_no_masks: ClassVar[str] = "it adds nothing that could be masked"
    usual_lr: ClassVar[float] = 1e-2
    timm_names: ClassVar[bool] = False

    def base_parameters(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """Those of the norms. Raises ValueError if there are none."""
        norms = [core.unwrap(core.get(model, name)) for name in core.norm_names(model)]
        if not norms:
            raise ValueError(f"{type(model).__name__} has no normalisation layer with parameters: take bitfit or lora")
        return [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
