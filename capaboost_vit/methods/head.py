"""The linear probe: only the classifier is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .index import register
from .method import Method


@register
@dataclass(frozen=True)
class Head(Method):
    """Linear probe: only the head is trained."""

    name: ClassVar[str] = "head"
    why_no_masks: ClassVar[str] = "it adds nothing that could be masked"
    usual_lr: ClassVar[float] = 1e-2
    timm_names: ClassVar[bool] = False
