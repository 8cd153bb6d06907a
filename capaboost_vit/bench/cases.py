"""The cases that are compared: how each is made of a plain ViT, and one training step or answer of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..build import pick_device
from ..core.functional import EXECUTIONS
from ..core.inject import find
from ..core.merge import merge
from ..vision.adapt import adapt
from ..vision.anatomy import anatomy_of
from .baselines import floor, loop_over_branches, peft_lora, two_products
from .config import TARGETS, Workload
from .timing import Lap

FLOOR = "floor"


@dataclass(frozen=True)
class Case:
    """One way to fine-tune.

    Args:
        what: one line for the reader of a table.
        build: makes it of a plain model, in place, and leaves `requires_grad` to what it trains.
    """

    name: str
    what: str
    build: Callable[[nn.Module], object]


def group_of_cases(group: str, rank: int) -> list[Case]:
    """The cases of one of `config.GROUPS`, the floor first."""
    return method_cases(rank) if group == "methods" else lora_cases(TARGETS[group], rank)


def lora_cases(targets: tuple[str, ...], rank: int) -> list[Case]:
    """LoRA on the same layers with the same rank: PEFT's, the loop over branches, and ours by every execution."""

    def ours(num_branches: int, **options: Any) -> Callable[[nn.Module], object]:
        density = 1.0 if num_branches == 1 else 0.5
        fixed: dict[str, Any] = dict(rank=rank, alpha=float(rank), targets=targets)
        return partial(adapt, method="lora", num_branches=num_branches, density=density, **fixed, **options)

    def loop(num_branches: int, model: nn.Module) -> None:
        ours(num_branches)(model)
        loop_over_branches(model)

    whole = " on the whole qkv, as it knows no parts" if "query" in targets else ""
    cases = [
        Case(FLOOR, "all frozen, the first block's tokens require a gradient", floor),
        Case("peft", f"LoRA of Hugging Face PEFT{whole}", lambda model: peft_lora(model, places(model, targets), rank)),
        Case("loop-d2", "CapaBoost d = 2, one pass per branch", partial(loop, 2)),
        Case("loop-d4", "CapaBoost d = 4, one pass per branch", partial(loop, 4)),
        Case("lora", "our plain LoRA", ours(1)),
    ]
    for d in (2, 4):
        for execution in EXECUTIONS:
            name = f"capaboost-d{d}" if execution == "auto" else f"capaboost-d{d}-{execution}"
            cases.append(Case(name, f"CapaBoost-LoRA d = {d}, execution {execution}", ours(d, execution=execution)))
    cases.append(Case("capaboost-d2-fa", "CapaBoost-LoRA d = 2, A frozen (LoRA-FA)", ours(2, freeze_down=True)))
    return cases


def method_cases(rank: int) -> list[Case]:
    """Head, everything, adapters, prefix and prompt."""

    def adapter(num_branches: int) -> Callable[[nn.Module], object]:
        density = 1.0 if num_branches == 1 else 0.5
        return partial(adapt, method="adapter", bottleneck=rank, num_branches=num_branches, density=density)

    def plain(model: nn.Module) -> None:
        two_products(model, places(model, ("mlp",)), rank, scale=0.1)

    return [
        Case(FLOOR, "all frozen, the first block's tokens require a gradient", floor),
        Case("head", "only the classifier is trained", partial(adapt, method="head")),
        Case("full", "everything is trained", partial(adapt, method="full")),
        Case("adapter-nn", "parallel adapter of two nn.Linear at the MLPs, as in adapters", plain),
        Case("adapter-d1", "our plain parallel adapter at the MLPs", adapter(1)),
        Case("adapter-d2", "CapaBoost-Adapter d = 2 at the MLPs", adapter(2)),
        Case("prefix-d2", "CapaBoost-Prefix d = 2, 10 tokens", partial(adapt, method="prefix", num_branches=2)),
        Case("prompt-d2", "CapaBoost-Prompt d = 2, 10 tokens, deep", partial(adapt, method="prompt", num_branches=2)),
    ]


