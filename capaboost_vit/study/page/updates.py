"""What the trained low-rank updates look like, from the adapter files alone: spectra, ranks, masks."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...core.analysis import Ranks, ranks, spectrum
from ...core.rescaling import rescaling
from ...methods.adapter_file import read_adapter_file
from ...training.figures import small_update
from .outcomes import Outcome


@dataclass(frozen=True)
class Update:
    """dW of one site in one run: its place, ranks, norm, and as many singular values as its rank, over the largest."""

    task: str
    site: str
    block: int | None
    ranks: Ranks
    norm: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Masks:
    """How the branches of a method share the entries of their weights, means over all masked weights of one run.

    covered: entries that any branch uses; shared: entries that two or more use; agreeing: entries, of those that two
    branches both use, where their signs are the same (1 but for sign masks).
    """

    weights: int
    branches: int
    covered: float
    shared: float
    agreeing: float
    example: tuple[str, Tensor]


@dataclass(frozen=True)
class Adapters:
    """What the adapter files of one method show."""

    row: str
    runs: int
    updates: tuple[Update, ...]
    masks: Masks | None


def inspect(row: str, outcomes: Sequence[Outcome]) -> Adapters | None:
    """Reads the adapter file of the first finished seed on each task; None without any.

    A file that is missing (`--keep-models false`) or damaged is left out, and `runs` says how many there were.
    """
    chosen: dict[str, Outcome] = {}
    for outcome in sorted(outcomes, key=lambda o: o.trial.seed):
        if outcome.result is not None and (outcome.folder / "adapter.safetensors").is_file():
            chosen.setdefault(outcome.trial.task, outcome)
    updates: list[Update] = []
    masks: Masks | None = None
    runs = 0
    for outcome in chosen.values():
        if not has_branches(outcome.result):
            continue
        try:
            file = read_adapter_file(outcome.folder / "adapter.safetensors")
        except ValueError:
            continue
        runs += 1
        updates += linear_updates(file.header, file.tensors, task=outcome.trial.task)
        masks = masks or shared_entries(file.tensors, file.header["masks"])
    return Adapters(row, runs, tuple(updates), masks) if runs else None


def has_branches(result: Mapping[str, Any] | None) -> bool:
    """Whether branches were trained; the adapter file of a full fine-tuning is large, and shows nothing here."""
    return result is not None and result["parameters"].get("branches", 0) > 0


def linear_updates(header: Mapping[str, Any], tensors: Mapping[str, Tensor], *, task: str) -> Iterator[Update]:
    """The updates dW = (alpha / rank) B_cat A_cat of LoRA, times its rescaling.

    Branches with activations and biases have none; zero updates are left out.
    """
    methods = [method for method in header["methods"] if method["method"] == "lora"]
    if len(methods) != 1:
        return
    lora = methods[0]
    masked = {name: lora[name] for name in ("num_branches", "density", "pattern")}
    scaling = lora["alpha"] / lora["rank"] * rescaling(lora.get("rescale"), **masked)
    for name in sorted(tensors, key=_natural):
        site = name.removesuffix(".down.weight")
        if site == name or f"{site}.up.weight" not in tensors or f"{site}.up_bias" in tensors:
            continue
        down, up = (_views(tensors, f"{site}.{factor}", lora["num_branches"]) for factor in ("down", "up"))
        small = small_update(down.flatten(0, 1), up.transpose(0, 1).flatten(1), scaling=scaling)
        values = spectrum(small)
        if values[0] > 0:
            block = re.search(r"\d+", site)
            found = ranks(small)
            shares = tuple((values[: found.algebraic] / values[0]).tolist())
            norm = float(values.square().sum().sqrt())
            yield Update(task, site, int(block[0]) if block else None, found, norm, shares)


def shared_entries(tensors: Mapping[str, Tensor], names: Iterable[str]) -> Masks | None:
    """Coverage and overlap of all masks (K, out, in); None without masks."""
    found: dict[str, list[float]] = defaultdict(list)
    example: tuple[str, Tensor] | None = None
    branches = 0
    for name in sorted(names, key=_natural):
        mask = tensors[name]
        uses = mask.ne(0).sum(0)
        both, same = _pairs(mask)
        found["covered"].append(float(uses.gt(0).float().mean()))
        found["shared"].append(float(uses.gt(1).float().mean()))
        if both:
            found["agreeing"].append(same / both)
        branches = max(branches, len(mask))
        if example is None and mask.ndim == 3:
            example = (name, mask)
    if example is None:
        return None
    means = {key: statistics.fmean(values) for key, values in found.items()}
    agreeing = means.get("agreeing", float("nan"))
    return Masks(len(found["covered"]), branches, means["covered"], means["shared"], agreeing, example)


def _pairs(mask: Tensor) -> tuple[int, int]:
    """Over all pairs of branches: entries in use by both, and those of them with the same sign."""
    both = same = 0
    for i in range(len(mask)):
        for j in range(i):
            product = mask[i].int() * mask[j].int()
            both += int(product.ne(0).sum())
            same += int(product.gt(0).sum())
    return both, same


def _views(tensors: Mapping[str, Tensor], name: str, branches: int) -> Tensor:
    """The masked views (K, out, in) of a tied weight, which are equal without masks."""
    weight, mask = tensors[f"{name}.weight"], tensors.get(f"{name}.mask")
    return weight.expand(branches, *weight.shape) if mask is None else weight * mask.to(weight.dtype)


def _natural(name: str) -> list[Any]:
    """Sorts block 2 before block 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def depth_means(updates: Iterable[Update], measure: str) -> dict[int, float]:
    """The mean of a rank (`stable`, `effective`) over the updates of each block."""
    found: dict[int, list[float]] = defaultdict(list)
    for update in updates:
        if update.block is not None:
            found[update.block].append(getattr(update.ranks, measure))
    return {block: statistics.fmean(values) for block, values in sorted(found.items())}


def mean_shares(updates: Sequence[Update]) -> list[float]:
    """The mean over updates of s_i / s_1, for each index that all of them have."""
    length = min(len(update.shares) for update in updates)
    return [statistics.fmean(update.shares[i] for update in updates) for i in range(length)]
