"""Hooks of the training loop: called when they should be, seeded, free where absent; branches that nobody reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from capaboost_vit import core
from capaboost_vit.core.inject import attach, freeze_base
from capaboost_vit.io.options import option
from capaboost_vit.methods import METHODS, Stage
from capaboost_vit.methods.lora import Lora
from capaboost_vit.run import train
from capaboost_vit.training.hooks import Hooks, refuse_unreached

CALLS: list = []


@dataclass(frozen=True)
class Noted(Lora):
    """LoRA that notes what is called, draws a number each time and keeps a count in a buffer."""

    name: ClassVar[str] = "noted"
    strength: float = option(0.0, "of the second pass")

    def build(self, model, anatomy):
        for name, wrapper in super().build(model, anatomy):
            wrapper.register_buffer("count", torch.zeros(()))
            yield name, wrapper

    def penalty(self, model):
        CALLS.append(("penalty", torch.rand(()).item()))
        return None

    def losses(self, forward, inputs, outputs, targets):
        CALLS.append(("losses", len(targets)))
        return self.strength * (forward(inputs) - outputs.detach()).square().sum()

    def after_backward(self, model, update, updates):
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(g.isfinite().all() for g in gradients)
        CALLS.append(("after_backward", (update, updates), torch.rand(()).item()))

    def after_step(self, model, update, updates):
        for wrapper in model.modules():
            if isinstance(wrapper, core.AdaptedLinear):
                wrapper.count += torch.rand(())
        CALLS.append(("after_step", (update, updates)))

    def stages(self, job):
        def fill():
            for branch in core.branches(job.model).values():
                branch.up.weight.data.normal_(std=0.1)
            CALLS.append(("stage", job.state.progress.update))

        return [Stage("fill B", fill)]


@pytest.fixture
def noted(monkeypatch):
    monkeypatch.setitem(METHODS, "noted", Noted)
    CALLS.clear()


def options(**more):
    return {"model": "vit_tiny_patch16_224", "method": {"name": "noted"}, "drop_path": 0.1, "max_steps": 4, **more}


def test_each_hook_is_called_when_it_should_be(noted, configure, without_pictures):
    train(configure(**options(grad_accum_steps=2, checkpoint_interval=1)))
    names = [call[0] for call in CALLS]
    assert names == ["stage", *(["losses", "losses", "penalty", "after_backward", "after_step"] * 4)]
    assert [call[1] for call in CALLS if call[0] == "after_backward"] == [(u, 4) for u in range(4)]
    assert sum(call[1] for call in CALLS if call[0] == "losses") == 4 * 16


def test_a_run_that_goes_on_draws_the_same_numbers_and_runs_no_stage_again(
    noted, configure, tmp_path, killed_behind, without_pictures
):
    config = options(method={"name": "noted", "strength": 0.5}, checkpoint_interval=1, model_ema=True)
    train(configure(**config, output=str(tmp_path / "whole")))
    whole = list(CALLS)
    CALLS.clear()
    with killed_behind(2):
        train(configure(**config, output=str(tmp_path / "killed")))
    train(configure(**config, output=str(tmp_path / "killed"), resume=True))
    assert whole == CALLS
    files = [tmp_path / run / "adapter.safetensors" for run in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert any(name.endswith(".count") for name in load_file(files[0]))


def test_hooks_that_are_absent_cost_nothing_and_the_global_stream_is_left_alone():
    hooks, model = Hooks((None, Lora()), seed=0, devices=False), nn.Linear(1, 1)
    state = torch.get_rng_state()
    assert hooks.added("losses", lambda x: x, None, torch.zeros(1), torch.zeros(1)) == []
    assert hooks.added("penalty", model) == []
    hooks.call("after_backward", model, 0, 1)
    hooks.call("after_step", model, 0, 1)
    assert torch.equal(torch.get_rng_state(), state)


class Idle(core.Wrapper):
    """Adds a parameter that has no part in the output."""

    adds = "an idle number"

    def __init__(self, base, trained=True):
        super().__init__(base)
        self.number, self.is_trained = nn.Parameter(torch.ones(())), trained

    def trained(self):
        return [self.number] if self.is_trained else []

    def forward(self, x):
        return self.base(x)


def test_a_branch_that_gets_no_gradient_is_an_error_at_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    attach(model, "0", Idle(model[0]))
    freeze_base(model, ["1"])
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(ValueError, match="an idle number at '0' gets no gradient: this Sequential"):
        refuse_unreached(model)


def test_a_wrapper_that_would_train_nothing_of_what_it_adds_is_an_error_at_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    attach(model, "0", Idle(model[0], trained=False))
    with pytest.raises(ValueError, match="the Idle at '0' adds parameters and would train none of them"):
        freeze_base(model, ["1"])


def test_a_run_whose_branch_is_never_reached_stops_before_its_first_update(configure, monkeypatch, without_pictures):
    forward = core.AdaptedLinear.forward
    monkeypatch.setattr(core.AdaptedLinear, "forward", lambda self, x: self.base(x))
    with pytest.raises(ValueError, match=r"a low-rank branch at 'blocks\.0\.attn\.qkv' gets no"):
        train(configure())
    monkeypatch.setattr(core.AdaptedLinear, "forward", forward)
