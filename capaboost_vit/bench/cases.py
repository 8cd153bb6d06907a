"""The cases that are compared: how each is made of a plain model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..core.functional import EXECUTIONS
from ..core.seeds import seeded
from ..io.yaml import read_yaml
from ..methods import Method
from ..methods.index import method_of
from .baselines import floor, in_last_third, loop_over_branches, peft_lora, two_products
from .config import ProcessesConfig, ScaleConfig
from .models import TEXT, Family, Subject

FLOOR, PEFT = "floor", "peft"

# how the logits are computed: by the model as it is; the last block for what the head reads; moreover, what is in front
# of the first trained place without gradients, or not at all, as it was kept
WHOLE_MODEL, CLASS_ROW, RECOMPUTED, KEPT = "whole", "class row", "recomputed", "kept"


@dataclass(frozen=True)
class Case:
    """One way to fine-tune.

    Args:
        what: one line for the reader of a table.
        build: makes it of a plain model, in place, and leaves `requires_grad` to what it trains.
        computed: how; ours as the training loop and the evaluation compute it, others by the model as it is.
        method: whose hooks are called around a step, as in the training loop; none: what is added has none.
    """

    name: str
    what: str
    build: Callable[[nn.Module], object]
    computed: str = WHOLE_MODEL
    method: Method | None = None


def build_case(case: Case, subject: Subject, seed: int = 0) -> nn.Module:
    """The model of a case, on the device of the subject."""
    model = copy.deepcopy(subject.base)
    with seeded("bench", seed, devices=subject.device.type == "cuda"):
        case.build(model)
    return model.to(subject.device)


def group_of_cases(family: Family, group: str, rank: int) -> list[Case]:
    """The cases of one of `config.GROUPS`, the floor first."""
    others = {"methods": method_cases, "frozen-front": front_cases}
    return others[group](family, rank) if group in others else lora_cases(family, group, rank)


def lora_cases(family: Family, group: str, rank: int) -> list[Case]:
    """LoRA on the same layers with the same rank: PEFT's, the loop over branches, and ours by every execution."""
    targets = family.targets[group]
    ours = partial(our_lora, family, targets, rank)
    peft = partial(peft_lora, family=family, targets=targets, rank=rank)
    cases = [
        _floor(family),
        Case(PEFT, "LoRA of Hugging Face PEFT, on the whole of a fused qkv", peft),
        Case("loop-d2", "CapaBoost d = 2, one pass per branch", partial(loop_over_branches, adapt=ours(2))),
        Case("loop-d4", "CapaBoost d = 4, one pass per branch", partial(loop_over_branches, adapt=ours(4))),
        Case("lora", "our plain LoRA", ours(1), CLASS_ROW),
    ]
    for d in (2, 4):
        for execution in EXECUTIONS:
            name = f"capaboost-d{d}" if execution == "auto" else f"capaboost-d{d}-{execution}"
            what = f"CapaBoost-LoRA d = {d}, execution {execution}"
            cases.append(Case(name, what, ours(d, execution=execution), CLASS_ROW))
    default = partial(family.adapt, method="lora", rank=rank, alpha=float(rank), targets=targets)
    return [
        *cases,
        Case("capaboost-default", "CapaBoost-LoRA as it is by default, with coefficients", default, CLASS_ROW),
        Case("capaboost-d2-fa", "CapaBoost-LoRA d = 2, A frozen (LoRA-FA)", ours(2, freeze_down=True), CLASS_ROW),
        Case("capaboost-d2-whole", "CapaBoost-LoRA d = 2, without short cuts", ours(2)),
    ]


def front_cases(family: Family, rank: int) -> list[Case]:
    """LoRA on q and v of the last third of the blocks, and the head alone, with short cuts and without."""
    targets = family.targets["q-v"]
    peft = partial(peft_lora, family=family, targets=targets, rank=rank)
    last = partial(in_last_third, family=family, adapt=our_lora(family, targets, rank, 2))
    head = partial(family.adapt, method="head")
    cases = [_floor(family), Case(PEFT, "PEFT's on the same blocks", partial(in_last_third, family=family, adapt=peft))]
    for name, what, build in (
        ("last-third", "CapaBoost-LoRA d = 2 on q and v of the last third of the blocks", last),
        ("head", "only the classifier is trained", head),
    ):
        cases += [
            Case(name, f"{what}; what is in front is kept", build, KEPT),
            Case(f"{name}-recomputed", "the same, what is in front is computed again", build, RECOMPUTED),
            Case(f"{name}-whole", "the same without short cuts", build),
        ]
    return cases


