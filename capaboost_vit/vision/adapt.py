"""`adapt`: any timm or torch model, adapted by one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from ..methods import Method
from ..methods.apply import adapt_model
from .anatomy import anatomy_of

M = TypeVar("M", bound=nn.Module)


def adapt(model: M, method: str | Method = "lora", *, head: Sequence[str] | None = None, **options: Any) -> M:
    """Adds a method's branches to a model, in place, and freezes everything but them and the head.

    Args:
        model: a timm model, or any torch model when `targets` are name patterns such as `encoder.*.linear1`.
        method: the name of one of `capaboost_vit.METHODS`, such as lora, adapter, prefix, prompt, ia3, ssf; bitfit,
            norm, head (linear probe) or full (fine-tuning); or a method that is made already.
        head: names or patterns of further modules to train; None takes a timm model's classifier.
        options: of the method, see `capaboost_vit.methods`, such as `rank=8, num_branches=2, density=0.5,
            targets=("query", "value")`.

    Returns:
        The same model, still of its own class. A second call adds a second method.

    Raises:
        ValueError, TypeError: an unknown method or option, or a target that matches nothing; the model is unchanged.

    Example:
        >>> model = capaboost_vit.adapt(timm.create_model("vit_tiny_patch16_224"), "lora", rank=4)
    """
    pretrained_cfg = getattr(model, "pretrained_cfg", {})
    base = {"architecture": pretrained_cfg.get("architecture", type(model).__name__), "tag": pretrained_cfg.get("tag")}
    adapt_model(model, anatomy_of(model), base, method, head=head, **options)
    return model
