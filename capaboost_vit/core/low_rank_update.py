"""Low-rank updates of the layers that a method's targets name, a branch for each part: LoRA's and MLAE's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import nn

from .base import device_and_dtype
from .branch import LowRankBranch
from .inject import Anatomy, Place, find_parts
from .low_rank_kinds import low_rank_kind
from .names import get
from .wrapper import Wrapper, unwrap


def low_rank_updates(
    model: nn.Module,
    targets: Iterable[str],
    anatomy: Anatomy,
    make: Callable[[int, int, str, Place], LowRankBranch],
    execution: str = "auto",
) -> Iterator[tuple[str, Wrapper]]:
    """(canonical name, wrapper) for each layer that the targets name, with a branch for each targeted part.

    Args:
        make: creates the branch of a part, from its in_features and out_features, the path for its random streams, and
            its place.
        execution: how linear layers are computed.

    Raises ValueError for a target that matches nothing, TypeError for one that supports no low-rank update.
    """
    for name, places in find_parts(model, targets, anatomy).items():
        base = get(model, name)
        kind = low_rank_kind(base, name)
        rows, columns = kind.shape(unwrap(base))
        layout, where, branches = places[0].layout(rows), device_and_dtype(base), {}
        for place in places:
            part = place.site.part
            branches[part] = make(columns, layout.rows_of(part), f"{name}.{part}", place).to(**where)
        yield name, kind.wrap(base, branches, layout, execution)
