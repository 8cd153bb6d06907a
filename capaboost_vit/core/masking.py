"""Which masks: their number, density, pattern and seeds as one object; torch and numpy are not needed to name them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from ..io.options import check_value


@dataclass(frozen=True)
class Masking:
    """The masks of a method's weights, and the seeds: what every masked layer is told, as one object.

    Args:
        num_branches: d, how many masked views of the shared weight are summed.
        density: s, the fraction kept by each mask. None: the pattern's own, for random 0.5; n:m n/m; complementary
            1/d, or more (the branches then overlap); sign 1, as nothing is dropped.
        pattern: random, complementary, sign, or n:m such as 2:4, see `make_masks`.
        mask_seed: of the masks.
        init_seed: of the start values.

    Raises ValueError for an unknown pattern, a density outside (0, 1] or against the pattern, and d < 1.
    """

    num_branches: int = 2
    density: float | None = None
    pattern: str = "random"
    mask_seed: int = 0
    init_seed: int = 0
    kept: float = field(init=False, repr=False)  # the density as a number

    def __post_init__(self) -> None:
        check_value("num_branches", self.num_branches, int, {"low": 1})
        check_value("density", self.density, float | None, {"above": 0, "high": 1})
        groups = n_of_m(self.pattern)
        defaults = {"random": 0.5, "complementary": 1 / self.num_branches, "sign": 1.0}
        if groups is None and self.pattern not in defaults:
            raise ValueError(
                f"unknown pattern {self.pattern!r}: choose random, complementary, sign, or n:m such as 2:4"
            )
        default = groups[0] / groups[1] if groups else defaults[self.pattern]
        kept = default if self.density is None else self.density
        if (self.pattern == "sign" or groups) and not math.isclose(kept, default):
            raise ValueError(
                f"pattern {self.pattern!r} has density {default:g}, got density={kept:g}: leave density out"
            )
        if self.pattern == "complementary" and kept < default and not math.isclose(kept, default):
            raise ValueError(
                f"pattern 'complementary' uses every entry, so {self.num_branches} branches need density >= "
                f"{default:g}, got {kept:g}"
            )
        object.__setattr__(self, "kept", kept)


def n_of_m(pattern: str) -> tuple[int, int] | None:
    """(n, m) of the pattern n:m; None for another one."""
    match = re.fullmatch(r"(\d+):(\d+)", pattern)
    if not match:
        return None
    n, m = int(match[1]), int(match[2])
    if not 0 < n <= m:
        raise ValueError(f"pattern {pattern!r}: n:m keeps n of m neighbours, 0 < n <= m")
    return n, m


PLAIN = Masking(num_branches=1, density=1.0)  # no masks: the plain method
