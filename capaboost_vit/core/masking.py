"""Options of masks: number, density, pattern and seeds in one object, without torch and numpy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from ..io.options import check_value

COEFFICIENTS = ("rank", "branch")


@dataclass(frozen=True)
class Masking:
    """Options of the masks of a method's weights, and its seeds, as one object for every masked layer.

    Args:
        num_branches: d, the number of masked views of the shared weight that are summed.
        density: s, the fraction of entries that each mask keeps. None: the pattern's own: random 0.5; n:m n/m;
            complementary 1/d (a larger one makes the masks overlap); sign 1, as no entry is dropped.
        pattern: random, complementary, sign, or n:m such as 2:4, see `make_masks`.
        mask_seed: seed of the masks.
        init_seed: seed of the initial values.
        coefficients: "rank" or "branch": the first view has no mask, and the d - 1 masked ones are multiplied by
            learned coefficients that start at zero, one for each row of A (column of B), or one for each view. None:
            all views have masks and no coefficients.

    Raises ValueError for an unknown pattern, a density outside (0, 1] or one that the pattern does not have, d < 1, and
    coefficients without a second branch (complementary: without a third).
    """

    num_branches: int = 2
    density: float | None = None
    pattern: str = "random"
    mask_seed: int = 0
    init_seed: int = 0
    coefficients: str | None = None
    kept: float = field(init=False, repr=False)  # the density as a number

    def __post_init__(self) -> None:
        check_value("num_branches", self.num_branches, int, {"low": 1})
        check_value("density", self.density, float | None, {"above": 0, "high": 1})
        check_value("coefficients", self.coefficients, str | None, {"choices": COEFFICIENTS})
        masked = self.num_branches if self.coefficients is None else self.num_branches - 1
        if masked == 0 or (masked == 1 < self.num_branches and self.pattern == "complementary"):
            least = 3 if self.pattern == "complementary" else 2
            raise ValueError(
                f"coefficients are for the {self.pattern} branches beside the first one, which has no mask: "
                f"num_branches must be at least {least}, got {self.num_branches}"
            )
        groups = n_of_m(self.pattern)
        defaults = {"random": 0.5, "complementary": 1 / masked, "sign": 1.0}
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
                f"pattern 'complementary' uses every entry, so {masked} branches need density >= "
                f"{default:g}, got {kept:g}"
            )
        object.__setattr__(self, "kept", kept)


def n_of_m(pattern: str) -> tuple[int, int] | None:
    """(n, m) of a pattern n:m; None for another pattern. Raises ValueError unless 0 < n <= m."""
    match = re.fullmatch(r"(\d+):(\d+)", pattern)
    if not match:
        return None
    n, m = int(match[1]), int(match[2])
    if not 0 < n <= m:
        raise ValueError(f"pattern {pattern!r}: n:m keeps n of m neighbours, 0 < n <= m")
    return n, m


PLAIN = Masking(num_branches=1, density=1.0)  # no masks: the plain method
