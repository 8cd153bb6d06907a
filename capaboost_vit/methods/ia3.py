"""IA3: learned vectors that scale keys, values and the hidden units of the MLP."""

from __future__ import annotations

from torch import nn

from ..core.inject import Anatomy, attach, device_and_dtype, features, find, find_parts, get
from ..core.names import carries
from ..core.scaled import Scale, Scaled


def ia3(
    model: nn.Module, anatomy: Anatomy, *, targets: tuple[str, ...], inputs: tuple[str, ...], stacked: bool = False
) -> list[str]:
    """Multiplies the outputs of the targets, and what enters the `inputs`, by vectors that start from one.

    One vector for each layer, of its width; what enters the MLP's second layer are the hidden units. There are no masks
    in it: a vector has no rank to raise. Where a model reads a layer's weight and keeps its bias elsewhere (timm's BEiT
    and EVA), the vector multiplies `W x` alone. Source: arXiv 2205.05638.

    Args:
        stacked: take targets that are scaled already; the new scale comes outside.

    Raises:
        ValueError: a target that matches nothing or is scaled already, a layer both as a whole and by its parts, or a
            part of a fused layer among the inputs.
        TypeError: a target without linear layers, whose width cannot be told.
    """
    outputs = find_parts(model, targets, anatomy)
    entered = {place.name: place for target in inputs for place in find(model, target, anatomy)}
    wrappers = {}  # built first, attached last: a refusal leaves the model as it was
    for name in dict.fromkeys([*outputs, *entered]):
        base = get(model, name)
        if carries(base, Scaled) and not stacked:
            raise ValueError(f"{name!r} is scaled already: detach it first, or leave it out of targets")
        if name in outputs and name in entered:
            raise ValueError(f"{name!r} is named by targets and by inputs: choose one")
        columns, rows = features(base, name)
        parts: tuple[str, ...] = ("all",)
        if name in entered:
            if entered[name].site.part != "all":
                raise ValueError(f"inputs name a part of {name!r}, whose input is that of all parts")
            scales, side = {"all": Scale(columns)}, "input"
        else:
            parts, side = outputs[name][0].site.parts, "output"
            scales = {place.site.part: Scale(rows // len(parts)) for place in outputs[name]}
        wrappers[name] = Scaled(base, {p: s.to(**device_and_dtype(base)) for p, s in scales.items()}, parts, side)
    for name, wrapper in wrappers.items():
        attach(model, name, wrapper)
    return list(wrappers)