def method_cases(family: Family, rank: int) -> list[Case]:
    """Everything, adapters, prefix, prompt and, for text, where it was published, UniPELT."""
    place = family.placement

    def ours(method: str, **options: Any) -> Callable[[nn.Module], object]:
        return partial(family.adapt, method=method, **options)

    adapter = partial(ours, "adapter", bottleneck=rank, placement=place, scale=family.scale)
    plain = partial(two_products, family=family, width=rank)
    where = "in front of the encoder" if family is TEXT else "in each block"
    cases = [
        _floor(family),
        Case("full", "everything is trained", ours("full"), CLASS_ROW),
        Case("adapter-nn", f"{place} adapter of two nn.Linear at the MLPs, as in adapters", plain),
        Case("adapter-d1", f"our plain {place} adapter at the MLPs", adapter(**_branches(1)), CLASS_ROW),
        Case("adapter-d2", f"CapaBoost-Adapter d = 2, {place}, at the MLPs", adapter(**_branches(2)), CLASS_ROW),
        Case("prefix-d2", "CapaBoost-Prefix d = 2, 10 tokens", ours("prefix", num_branches=2), CLASS_ROW),
        Case("prompt-d2", f"CapaBoost-Prompt d = 2, 10 tokens {where}", ours("prompt", num_branches=2), CLASS_ROW),
        Case("lora", "our plain LoRA on q and v", our_lora(family, family.targets["q-v"], rank, 1), CLASS_ROW),
        Case("hira", "HiRA on q and v", ours("hira", rank=rank), CLASS_ROW),
        Case("snell", "SNELL's kernel on q and v", ours("snell", rank=rank), CLASS_ROW),
        Case("intlora", "IntLoRA of 8 bits on the attention", ours("intlora", rank=rank), CLASS_ROW),
    ]
    if family is TEXT:
        published, masked = (ours("unipelt", rank=rank, **options) for options in ({}, _branches(2)))
        cases += [
            Case("unipelt-d1", "our UniPELT as published: LoRA, prefix, adapter", published, CLASS_ROW),
            Case("unipelt-d2", "the same of masked branches, d = 2", masked, CLASS_ROW),
        ]
    return cases


def file_cases(family: Family, files: Sequence[str]) -> list[Case]:
    """The methods of configurations of `capaboost train`, called as their files, the floor first.

    Raises FileNotFoundError, ValueError or TypeError for a file that is none, or that names no method.
    """
    cases = [_floor(family)]
    for path in map(Path, files):
        options = read_yaml(path)
        method = method_of(options.get("method") or {}) if isinstance(options, dict) else None
        if method is None:
            raise ValueError(f"--methods: {path} names no method: add `method: {{name: lora}}` or the like")
        what = inspect.cleandoc(type(method).__doc__ or method.name).splitlines()[0]
        cases.append(Case(path.stem, what, partial(family.adapt, method=method), CLASS_ROW, method))
    return cases


def probe_cases(family: Family) -> list[Case]:
    """What a linear probe is made of: a forward pass of the plain model, its own for what is kept, a step on that."""
    head = partial(family.adapt, method="head")
    return [
        Case("forward", "a forward pass of the plain model", lambda model: model.requires_grad_(False)),
        Case("front", "a forward pass for what is kept", head, CLASS_ROW),
        Case("step", "a step on what is kept", head, KEPT),
    ]


def scale_cases(family: Family, config: ScaleConfig | ProcessesConfig) -> list[Case]:
    """The floor, PEFT's LoRA, and ours with d branches (plain LoRA for one)."""
    d = config.num_branches
    others = [case for case in lora_cases(family, config.targets, config.rank) if case.name in (FLOOR, PEFT)]
    ours = our_lora(family, family.targets[config.targets], config.rank, d)
    return [*others, Case("capaboost", f"CapaBoost-LoRA d = {d}", ours, CLASS_ROW)]


def _floor(family: Family) -> Case:
    return Case(FLOOR, "all frozen, the first block's tokens require a gradient", partial(floor, family=family))


def our_lora(
    family: Family, targets: tuple[str, ...], rank: int, num_branches: int, **options: Any
) -> Callable[[nn.Module], nn.Module]:
    """What makes a CapaBoost-LoRA of a plain model, scaled by one; with one branch it is plain LoRA."""
    fixed: dict[str, Any] = dict(rank=rank, alpha=float(rank), targets=targets, **_branches(num_branches))
    return partial(family.adapt, method="lora", **fixed, **options)


def _branches(num_branches: int) -> dict[str, Any]:
    """One plain branch, or several masked ones."""
    return {"num_branches": num_branches, "density": 1.0 if num_branches == 1 else 0.5}
