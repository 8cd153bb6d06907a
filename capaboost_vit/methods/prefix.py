"""CapaBoost-Prefix: masked learned keys and values in front of an attention layer's own."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..core.adapted import Wrapper
from ..core.inject import Anatomy, attach, device_and_dtype, find, get
from ..core.layers import VirtualTokens


def prefix(
    model: nn.Module,
    anatomy: Anatomy,
    *,
    prefix_length: int,
    bottleneck: int | None,
    targets: tuple[str, ...],
    num_branches: int,
    density: float | None,
    pattern: str,
    mask_seed: int,
    init_seed: int,
) -> list[str]:
    """Lets each target attend to P learned key and value vectors too: `softmax(q [K_p; K]^T) [V_p; V]`.

    How an attention layer takes a prefix is the anatomy's knowledge (`Anatomy.prefix_attention`). A prefix changes the
    softmax, so unlike LoRA and adapters the model is not exactly the base at step 0; with prefix_length=0 it is.

    Raises:
        ValueError: no anatomy with prefixes for this model, or a target that matches nothing.
    """
    if anatomy.prefix_attention is None:
        raise ValueError(f"no prefix attention is known for {type(model).__name__}: use lora or adapter")
    names = list(dict.fromkeys(place.name for target in targets for place in find(model, target, anatomy)))
    wrappers = {}  # built first, attached last: a refusal leaves the model as it was
    for name in names:
        base = get(model, name)
        if isinstance(base, Wrapper):
            raise ValueError(f"{name!r} carries a prefix already: detach it first, or leave it out of targets")

        def make_tokens(width: int, path: str = name) -> VirtualTokens:
            options: dict[str, Any] = dict(num_branches=num_branches, density=density, pattern=pattern)
            return VirtualTokens(
                prefix_length, width, bottleneck=bottleneck, seed=mask_seed, init_seed=init_seed, path=path, **options
            )

        wrappers[name] = anatomy.prefix_attention(base, make_tokens)
        wrappers[name].tokens.to(**device_and_dtype(base))
    for name, wrapper in wrappers.items():
        attach(model, name, wrapper)
    return names
