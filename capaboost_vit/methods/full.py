"""Full fine-tuning: everything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .index import register
from .method import Method


@register
@dataclass(frozen=True)
class Full(Method):
    """Full fine-tuning: everything is trained."""

    name: ClassVar[str] = "full"
    why_no_masks: ClassVar[str] = "it adds nothing that could be masked"
    usual_lr: ClassVar[float] = 2e-4
    timm_names: ClassVar[bool] = False
    trains_all: ClassVar[bool] = True
