"""CapaBoost-Adapter: a masked bottleneck beside (parallel) or behind (sequential) a sub-layer."""

from __future__ import annotations

from torch import nn

from ..core.adapted import Adapted
from ..core.inject import Anatomy, attach, device_and_dtype, features, find, get
from ..core.layers import LowRankBranch
from ..core.names import carries
from ..core.rescaling import rescaling

# what feeds the branch, and the scale where none is given (AdaptFormer's; Pfeiffer's)
_PLACEMENTS = {"parallel": ("input", 0.1), "sequential": ("output", 1.0)}


def adapter(
    model: nn.Module,
    anatomy: Anatomy,
    *,
    bottleneck: int,
    placement: str,
    scale: float | None,
    learned_scale: str | None,
    activation: str,
    init: str,
    dropout: float,
    drop_path: float,
    rescale: str | None,
    targets: tuple[str, ...],
    num_branches: int,
    density: float | None,
    pattern: str,
    mask_seed: int,
    init_seed: int,
    stacked: bool = False,
) -> list[str]:
    """Adds `s * [ sum_i (Wup * Mup_i) act((Wdn * Mdn_i) x + b_dn) + b_up ]` to the output of each target.

    Parallel: x is the sub-layer's input (for an MLP, behind the block's norm; AdaptFormer in its own code feeds the
    residual stream through a norm of its own instead). Sequential: x is the sub-layer's output, before the residual; of
    a whole block it is the residual stream behind the block, the position "post" of Adapter+ (arXiv 2406.06820).

    Args:
        learned_scale: multiply by a learned number or vector too, which starts from one; s is 1 then where it is None.
        rescale: multiply by what would make the mean or the norm of the update that of the plain adapter if there were
            no activation, see `rescaling`; b_up is multiplied as well.
        stacked: take targets that carry an adapter already; the new one comes outside.

    Raises:
        ValueError: a target that matches nothing or carries an adapter already, an unknown placement, and what
            `LowRankBranch` and `rescaling` refuse.
        TypeError: a target without linear layers, whose width cannot be told.
    """
    if placement not in _PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}: choose from {', '.join(_PLACEMENTS)}")
    source, default_scale = _PLACEMENTS[placement]
    if scale is None:
        scale = default_scale if learned_scale is None else 1.0
    scale *= rescaling(rescale, num_branches=num_branches, density=density, pattern=pattern)
    places = {place.name: place.site for target in targets for place in find(model, target, anatomy, use=placement)}
    wrappers = {}  # built first, attached last: a refusal leaves the model as it was
    for name, site in places.items():
        base = get(model, name)
        if carries(base, Adapted) and not stacked:
            raise ValueError(f"{name!r} carries an adapter already: detach it first, or leave it out of targets")
        in_features, out_features = features(base, name)
        fed_with = "residual" if site.only == "parallel" else source
        branch = LowRankBranch(
            in_features if fed_with == "input" else out_features,
            out_features,
            bottleneck,
            scaling=scale,
            learned_scale=learned_scale,
            init=init,
            dropout=dropout,
            drop_path=drop_path,
            act=activation,
            bias=True,
            num_branches=num_branches,
            density=density,
            pattern=pattern,
            seed=mask_seed,
            init_seed=init_seed,
            path=name,
        )
        wrappers[name] = Adapted(base, branch.to(**device_and_dtype(base)), fed_with)
    for name, wrapper in wrappers.items():
        attach(model, name, wrapper)
    return list(places)
