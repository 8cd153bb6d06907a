"""`capaboost bench capacity`: how much of a full fine-tuning's update each kind of low-rank update can hold."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ..core.adapted_linear import AdaptedLinear
from ..core.analysis import ranks
from ..core.branch import LowRankBranch
from ..core.capacity import held_share
from ..core.masks import random_state
from ..core.names import namer
from ..methods import make_method
from ..methods.adapter_file import read_adapter_file
from ..vision.build import build_model
from ..vision.config import TrainConfig
from .capacity_config import CapacityConfig
from .columns import fenced
from .machine import machine

# of the run's configuration: what the base model is built from
_BASE = ("model", "model_kwargs", "img_size", "pretrained", "initial_checkpoint", "seed", "num_classes")
PLAIN, MASKED = "lora", "masks only"
TARGETS = {"full": "The update of full fine-tuning", "gaussian": "Gaussian matrices of the same shapes"}


def measure_capacity(config: CapacityConfig, *, command: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Fits the updates of one kind after the other to `W_full - W_base`; returns what the result file holds.

    The targets are the query's and value's rows (or those of `targets`) of every block; beside them stand Gaussian
    matrices of the same shapes, none of whose directions counts more than another. Branches have the masks that
    training would give them. The number of a cell is `held_share`, averaged over the targets.

    Raises:
        FileNotFoundError, ValueError: no such run, one of another method or of texts, or no base weights.
    """
    start = time.monotonic()
    torch.set_num_threads(config.threads)
    known, tuned, num_classes = _read(Path(config.full))
    if config.initial_checkpoint is not None:
        known["initial_checkpoint"] = config.initial_checkpoint
    if not (known["initial_checkpoint"] or known["pretrained"]):
        raise ValueError(f"the base weights of {config.full} were random: there is no update to look at")
    base = TrainConfig(**known, data="", output="")
    sites: dict[tuple[int, str], dict[str, LowRankBranch]] = {}  # a mistake shows before the first fit
    for rank in config.ranks:
        for name, method in kinds(config, rank):
            options = {"method": "lora", "targets": list(config.targets), "mask_seed": config.mask_seed, **method}
            model = build_model(dataclasses.replace(base, method=make_method(**options)), num_classes=num_classes)
            parts = dict(_parts(model, tuned))
            sites[rank, name] = {path: branch for path, (branch, _) in parts.items()}
    updates = {path: update for path, (_, update) in parts.items()}  # the same of every kind
    targets = {"full": updates, "gaussian": {path: _gaussian(update, path) for path, update in updates.items()}}
    found: dict[str, Any] = {}
    for (rank, name), branches in sites.items():
        say(f"rank {rank}: {name}")
        stored = sum(p.numel() for branch in branches.values() for p in branch.parameters())
        shares = {
            kind: [held_share(branches[path], target, iterations=config.iterations) for path, target in wanted.items()]
            for kind, wanted in targets.items()
        }
        found.setdefault(str(rank), {})[name] = {"stored": stored, **shares}
    return {
        "kind": "capacity",
        "command": command,
        "config": dataclasses.asdict(config),
        "targets": {path: dataclasses.asdict(ranks(update)) for path, update in updates.items()},
        "ranks": found,
        "machine": machine(),
        "seconds": time.monotonic() - start,
    }


def kinds(config: CapacityConfig, rank: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The updates of one rank, by name: plain, one masked branch, d branches of each pattern, plain of rank d*r."""
    plain = {"num_branches": 1, "density": 1.0}
    yield PLAIN, {"rank": rank, **plain}
    yield MASKED, {"rank": rank, "num_branches": 1, "density": 0.5}
    for d in config.branch_counts:
        for pattern in config.patterns:
            yield f"{pattern}, d {d}", {"rank": rank, "num_branches": d, "pattern": pattern}
        yield f"{PLAIN} of rank {d} r", {"rank": d * rank, **plain}


def held_means(result: Mapping[str, Any], kind: str) -> dict[str, list[float]]:
    """By name of the updates, the mean share of the targets of a kind, in per cent, for each rank."""
    by_rank = list(result["ranks"].values())
    return {name: [100 * statistics.fmean(found[name][kind]) for found in by_rank] for name in by_rank[0]}


def capacity_table(result: dict[str, Any]) -> str:
    """The held shares in per cent: one table for the full update, one for Gaussian matrices."""
    targets = list(result["targets"].values())
    stable = statistics.fmean(target["stable"] for target in targets)
    lines = ["# Capacity", "", f"    {result['command']}", ""]
    lines += [f"{len(targets)} updates of a full fine-tuning, mean stable rank {stable:.1f}.", ""]
    for kind, title in TARGETS.items():
        lines += [f"## {title}: held, per cent of the squared norm", ""]
        rows = [["", *(f"r = {rank}" for rank in result["ranks"])]]
        rows += [[name, *(f"{mean:.1f}" for mean in means)] for name, means in held_means(result, kind).items()]
        lines += [*fenced(rows), ""]
    return "\n".join([*lines, f"{result['seconds']:.0f} s.", ""])


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], int]:
    """What the base of a finished full fine-tuning is built from, its weights and its number of classes."""
    path = folder / "adapter.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"--full {folder}: no finished run there ({path.name} is missing)")
    file = read_adapter_file(path)
    header, tensors = file.header, file.tensors
    if "text" in header:
        raise ValueError(f"--full {folder}: a run on texts; only images are measured")
    if [method["method"] for method in header["methods"]] != ["full"]:
        raise ValueError(f"--full {folder}: not a full fine-tuning: train with --method.name full")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
        known = {name: config[name] for name in _BASE}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--full {folder}: config.yaml is missing or damaged ({reason})") from error
    return known, tensors, header["num_classes"]


def _parts(model: nn.Module, tuned: dict[str, Tensor]) -> Iterator[tuple[str, tuple[LowRankBranch, Tensor]]]:
    """Of every adapted part of a layer: its branch, and the rows of `W_full - W_base` that are its."""
    canonical = namer(model)
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            weight = tuned[f"{canonical(name)}.weight"].double() - module.base.weight.detach().double()
            for part, rows in zip(module.parts, weight.chunk(len(module.parts)), strict=True):
                if part in module.branches:
                    branch: Any = module.branches[part]
                    yield branch.path, (branch, rows)


def _gaussian(like: Tensor, path: str) -> Tensor:
    return torch.from_numpy(random_state(0, path).standard_normal(tuple(like.shape)))
