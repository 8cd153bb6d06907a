"""Which masks: their number, density, pattern and seeds as one object; torch and numpy are not needed to name them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..io.options import check_value


@dataclass(frozen=True)
class Masking:
    """The masks of a method's weights, and the seeds: what every masked layer is told, as one object.

    Args:
        num_branches: d, how many masked views of the shared weight are summed.
        density: s, the fraction kept by each mask; None: the pattern's own, see `resolve_density`.
        pattern: random, complementary, sign, or n:m such as 2:4, see `make_masks`.
        mask_seed: of the masks.
        init_seed: of the start values.

    Raises ValueError for what `resolve_density` refuses.
    """

    num_branches: int = 2
    density: float | None = None
    pattern: str = "random"
    mask_seed: int = 0
    init_seed: int = 0

    def __post_init__(self) -> None:
        resolve_density(self.pattern, self.density, self.num_branches)

    @property
    def kept(self) -> float:
        """The density as a number."""
        return resolve_density(self.pattern, self.density, self.num_branches)


def resolve_density(pattern: str, density: float | None, num_branches: int) -> float:
    """The kept fraction s of a pattern; `None` asks for the pattern's own.

    random: 0.5; n:m: n/m; complementary: 1/d, or more (the branches then overlap); sign: 1, as nothing is dropped.

    Raises ValueError for an unknown pattern, a density outside (0, 1] or against the pattern, and d < 1.
    """
    check_value("num_branches", num_branches, int, {"low": 1})
    check_value("density", density, float | None, {"above": 0, "high": 1})
    groups = n_of_m(pattern)
    defaults = {"random": 0.5, "complementary": 1 / num_branches, "sign": 1.0}
    if groups is None and pattern not in defaults:
        raise ValueError(f"unknown pattern {pattern!r}: choose random, complementary, sign, or n:m such as 2:4")
    default = groups[0] / groups[1] if groups else defaults[pattern]
    if density is None:
        return default
    if (pattern == "sign" or groups) and not math.isclose(density, default):
        raise ValueError(f"pattern {pattern!r} has density {default:g}, got density={density:g}: leave density out")
    if pattern == "complementary" and density < default and not math.isclose(density, default):
        raise ValueError(
            f"pattern 'complementary' uses every entry, so {num_branches} branches need density >= {default:g}, "
            f"got {density:g}"
        )
    return density


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
