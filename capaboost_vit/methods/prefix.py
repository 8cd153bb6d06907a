"""CapaBoost-Prefix: masked learned keys and values in front of an attention layer's own."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ..core.inject import Anatomy, attach, device_and_dtype, find, get
from ..core.names import carries
from ..core.virtual_tokens import VirtualTokens


def prefix(
    model: nn.Module,
    anatomy: Anatomy,
    *,
    prefix_length: int,
    bottleneck: int | None,
    shared: bool,
    targets: tuple[str, ...],
    num_branches: int,
    density: float | None,
    pattern: str,
    mask_seed: int,
    init_seed: int,
    stacked: bool = False,
) -> list[str]:
    """Lets each target attend to P learned key and value vectors too: `softmax(q [K_p; K]^T) [V_p; V]`.

    How an attention layer takes a prefix is the anatomy's knowledge (`Anatomy.prefix_attention`). A prefix changes the
    softmax, so unlike LoRA and adapters the model is not exactly the base at step 0; with prefix_length=0 it is.

    Args:
        stacked: take targets that carry a prefix already; the new one comes outside.

    Raises:
        ValueError: no anatomy with prefixes for this model, a target that matches nothing, or `shared` without a
            bottleneck.
    """
    if shared and bottleneck is None:
        raise ValueError("a shared prefix is that of one reparameterisation MLP: say its width, bottleneck=512")
    if anatomy.prefix_attention is None:
        raise ValueError(f"no prefix attention is known for {type(model).__name__}: use lora or adapter")
    places = (place for target in targets for place in find(model, target, anatomy, use="prefix"))
    names = list(dict.fromkeys(place.name for place in places))
    first: VirtualTokens | None = None
    wrappers = {}  # built first, attached last: a refusal leaves the model as it was
    for name in names:
        base = get(model, name)
        if carries(base, anatomy.prefix_attention) and not stacked:
            raise ValueError(f"{name!r} carries a prefix already: detach it first, or leave it out of targets")

        def make_tokens(width: int, path: str = name) -> VirtualTokens:
            options: dict[str, Any] = dict(num_branches=num_branches, density=density, pattern=pattern)
            options |= dict(seed=mask_seed, init_seed=init_seed, path=path)
            table_width = width // 2 if shared else None  # keys and values of one layer come of a vector of its width
            return VirtualTokens(prefix_length, width, bottleneck=bottleneck, table_width=table_width, **options)

        wrappers[name] = anatomy.prefix_attention(base, make_tokens)
        tokens = cast(VirtualTokens, wrappers[name].tokens.to(**device_and_dtype(base)))
        if shared:
            first = first or tokens
            tokens.share(first)
    for name, wrapper in wrappers.items():
        attach(model, name, wrapper)
    return names
