"""What the trained low-rank updates look like, from the adapter files alone: spectra, ranks, masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from ...core.analysis import ranks, spectrum
from ...methods import make_method
from ...methods.adapter_file import read_adapter_file
from ...training.figures import small_update
from ..outcomes import Outcome
from .grid import Grid
from .tables import Entry, ReportTable, make_table, number

_COLUMNS = ("method", "task", "site", "block", "algebraic", "stable", "effective", "norm", "shares")
_SHOWN_VALUES = 64  # singular values of an update in the csv file


@dataclass(frozen=True)
class MaskShares:
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
    """What adapter files show: by method how many there are, and masks; and of each update a line with its place."""

    runs: Mapping[str, int]
    updates: pd.DataFrame
    masks: Mapping[str, MaskShares]


def inspect(outcomes: Iterable[Outcome]) -> Adapters:
    """Reads the adapter files of finished runs.

    A file that is missing (`--keep-models false`) or damaged is left out, and `runs` says how many there were.
    """
    runs, updates, masks = Counter[str](), list[dict[str, Any]](), dict[str, MaskShares]()
    for outcome in outcomes:
        # the adapter file of a full fine-tuning is large, and shows nothing here
        if outcome.result is None or not outcome.result["parameters"].get("branches"):
            continue
        try:
            file = read_adapter_file(outcome.folder / "adapter.safetensors")
        except (OSError, ValueError):
            continue
        runs[outcome.row] += 1
        place = {"method": outcome.row, "task": outcome.trial.task}
        updates += [{**place, **update} for update in linear_updates(file.header, file.tensors)]
        shares = None if outcome.row in masks else shared_entries(file.tensors, file.header["masks"])
        if shares is not None:
            masks[outcome.row] = shares
    return Adapters(runs, pd.DataFrame(updates, columns=_COLUMNS), masks)


def linear_updates(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """The updates dW = scaling B_cat A_cat of LoRA, one at a time.

    Each with its place (site, block), its ranks (algebraic, stable, effective), its norm, and its `shares`: as
    many singular values as its algebraic rank, over the largest. Branches with activations and biases have none, and
    pairs that layers of several shapes share are not looked at; zero updates are left out.
    """
    methods = [method for method in header["methods"] if method["method"] == "lora"]
    if len(methods) != 1:
        return
    lora: Any = make_method(**methods[0])
    if lora.share_shapes:
        return
    owners: dict[Any, str] = {}  # of layers that share a pair, the first has it and each its masks
    for site in sorted({name.rpartition(".down.")[0] for name in tensors} - {""}, key=_natural):
        kind = "weight" if f"{site}.down.weight" in tensors else "mask"
        pair = [tensors.get(f"{site}.{factor}.{kind}") for factor in ("down", "up")]
        shapes = [t.shape[-2:] for t in pair if t is not None]
        role = (*("*" if word.isdigit() else word for word in site.split(".")), *shapes)
        if kind == "weight":
            owners[role] = site
        if any(t is None for t in pair) or role not in owners or f"{site}.up_bias" in tensors:
            continue
        down, up = (_views(tensors, owners[role], site, factor, lora.num_branches) for factor in ("down", "up"))
        if (c := tensors.get(f"{site}.coefficients")) is not None:
            up[1:] *= c.view(lora.num_branches - 1, 1, -1)
        small = small_update(down.flatten(0, 1), up.transpose(0, 1).flatten(1), scaling=lora.scaling())
        values = spectrum(small)
        if values[0] > 0:
            block = re.search(r"\d+", site)
            place = {"site": site, "block": int(block[0]) if block else None}
            shares = (values[: ranks(small).algebraic] / values[0]).tolist()
            yield {**place, **vars(ranks(small)), "norm": float(values.square().sum().sqrt()), "shares": shares}


def shared_entries(tensors: Mapping[str, Tensor], names: Iterable[str]) -> MaskShares | None:
    """Coverage and overlap of all masks (K, out, in); None without masks."""
    lines, example, branches = [], None, 0
    for name in sorted(names, key=_natural):
        mask = tensors[name]
        positive, negative = mask.gt(0).sum(0), mask.lt(0).sum(0)
        uses = positive + negative
        # n branches are n (n - 1) / 2 pairs; the halves cancel
        same = int((positive * (positive - 1) + negative * (negative - 1)).sum())
        both = int((uses * (uses - 1)).sum())
        agreeing = same / both if both else float("nan")
        lines.append((float(uses.gt(0).float().mean()), float(uses.gt(1).float().mean()), agreeing))
        branches = max(branches, len(mask))
        if example is None and mask.ndim == 3:
            example = (name, mask)
    if example is None:
        return None
    covered, shared, agreeing = pd.DataFrame(lines).mean()  # of those that are not NaN
    return MaskShares(len(lines), branches, covered, shared, agreeing, example)


def _views(tensors: Mapping[str, Tensor], owner: str, site: str, factor: str, branches: int) -> Tensor:
    """The masked views (K, out, in) of a tied weight, which are equal without masks."""
    weight, mask = tensors[f"{owner}.{factor}.weight"], tensors.get(f"{site}.{factor}.mask")
    return weight.repeat(branches, 1, 1) if mask is None else weight * mask.to(weight.dtype)


def _natural(name: str) -> list[Any]:
    """Sorts block 2 before block 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def mean_shares(updates: pd.DataFrame) -> pd.Series:
    """The mean over updates of s_i / s_1, by i from 1, for each i that all of them have."""
    length = min(map(len, updates.shares))
    return pd.DataFrame([shares[:length] for shares in updates.shares], columns=range(1, length + 1)).mean()


def update_rows(adapters: Adapters) -> pd.DataFrame:
    """A line for each update, for csv; singular values over the largest one, as many as the rank, at most 64."""
    shares = [" ".join(f"{share:.4g}" for share in shares[:_SHOWN_VALUES]) for shares in adapters.updates.shares]
    return adapters.updates.assign(shares=shares)


def rank_table(adapters: Adapters, grid: Grid) -> ReportTable:
    """Means over all updates of a method, with the standard deviation over them."""
    rows = []
    for method, updates in adapters.updates.groupby("method", sort=False):
        measures = (updates[name] for name in ("algebraic", "stable", "effective", "norm"))
        spreads = (Entry(f"{m.mean():.2f}", f"± {m.std():.2f}" if len(m) > 1 else "") for m in measures)
        rows.append([Entry(method), Entry(str(adapters.runs[method])), Entry(str(len(updates))), *spreads])
    return make_table("rank-table", rows, grid)


def mask_table(adapters: Adapters, grid: Grid) -> ReportTable:
    """Coverage and overlap of the masks of each method."""
    rows = [
        [Entry(method), Entry(str(masks.weights)), Entry(str(masks.branches))]
        + [number(share, ".1%", missing="none") for share in (masks.covered, masks.shared, masks.agreeing)]
        for method, masks in adapters.masks.items()
    ]
    return make_table("mask-table", rows, grid)
