"""What is timed: a training step of a case, an inference, or one adapted layer alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.names import get
from ..core.tied import factors_formed_once
from ..core.wrapper import NoShortCut
from ..methods import Pass
from ..training.evaluation import mixed_precision
from ..training.frozen_front import Whole
from ..training.hooks import Hooks
from .cases import CLASS_ROW, RECOMPUTED, WHOLE_MODEL, Case, build_case
from .config import Workload
from .models import Subject
from .timing import Lap

_UPDATES = 1000  # of the run of which a step is one


class TrainingStep:
    """One step of a case: forward, backward, and AdamW on what it trains (the floor trains nothing).

    The hooks of its method are called as in the training loop, of which a step is one of the first of 1,000 updates.

    Called with `lap`, it ends the phases "forward", "backward" and "update".
    """

    def __init__(self, case: Case, subject: Subject, workload: Workload) -> None:
        self.subject, self.workload = subject, workload
        self.model = build_case(case, subject, workload.seed).train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=True) if self.trained else None
        self.network, self.inputs = network_of(case, self.model, subject, workload)
        self.called: Any = compiled(self.network, workload)
        self.hooks = Hooks([case.method], seed=workload.seed, devices=subject.device.type == "cuda")
        self.update = 0
        if workload.compile:
            self.loss(self.network)  # eagerly once, for the floor

    def loss(self, network: Any) -> Tensor:
        """The forward pass; `network` is the one that is stepped (`called`), or the same uncompiled (`network`)."""

        def outputs(inputs: Mapping[str, Tensor]) -> Tensor:
            return logits_of(network, inputs, self.workload)

        labels, logits = self.subject.labels, outputs(self.inputs)
        once_more = Pass(self.model, partial(F.cross_entropy, reduction="sum"), outputs)
        loss = F.cross_entropy(logits, labels)
        for value in self.hooks.added("losses", once_more, self.inputs, logits, labels):
            loss = loss + value / len(labels)
        for value in self.hooks.added("penalty", self.model):
            loss = loss + value
        return loss

    def __call__(self, lap: Lap = lambda phase: None) -> None:
        if self.workload.compile:
            torch.compiler.cudagraph_mark_step_begin()
        with factors_formed_once():  # as in the training loop
            loss = self.loss(self.called)
        lap("forward")
        loss.backward()
        lap("backward")
        if self.optimizer is not None:
            self.hooks.call("after_backward", self.model, self.update, _UPDATES)
            self.optimizer.step()
            self.hooks.call("after_step", self.model, self.update, _UPDATES)
            self.optimizer.zero_grad()
            self.update += 1
        lap("update")


class Inference:
    """A forward pass in evaluation: called, it puts one batch through a case."""

    def __init__(self, case: Case, subject: Subject, workload: Workload) -> None:
        self.model = build_case(case, subject, workload.seed).eval()
        network, self.inputs = network_of(case, self.model, subject, workload)
        self.called, self.workload = compiled(network, workload), workload

    @torch.inference_mode()
    def __call__(self, lap: Lap = lambda phase: None) -> None:
        logits_of(self.called, self.inputs, self.workload)


class LayerPass:
    """The layer in one slot of a case's model, forward and backward; its input x (B, N, in) requires a gradient.

    Called with `lap`, it ends the phases "forward" and "backward".
    """

    def __init__(self, step: TrainingStep, name: str, x: Tensor) -> None:
        self.step = step
        self.layer = get(step.model, name)
        self.called: Any = compiled(self.layer, step.workload)
        self.x = x.detach().requires_grad_()
        self.grad = torch.randn_like(self.forward())

    def forward(self) -> Tensor:
        """What the layer makes of x, (B, N, out)."""
        with mixed_precision(self.step.workload, self.x.device):
            y: Tensor = self.called(self.x)
        return y

    def __call__(self, lap: Lap = lambda phase: None) -> None:
        y = self.forward()
        lap("forward")
        y.backward(self.grad)
        lap("backward")
        self.x.grad = None
        self.layer.zero_grad()


def layer_passes(steps: Mapping[str, TrainingStep], name: str) -> dict[str, LayerPass]:
    """The layer of that name in each of the cases, all fed with what the first case's model feeds it."""
    first = next(iter(steps.values()))
    inputs: list[Tensor] = []
    hook = get(first.model, name).register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        first.loss(first.model)
    hook.remove()
    return {case: LayerPass(step, name, inputs[0]) for case, step in steps.items()}


def network_of(
    case: Case, model: nn.Module, subject: Subject, workload: Workload
) -> tuple[nn.Module, dict[str, Tensor]]:
    """What is called for the logits of a case, and its inputs. Raises RuntimeError where there is nothing in front."""
    family, inputs = subject.family, subject.inputs
    if case.computed == WHOLE_MODEL:
        return model, inputs
    try:
        network = family.logits_only(model)
    except NoShortCut:  # as in the training loop
        network = model
    if case.computed == CLASS_ROW:
        return network, inputs
    if (divided := family.divide(network)) is None:
        raise RuntimeError("nothing is in front of what is trained")
    if "input_ids" in inputs:  # what is kept of texts knows no length without the mask
        inputs = {"attention_mask": torch.ones_like(inputs["input_ids"]), **inputs}
    if case.computed == RECOMPUTED:
        return Whole(divided), inputs
    kept = divided.compute(inputs.get("x", inputs), workload)
    return divided.rest, kept if isinstance(kept, dict) else {"x": kept}


def logits_of(model: Any, inputs: Mapping[str, Tensor], workload: Workload) -> Tensor:
    """The logits of a batch, (B, classes), in the precision of the workload; images are given by position."""
    images = inputs.get("x")
    with mixed_precision(workload, next(iter(inputs.values())).device):
        output = model(**inputs) if images is None else model(images)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def compiled(model: nn.Module, workload: Workload) -> Any:
    """The model, compiled where the workload says so."""
    if not workload.compile:
        return model
    # each of many models of one class counts as a recompilation of the class; past the limit torch would silently go on
    # uncompiled
    torch._dynamo.config.recompile_limit = max(256, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(model, mode=workload.compile_mode)
