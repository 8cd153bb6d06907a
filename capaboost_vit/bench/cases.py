"""The cases that are compared: how each is made of a plain model, and one training step or answer of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.functional import EXECUTIONS
from ..core.merge import merge
from .baselines import floor, loop_over_branches, peft_lora, two_products
from .config import Workload
from .models import Batch, Family, seeded
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


def group_of_cases(family: Family, group: str, rank: int) -> list[Case]:
    """The cases of one of `config.GROUPS`, the floor first."""
    return method_cases(family, rank) if group == "methods" else lora_cases(family, group, rank)


def lora_cases(family: Family, group: str, rank: int) -> list[Case]:
    """LoRA on the same layers with the same rank: PEFT's, the loop over branches, and ours by every execution."""
    targets = family.targets[group]

    def peft(model: nn.Module) -> None:
        peft_lora(model, family.places(model, targets), rank, head=family.head(model))

    def loop(num_branches: int, model: nn.Module) -> None:
        our_lora(family, targets, rank, num_branches)(model)
        loop_over_branches(model)

    ours = partial(our_lora, family, targets, rank)
    whole = " on the whole qkv, as it knows no parts" if family.fused and "query" in targets else ""
    cases = [
        _floor(family),
        Case("peft", f"LoRA of Hugging Face PEFT{whole}", peft),
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


def method_cases(family: Family, rank: int) -> list[Case]:
    """Head, everything, adapters, prefix, prompt and, for text, UniPELT."""
    place, scale = family.adapter["placement"], family.adapter["scale"]

    def ours(method: str, **options: Any) -> Callable[[nn.Module], object]:
        return partial(family.adapt, method=method, **options)

    def adapter(num_branches: int) -> Callable[[nn.Module], object]:
        density = 1.0 if num_branches == 1 else 0.5
        return ours("adapter", bottleneck=rank, num_branches=num_branches, density=density, **family.adapter)

    def plain(model: nn.Module) -> None:
        names = family.places(model, ("mlp",), use=place)
        two_products(model, names, rank, scale=scale, behind=place == "sequential", head=family.head(model))

    cases = [
        _floor(family),
        Case("head", "only the classifier is trained", ours("head")),
        Case("full", "everything is trained", ours("full")),
        Case("adapter-nn", f"{place} adapter of two nn.Linear at the MLPs, as in adapters", plain),
        Case("adapter-d1", f"our plain {place} adapter at the MLPs", adapter(1)),
        Case("adapter-d2", f"CapaBoost-Adapter d = 2, {place}, at the MLPs", adapter(2)),
        Case("prefix-d2", "CapaBoost-Prefix d = 2, 10 tokens", ours("prefix", num_branches=2)),
        Case("prompt-d2", f"CapaBoost-Prompt d = 2, 10 tokens {family.prompt}", ours("prompt", num_branches=2)),
    ]
    if family.unipelt:
        masked = ours("unipelt", rank=rank, num_branches=2, density=0.5)
        cases.append(Case("unipelt-d1", "our UniPELT as published: LoRA, prefix, adapter", ours("unipelt", rank=rank)))
        cases.append(Case("unipelt-d2", "the same of masked branches, d = 2", masked))
    return cases


def inference_cases(family: Family, group: str, rank: int) -> list[Case]:
    """The plain model, the same with CapaBoost's updates merged, and unmerged."""
    unmerged = our_lora(family, family.targets[group], rank, 2)
    return [
        Case("base", "the plain model", lambda model: model.requires_grad_(False)),
        Case("merged", "CapaBoost-LoRA d = 2, merged", lambda model: merge(unmerged(model), inplace=True)),
        Case("unmerged", "CapaBoost-LoRA d = 2, unmerged", unmerged),
    ]


def our_lora(
    family: Family, targets: tuple[str, ...], rank: int, num_branches: int, **options: Any
) -> Callable[[nn.Module], nn.Module]:
    """What makes a CapaBoost-LoRA of a plain model, scaled by one; with one branch it is plain LoRA."""
    density = 1.0 if num_branches == 1 else 0.5
    fixed: dict[str, Any] = dict(rank=rank, alpha=float(rank), targets=targets)
    return partial(family.adapt, method="lora", num_branches=num_branches, density=density, **fixed, **options)


def _floor(family: Family) -> Case:
    what = "all frozen, the first block's tokens require a gradient"
    return Case(FLOOR, what, lambda model: floor(model, family.first_block(model)))


def build_case(case: Case, batch: Batch, seed: int = 0) -> nn.Module:
    """The model of a case, on the device of the batch."""
    model = copy.deepcopy(batch.base)
    with seeded(seed, batch.device):
        case.build(model)
    return model.to(batch.device)


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
            return F.cross_entropy(logits_of(model, self.batch), self.batch.labels)

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
            logits_of(self.called, self.batch)


def logits_of(model: Any, batch: Batch) -> Tensor:
    """What the model answers to the batch, (B, classes)."""
    output = model(**batch.inputs)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


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
    return torch.autocast(batch.device.type, dtype=dtype, enabled=workload.amp)
