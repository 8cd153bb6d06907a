"""The masks that the options of a method mean, also those that an earlier release has recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.masking import Masking

# options of a masked method without masks
PLAIN_OPTIONS: dict[str, Any] = {"num_branches": 1, "density": 1.0, "pattern": "random"}


def masks_of(method: type[Any], record: Mapping[str, Any]) -> Masking:
    """The masks that a record's options mean for a method; the record may be of an older release, and have fewer."""
    branches, density, coefficients = (record.get(name) for name in ("num_branches", "density", "coefficients"))
    branches, pattern = branches or 1, record.get("pattern", "random")
    if pattern is None:
        boosted = "coefficients" in method.__dataclass_fields__ and branches > 1 and density is None
        pattern, coefficients = ("sign", coefficients or "rank") if boosted else ("random", coefficients)
    if density is None and branches == 1 and "density" not in record:
        density = 1.0
    seeds = {name: record.get(name, 0) for name in ("mask_seed", "init_seed")}
    return Masking(branches, density, pattern, coefficients=coefficients, **seeds)


def words_of_masks(method: type[Any], record: Mapping[str, Any]) -> list[str]:
    """What a label says of a record's masks: their number, pattern and density; nothing where there are none."""
    masks = masks_of(method, record)
    if masks.num_branches == 1 and masks.kept == 1 and masks.pattern != "sign":
        return []
    words = [f"d{masks.num_branches}"]
    usual = masks_of(method, {"num_branches": masks.num_branches, "pattern": None})
    if (masks.pattern, masks.coefficients) != (usual.pattern, usual.coefficients):
        words += [masks.pattern] if masks.kept < 1 or masks.pattern != "random" else []
        words += [f"coefficients by {masks.coefficients}"] if masks.coefficients else []
    if masks.kept != replace(masks, density=None).kept:
        words.append(f"s{masks.kept:g}")
    return words
