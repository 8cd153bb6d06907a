"""CapaBoost-LoRA: masked low-rank updates of linear layers."""

from __future__ import annotations

from torch import nn

from ..core.adapted_linear import AdaptedLinear
from ..core.inject import Anatomy, attach, device_and_dtype, features, find_parts, get
from ..core.layers import LowRankBranch
from ..core.names import carries, unwrap
from ..core.rescaling import rescaling


def lora(
    model: nn.Module,
    anatomy: Anatomy,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: tuple[str, ...],
    freeze_down: bool,
    execution: str,
    rescale: str | None,
    num_branches: int,
    density: float | None,
    pattern: str,
    mask_seed: int,
    init_seed: int,
    stacked: bool = False,
) -> list[str]:
    """Adds `(alpha / rank) * sum_i (B * MB_i)(A * MA_i) dropout(x)` to each target; returns the adapted modules' names.

    Parts of one fused layer (q and v of a qkv) become branches of one wrapper, each with its own factors and masks.

    Args:
        rescale: multiply by what makes the mean or the norm of the update that of plain LoRA, see `rescaling`.
        stacked: take targets that carry a low-rank branch already; the new one comes outside.

    Raises:
        ValueError: rank < 1, a target that matches nothing, or that is adapted already, an unknown execution, or one
            that cannot have the dropout, and what `rescaling` refuses.
        TypeError: a target that is no linear layer.
    """
    chosen = find_parts(model, targets, anatomy)
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if dropout > 0 and execution in ("weight", "token"):
        raise ValueError(f"execution={execution!r} has no dropout, got dropout={dropout}: leave execution at 'auto'")
    scaling = alpha / rank * rescaling(rescale, num_branches=num_branches, density=density, pattern=pattern)
    wrappers = {}  # built first, attached last: a refusal leaves the model as it was
    for name, places in chosen.items():
        base, site = get(model, name), places[0].site
        if carries(base, AdaptedLinear) and not stacked:
            raise ValueError(f"{name!r} carries a low-rank branch already: detach it first, or leave it out of targets")
        if not isinstance(unwrap(base), nn.Linear):
            raise TypeError(f"LoRA needs linear layers, but {name!r} is a {type(base).__name__}")
        columns, rows = features(base, name)
        branches = {
            place.site.part: LowRankBranch(
                columns,
                rows // len(site.parts),
                rank,
                scaling=scaling,
                dropout=dropout,
                freeze_down=freeze_down,
                num_branches=num_branches,
                density=density,
                pattern=pattern,
                seed=mask_seed,
                init_seed=init_seed,
                path=f"{name}.{place.site.part}",
            ).to(**device_and_dtype(base))
            for place in places
        }
        wrappers[name] = AdaptedLinear(base, branches, site.parts, execution)  # type: ignore[arg-type]
    for name, wrapper in wrappers.items():
        attach(model, name, wrapper)
    return list(wrappers)
