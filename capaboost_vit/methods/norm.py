"""LayerNorm-tuning: the parameters of the normalisation layers are trained."""

from __future__ import annotations

from torch import nn

from ..core.inject import Anatomy
from ..core.norms import norm_names


def norm(model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Adds nothing; names the normalisation layers, whose own parameters `apply_method` leaves to the optimiser.

    Batch norms keep their running statistics, as with every method but full fine-tuning.

    Raises:
        ValueError: the model has no normalisation layer with parameters.
    """
    names = norm_names(model)
    if not names:
        raise ValueError(f"{type(model).__name__} has no normalisation layer with parameters: take bitfit or lora")
    return names