def inference_cases(targets: tuple[str, ...], rank: int) -> list[Case]:
    """The plain model, the same with CapaBoost's updates merged, and unmerged."""

    def unmerged(model: nn.Module) -> nn.Module:
        return adapt(model, "lora", rank=rank, alpha=float(rank), targets=targets, num_branches=2, density=0.5)

    return [
        Case("base", "the plain model", lambda model: model.requires_grad_(False)),
        Case("merged", "CapaBoost-LoRA d = 2, merged", lambda model: merge(unmerged(model), inplace=True)),
        Case("unmerged", "CapaBoost-LoRA d = 2, unmerged", unmerged),
    ]


def places(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """The names of the modules that the targets name, each once."""
    anatomy = anatomy_of(model)
    return list(dict.fromkeys(place.name for target in targets for place in find(model, target, anatomy)))


@dataclass
class Batch:
    """Synthetic images (B, 3, S, S) and labels (B), the same for all cases, and the plain model behind them all."""

    base: nn.Module
    images: Tensor
    labels: Tensor


def make_batch(workload: Workload) -> Batch:
    """Builds the plain model and draws the images, from the workload's seed; the global generator stays as it is."""
    device = pick_device(workload.device)
    arguments: dict[str, Any] = {"num_classes": workload.num_classes, **workload.model_kwargs}
    if workload.img_size is not None:
        arguments["img_size"] = workload.img_size
    with _seeded(workload.seed, device), device:
        base: Any = timm.create_model(workload.model, **arguments)
        images = torch.randn(workload.batch_size, 3, *base.patch_embed.img_size)
        labels = torch.randint(workload.num_classes, (workload.batch_size,))
    return Batch(base, images, labels)


def build_case(case: Case, batch: Batch, seed: int = 0) -> nn.Module:
    """The model of a case, on the device of the batch."""
    model = copy.deepcopy(batch.base)
    with _seeded(seed, batch.images.device):
        case.build(model)
    return model.to(batch.images.device)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from this seed within the block, and as before behind it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class TrainingStep:
    """One step of a case: forward, backward, and AdamW on what it trains (the floor trains nothing).

    Called with `lap`, it ends the phases "forward", "backward" and "update".
    """

    def __init__(self, case: Case, batch: Batch, workload: Workload) -> None:
        self.batch, self.workload = batch, workload
        self.model = build_case(case, batch, workload.seed).train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=True) if self.trained else None
        self.called: Any = compiled(self.model, workload)
        if workload.compile:
            self.loss(self.model)  # eagerly once, for the floor

    def loss(self, model: Any) -> Tensor:
        """The forward pass; `model` is the one that is stepped (`called`), or the same uncompiled (`model`)."""
        with autocast(self.workload, self.batch):
            return F.cross_entropy(model(self.batch.images), self.batch.labels)

    def __call__(self, lap: Lap = lambda phase: None) -> None:
        if self.workload.compile:
            torch.compiler.cudagraph_mark_step_begin()
        loss = self.loss(self.called)
        lap("forward")
        loss.backward()
        lap("backward")
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        lap("update")


class Answer:
    """One batch through a case in evaluation."""

    def __init__(self, case: Case, batch: Batch, workload: Workload) -> None:
        self.batch, self.workload = batch, workload
        self.model = build_case(case, batch, workload.seed).eval()
        self.called: Any = compiled(self.model, workload)

    @torch.inference_mode()
    def __call__(self, lap: Lap = lambda phase: None) -> None:
        with autocast(self.workload, self.batch):
            self.called(self.batch.images)


def compiled(model: nn.Module, workload: Workload) -> Any:
    """The model, compiled where the workload says so.

    Many models of one class are compiled side by side here, each of which counts as a recompilation of that class;
    past the limit torch would silently go on uncompiled.
    """
    if not workload.compile:
        return model
    torch._dynamo.config.recompile_limit = max(256, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(model, mode=workload.compile_mode)


def autocast(workload: Workload, batch: Batch) -> torch.autocast:
    """Mixed precision as the workload says."""
    dtype = getattr(torch, workload.amp_dtype)
    return torch.autocast(batch.images.device.type, dtype=dtype, enabled=workload.amp)
