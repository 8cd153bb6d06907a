"""The configuration of `capaboost bench capacity`: a plain dataclass without torch, as config.py's."""

from __future__ import annotations

from dataclasses import dataclass

from ..io.options import option
from .config import at_least_one


@dataclass(frozen=True)
class CapacityConfig:
    """How much of the update of a full fine-tuning plain and masked low-rank updates can hold."""

    full: str = option("", "folder of a finished run of images with --method.name full")
    initial_checkpoint: str | None = option(None, "file of the base weights; none: the run's own")
    targets: tuple[str, ...] = option(("query", "value"), "adapted layers: roles or name patterns")
    ranks: tuple[int, ...] = option((1, 2, 4, 8), "ranks r of the shared factors")
    branch_counts: tuple[int, ...] = option((2,), "values of d")
    patterns: tuple[str, ...] = option(("random", "complementary", "sign"), "mask patterns")
    mask_seed: int = option(0, "seed of the masks")
    iterations: int = option(150, "of L-BFGS, from each of two starts")
    threads: int = option(1, "threads of the CPU")
    output: str = option("runs/bench/capacity.json", "result file; a table (.md) and a picture (.png) beside it")

    def __post_init__(self) -> None:
        at_least_one(self, "iterations", "threads")
        for name in ("ranks", "branch_counts"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be numbers of at least 1")
