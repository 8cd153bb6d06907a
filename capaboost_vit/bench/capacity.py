"""`capaboost bench capacity`: how much of a full fine-tuning's update each kind of low-rank update can hold."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.adapted_linear import AdaptedLinear
from ..core.analysis import held_share, ranks
from ..core.branch import LowRankBranch
from ..core.masks import random_state
from ..core.names import namer
from ..methods import make_method
from ..training.saved import open_source
from ..vision.build import build_model
from ..vision.config import TrainConfig
from .config import CapacityConfig
from .timing import Session

# of the run's configuration: what the base model is built from
_BASE = ("model", "model_kwargs", "img_size", "pretrained", "initial_checkpoint", "seed", "num_classes")

TARGETS = {"full": "The update of full fine-tuning", "gaussian": "Gaussian matrices of the same shapes"}


def measure_capacity(config: CapacityConfig, session: Session) -> dict[str, Any]:
    """Fits the updates of one kind after the other to `W_full - W_base`: `targets` and, of each kind, `ranks`.

    The targets are the query's and value's rows (or those of `targets`) of every block; beside them stand Gaussian
    matrices of the same shapes, none of whose directions counts more than another. Branches have the masks that
    training would give them. The number of a cell is `held_share`, averaged over the targets.

    Raises:
        FileNotFoundError, ValueError: no such run, one of another method or of texts, or no base weights.
    """
    torch.set_num_threads(config.threads)
    options, tuned, num_classes = _read(config.full)
    if config.initial_checkpoint is not None:
        options["initial_checkpoint"] = config.initial_checkpoint
    if not (options["initial_checkpoint"] or options["pretrained"]):
        raise ValueError(f"the base weights of {config.full} were random: there is no update to look at")
    base = TrainConfig(**options, data="", output="")
    branches: dict[tuple[int, str], dict[str, LowRankBranch]] = {}  # a mistake shows before the first fit
    for rank in config.ranks:
        for name, method in kinds(config, rank):
            method = {"method": "lora", "targets": list(config.targets), "mask_seed": config.mask_seed, **method}
            model = build_model(dataclasses.replace(base, method=make_method(**method)), num_classes=num_classes)
            branches[rank, name] = {m.path: m for m in model.modules() if isinstance(m, LowRankBranch)}
    updates = dict(_updates(model, tuned))  # the same of every kind
    targets = {"full": updates, "gaussian": {path: _gaussian(update, path) for path, update in updates.items()}}
    by_rank: dict[str, Any] = {}
    for (rank, name), fitted in branches.items():
        session.say(f"rank {rank}: {name}")
        shares = {
            kind: [held_share(fitted[path], target, iterations=config.iterations) for path, target in wanted.items()]
            for kind, wanted in targets.items()
        }
        stored = sum(p.numel() for branch in fitted.values() for p in branch.parameters())
        by_rank.setdefault(str(rank), {})[name] = {"stored": stored, **shares}
    result = {
        "targets": {path: dataclasses.asdict(ranks(update)) for path, update in updates.items()},
        "ranks": by_rank,
    }
    return {**result, "tables": capacity_tables(result)}


def capacity_tables(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The mean shares of the full update and of Gaussian matrices in per cent, and what the targets are."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for kind, title in TARGETS.items():
        rows: dict[str, dict[str, Any]] = {}
        for rank, cases in result["ranks"].items():
            for name, case in cases.items():
                rows.setdefault(name, {"": name})[f"r = {rank}"] = 100 * statistics.fmean(case[kind])
        tables[title] = list(rows.values())
    stable = statistics.fmean(target["stable"] for target in result["targets"].values())
    return {**tables, "targets": [{"updates": len(result["targets"]), "mean stable rank": stable}]}


def kinds(config: CapacityConfig, rank: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The updates of one rank, by name: plain, one masked branch, d branches of each pattern, plain of rank d*r."""
    plain = {"num_branches": 1, "density": 1.0}
    yield "lora", {"rank": rank, **plain}
    yield "masks only", {"rank": rank, "num_branches": 1, "density": 0.5}
    for d in config.branch_counts:
        for pattern in config.patterns:
            yield f"{pattern}, d {d}", {"rank": rank, "num_branches": d, "pattern": pattern}
        yield f"lora of rank {d} r", {"rank": d * rank, **plain}


def _read(full: str) -> tuple[dict[str, Any], dict[str, Tensor], int]:
    """What the base of a finished full fine-tuning is built from, its weights and its number of classes."""
    source = open_source(full)
    file = source.adapter
    if file is None or source.is_text or [method["method"] for method in file.header["methods"]] != ["full"]:
        raise ValueError(f"--full {full}: no full fine-tuning of images: train with --method.name full")
    if not source.config:
        raise ValueError(f"--full {full}: no config.yaml of its run beside {file.path.name}")
    return {name: source.config.get(name) for name in _BASE}, file.tensors, file.header["num_classes"]


def _updates(model: nn.Module, tuned: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """By the path of each branch, the rows of `W_full - W_base` that are its."""
    canonical = namer(model)
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            update = tuned[f"{canonical(name)}.weight"].double() - module.base.weight.detach().double()
            for part, rows in zip(module.parts, update.chunk(len(module.parts)), strict=True):
                if part in module.branches:
                    branch: Any = module.branches[part]
                    yield branch.path, rows


def _gaussian(like: Tensor, path: str) -> Tensor:
    return torch.from_numpy(random_state(0, path).standard_normal(tuple(like.shape)))
