"""SSF: the outputs of the layers are scaled and shifted."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core.inject import Anatomy, attach, device_and_dtype, find_parts, get
from ..core.names import carries, unwrap
from ..core.scaled import Scale, Scaled

_NORMS = (nn.LayerNorm, nn.GroupNorm)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_NORMS)


def ssf(model: nn.Module, anatomy: Anatomy, *, targets: tuple[str, ...]) -> list[str]:
    """Puts `y = l * z + b` behind each target, whose output is z: two vectors of its width, one of ones, one of zeros.

    They merge into weight and bias; there are no masks in it, as a vector has no rank to raise. Source: arXiv
    2210.08823; the default targets are the places of the official code, 205,824 parameters for ViT-B/16. Deviation: it
    starts from N(1, 0.02^2) and N(0, 0.02^2); here the model is the base at step 0.

    Raises:
        ValueError: a target that matches nothing or is scaled already, or a layer both as a whole and by its parts.
        TypeError: a target that is no linear layer, convolution, layer norm or group norm, or has no weight of its own.
    """
    wrappers = {}  # built first, attached last: a refusal leaves the model as it was
    for name, places in find_parts(model, targets, anatomy).items():
        base, parts = get(model, name), places[0].site.parts
        if carries(base, Scaled):
            raise ValueError(f"{name!r} is scaled already: detach it first, or leave it out of targets")
        size = _channels(unwrap(base), name) // len(parts)
        scales = {place.site.part: Scale(size, shift=True).to(**device_and_dtype(base)) for place in places}
        wrappers[name] = Scaled(base, scales, parts)
    for name, wrapper in wrappers.items():
        attach(model, name, wrapper)
    return list(wrappers)


def _channels(layer: nn.Module, name: str) -> int:
    """The width of what a layer gives out, where it is `weight (*) something + bias`."""
    weight: Any = getattr(layer, "weight", None)
    known = isinstance(layer, _LAYERS) and isinstance(weight, Tensor) and not hasattr(layer, "act")
    if not known or (isinstance(layer, _NORMS) and weight.dim() != 1):
        raise TypeError(
            "SSF needs linear layers, convolutions, and layer or group norms with a weight for each channel, but "
            f"{name!r} is a {type(layer).__name__}"
        )
    return len(weight)
