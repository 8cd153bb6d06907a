"""Labels that are no classes: what an image has several of, or a number."""

from __future__ import annotations

import math
from typing import Any, Literal

Task = Literal["classification", "multi-label", "regression"]


def number_of(cell: Any) -> float | None:
    """The number that a cell holds, or a text; None for what is empty, or no finite number."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and not isinstance(cell, bool) else None
