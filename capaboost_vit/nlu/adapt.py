"""`adapt`: any encoder of transformers, adapted by one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ..methods.apply import adapt_model
from .anatomy import anatomy_of

M = TypeVar("M", bound=nn.Module)


def adapt(model: M, method: str = "lora", *, head: Sequence[str] | None = None, **options: Any) -> M:
    """Adds a method's branches to a model of transformers, in place, and freezes everything but them and the head.

    Args:
        model: BERT, RoBERTa, ELECTRA, DeBERTa-v2 or v3, with or without a head; or any model when `targets` are name
            patterns.
        method: lora, adapter, prefix, prompt, ia3, ssf, unipelt; bitfit, norm, head or full for comparison.
        head: names or patterns of further modules to train; None takes what stands beside the encoder.
        options: of the method, see `capaboost_vit.methods.config`, such as `rank=8, targets=("query", "value")`.

    Returns:
        The same model, still of its own class. A second call adds a second method.

    Raises:
        ValueError, TypeError: an unknown method or option, or a target that matches nothing; the model is unchanged.

    Example:
        >>> model = AutoModelForSequenceClassification.from_pretrained("FacebookAI/roberta-base")
        >>> model = capaboost_vit.nlu.adapt(model, "lora", rank=8)
    """
    base = {"architecture": type(model).__name__, "tag": hub_name(model)}
    adapt_model(model, anatomy_of(model), base, method, head=head, **options)
    return model


def hub_name(model: Any) -> str | None:
    """The name by which the model was fetched from the hub; None for a local folder, which others do not have."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or None
    return None if name is None or Path(name).exists() or Path(name).is_absolute() else name
