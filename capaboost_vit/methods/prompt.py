"""CapaBoost-Prompt: masked learned tokens beside those of the image (VPT)."""

from __future__ import annotations

from torch import nn

from ..core.inject import Anatomy, attach, device_and_dtype, features, find, get
from ..core.names import carries
from ..core.virtual_tokens import VirtualTokens


def prompt(
    model: nn.Module,
    anatomy: Anatomy,
    *,
    prompt_length: int,
    bottleneck: int | None,
    deep: bool,
    targets: tuple[str, ...],
    num_branches: int,
    density: float | None,
    pattern: str,
    mask_seed: int,
    init_seed: int,
    stacked: bool = False,
) -> list[str]:
    """Gives the blocks P learned tokens: new ones in each block (deep), or once, carried through all blocks (shallow).

    Prompts change the softmax, so the model is not exactly the base at step 0; with prompt_length=0 it is. With shallow
    prompts the outputs of inner blocks contain the prompt (timm's features_only and forward_intermediates need deep).

    Args:
        stacked: take blocks that carry a prompt already; the new one comes outside.

    Raises:
        ValueError: a target that matches nothing (models whose blocks know positions have no role `block`), or blocks
            that carry a prompt already.
    """
    names = list(dict.fromkeys(place.name for target in targets for place in find(model, target, anatomy)))
    wrappers = {}  # built first, attached last: a refusal leaves the model as it was
    for index, name in enumerate(names):
        base = get(model, name)
        if carries(base, anatomy.prompted) and not stacked:
            raise ValueError(f"{name!r} carries a prompt already: detach it first")
        tokens = None
        if deep or index == 0:
            tokens = VirtualTokens(
                prompt_length,
                features(base, name)[0],
                bottleneck=bottleneck,
                num_branches=num_branches,
                density=density,
                pattern=pattern,
                seed=mask_seed,
                init_seed=init_seed,
                path=name,
            ).to(**device_and_dtype(base))
        dropped = prompt_length if deep or index == len(names) - 1 else 0
        wrappers[name] = anatomy.prompted(base, tokens, dropped)
    for name, wrapper in wrappers.items():
        attach(model, name, wrapper)
    return names
