"""Optimizer and schedule: exactly the trained parameters, and a learning rate that goes where it says."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from timm.optim import list_optimizers
from torch import nn

import capaboost_vit
from capaboost_vit.core.branch import LowRankBranch
from capaboost_vit.core.tied import TiedMaskedWeight
from capaboost_vit.training.optim import draws_numbers, make_optimizer, make_schedule
from capaboost_vit.vision.config import TrainConfig

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


def rates(updates_per_epoch=5, **options):
    """The learning rate of every update, and the one that is left at the end."""
    config = TrainConfig(**options)
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    schedule = make_schedule(optimizer, config, updates_per_epoch)
    found = []
    for update in range((config.max_steps or config.epochs * updates_per_epoch) + 1):
        if schedule is not None:
            schedule.step_update(update)
        found.append(optimizer.param_groups[0]["lr"])
    return found


# optimizer


def test_ratios_of_b_and_of_coefficients_hold_through_the_schedule_and_coefficients_do_not_decay():
    ratios = {"loraplus_lr_ratio": 4.0, "coefficient_lr_ratio": 8.0}
    method = {"name": "lora", "rank": 2, "pattern": "sign", "coefficients": "rank", **ratios}
    model = timm.create_model("vit_tiny_patch16_224", **SMALL)
    config = TrainConfig(method=method, epochs=4, lr=1e-3)
    capaboost_vit.adapt(model, config.method)
    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, config, 5)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert groups.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    branch = next(m for m in model.modules() if isinstance(m, LowRankBranch))
    for update in (0, 7, 19):
        schedule.step_update(update)
        rate = groups[id(branch.down.weight)]["lr"]
        assert groups[id(model.head.weight)]["lr"] == rate
        assert groups[id(branch.up.weight)]["lr"] == pytest.approx(4 * rate)
        assert groups[id(branch.coefficients)]["lr"] == pytest.approx(8 * rate)
    assert groups[id(branch.coefficients)]["weight_decay"] == 0 < groups[id(branch.up.weight)]["weight_decay"]


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "prompt"])
@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_the_optimizer_holds_each_trained_parameter_once_and_nothing_else(method, layer_decay):
    model = timm.create_model(f"vit_tiny_capaboost_{method}", num_branches=3, **SMALL)
    optimizer = make_optimizer(model, TrainConfig(layer_decay=layer_decay))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters() if p.requires_grad}
    shared = [m.weight for m in model.modules() if isinstance(m, TiedMaskedWeight)]
    assert shared
    assert all(held.count(id(weight)) == 1 for weight in shared)  # one entry for three masked views


def test_biases_and_norms_have_no_weight_decay():
    model = timm.create_model("vit_tiny_patch16_224", **SMALL)
    capaboost_vit.adapt(model, "full")
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        free = p.ndim <= 1 or name in model.no_weight_decay()
        assert decay[id(p)] == (0.0 if free else 0.3), name


def test_layer_decay_slows_the_early_blocks():
    model = timm.create_model("vit_tiny_capaboost_lora", **SMALL)
    optimizer = make_optimizer(model, TrainConfig(layer_decay=0.5, lr=1.0))
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    by_block = [{scale[id(p)] for p in block.parameters() if p.requires_grad} for block in model.blocks]
    assert [len(scales) for scales in by_block] == [1, 1]
    (first,), (second,) = by_block
    assert second == 2 * first
    assert scale[id(model.head.weight)] == 2 * second


@pytest.mark.parametrize(
    ("opt", "kind", "values"),
    [
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.01}),
        ("sgd", torch.optim.SGD, {"momentum": 0.7, "nesterov": True, "weight_decay": 0.01}),
        ("momentum", torch.optim.SGD, {"momentum": 0.7, "nesterov": False}),
    ],
)
def test_options_reach_the_optimizer(opt, kind, values):
    config = TrainConfig(opt=opt, lr=0.3, momentum=0.7, weight_decay=0.01)
    optimizer = make_optimizer(nn.Linear(2, 2, bias=False), config)
    assert isinstance(optimizer, kind)
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.3
    assert {name: group[name] for name in values} == values


FUSED = ["adam", "adamw", "sgd", "momentum"]


@pytest.mark.parametrize("opt", [*FUSED, "lookahead_adamw", "lion", "rmsprop", "adagrad", "muon"])
def test_torchs_optimizers_are_fused_and_the_others_left_as_they_are(opt):
    optimizer = make_optimizer(nn.Linear(2, 2), TrainConfig(opt=opt))
    fused = [group.get("fused") for group in optimizer.param_groups]
    assert fused == [True, True] if opt.rpartition("_")[2] in FUSED else not any(fused)


@pytest.mark.parametrize("opt", FUSED)
def test_a_fused_optimizer_comes_to_the_weights_of_the_plain_one(opt):
    models = [nn.Linear(5, 3), nn.Linear(5, 3)]
    models[1].load_state_dict(models[0].state_dict())
    fused, plain = (make_optimizer(model, TrainConfig(opt=opt, weight_decay=0.1)) for model in models)
    for group in plain.param_groups:
        group["fused"] = None
    for _ in range(20):
        inputs = torch.randn(4, 5)
        for model, optimizer in zip(models, (fused, plain), strict=True):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    assert torch.allclose(models[0].weight, models[1].weight, atol=1e-6)
    assert torch.allclose(models[0].bias, models[1].bias, atol=1e-6)


def test_an_optimizer_for_another_device_is_not_fused():
    optimizer = make_optimizer(nn.Linear(2, 2, device="meta"), TrainConfig())
    assert all(group["fused"] is None for group in optimizer.param_groups)


def random_states():
    """Those of python, numpy and torch."""
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opt", list_optimizers())
def test_an_optimizer_that_draws_random_numbers_is_known_for_it(opt):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    try:
        optimizer = make_optimizer(model, TrainConfig(opt=opt))
    except ValueError:
        return  # it cannot be chosen
    if draws_numbers(optimizer):
        return
    before = random_states()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    assert random_states() == before


@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
def test_kron_draws_random_numbers_and_adamw_does_not():
    found = {opt: draws_numbers(make_optimizer(nn.Linear(2, 2), TrainConfig(opt=opt))) for opt in ("kron", "adamw")}
    assert found == {"kron": True, "adamw": False}


@pytest.mark.parametrize("opt", ["adamv", "", "adam w"])
def test_an_unknown_optimizer_is_named_with_its_flag(opt):
    with pytest.raises(ValueError, match=rf"--opt must be one of \d+ names such as .*, got '{opt}'"):
        TrainConfig(opt=opt)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match=r"is trained: choose a method \(--method\.name\), or give"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), TrainConfig())


# schedule


@pytest.mark.parametrize("epochs", [1, 4, 5, 7, 10, 33])
@pytest.mark.parametrize("updates_per_epoch", [1, 3])
def test_the_cosine_is_its_formula_behind_a_linear_warm_up_of_a_tenth(epochs, updates_per_epoch):
    found = rates(updates_per_epoch, epochs=epochs, lr=0.1)
    ramp, total = round(epochs / 10) * updates_per_epoch, epochs * updates_per_epoch
    expected = [1e-7 + (0.1 - 1e-7) * step / ramp for step in range(ramp)]
    expected += [0.05 * (1 + math.cos(math.pi * (s - ramp) / (total - ramp))) for s in range(ramp, total + 1)]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sched", ["cosine", "poly", "tanh", "step", "multistep"])
@pytest.mark.parametrize("warmup_epochs", [0, 1, 3, 5])
def test_every_schedule_warms_up_in_a_line_does_not_jump_behind_it_and_never_rises_again(sched, warmup_epochs):
    found = rates(epochs=12, sched=sched, lr=0.1, warmup_epochs=warmup_epochs, warmup_lr=0.02)
    ramp = 5 * warmup_epochs
    if ramp:
        assert found[:ramp] == pytest.approx([0.02 + 0.08 * step / ramp for step in range(ramp)])
    assert found[ramp] == pytest.approx(0.1, rel=0.01)  # tanh starts a little below
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(found[ramp:]))
    assert max(found) <= 0.1 + 1e-12


@pytest.mark.parametrize("sched", ["cosine", "poly", "tanh"])
@pytest.mark.parametrize("warmup_epochs", [0, 3])
@pytest.mark.parametrize("min_lr", [0.0, 0.01])
def test_a_smooth_schedule_ends_at_the_lowest_rate_with_the_last_update(sched, warmup_epochs, min_lr):
    found = rates(epochs=12, sched=sched, lr=0.1, warmup_epochs=warmup_epochs, min_lr=min_lr)
    assert found[-1] == pytest.approx(min_lr, abs=1e-9)
    assert all(rate > min_lr for rate in found[:-1][-10:])


def test_a_step_schedule_steps_each_third():
    found = rates(epochs=9, sched="step", lr=1.0, warmup_epochs=0)
    assert len(set(found[:-1])) == 3
    assert [found.index(rate) for rate in sorted(set(found[:-1]), reverse=True)] == [0, 15, 30]


@pytest.mark.parametrize("max_steps", [1, 9, 40, 333])
@pytest.mark.parametrize("epochs", [1, 100])
def test_max_steps_is_the_length_of_the_schedule_whatever_the_epochs(max_steps, epochs):
    found = rates(epochs=epochs, max_steps=max_steps, lr=0.1)
    ramp = max_steps // 10
    expected = [1e-7 + (0.1 - 1e-7) * step / ramp for step in range(ramp)]
    expected += [0.05 * (1 + math.cos(math.pi * (s - ramp) / (max_steps - ramp))) for s in range(ramp, max_steps + 1)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_step_schedule_of_max_steps_steps_each_third_of_them():
    found = rates(max_steps=30, sched="step", lr=1.0, warmup_epochs=0)
    assert [found.index(rate) for rate in sorted(set(found[:-1]), reverse=True)] == [0, 10, 20]


@pytest.mark.parametrize(("warmup", "steps"), [(0, [0, 30, 60, 90]), (20, [20, 44, 68, 92])])
def test_a_multistep_schedule_steps_at_30_60_and_90_percent_of_what_follows_the_warm_up(warmup, steps):
    found = rates(max_steps=100, sched="multistep", lr=1.0, warmup_steps=warmup, decay_rate=0.5)
    assert [found.index(rate) for rate in (1.0, 0.5, 0.25, 0.125)] == steps
    assert set(found[warmup:]) == {1.0, 0.5, 0.25, 0.125}


def test_without_a_schedule_the_rate_is_constant_and_a_warm_up_is_refused():
    assert set(rates(epochs=4, sched="none", lr=0.1)) == {0.1}
    for warmup in ({"warmup_epochs": 1}, {"warmup_steps": 0.1}):
        with pytest.raises(ValueError, match="--sched none has no warm-up: say --sched constant, or leave --warmup-ep"):
            rates(epochs=4, sched="none", lr=0.1, **warmup)


@pytest.mark.parametrize("sched", ["none", "cosine"])
def test_layer_decay_slows_the_early_blocks_with_and_without_a_schedule(sched):
    config = TrainConfig(layer_decay=0.5, lr=1.0, sched=sched, warmup_epochs=0)
    optimizer = make_optimizer(timm.create_model("vit_tiny_capaboost_lora", **SMALL), config)
    schedule = make_schedule(optimizer, config, 3)
    if schedule is not None:
        schedule.step_update(0)
    assert all(group["lr"] == group["lr_scale"] for group in optimizer.param_groups)
    assert len({group["lr"] for group in optimizer.param_groups}) == 3


@pytest.mark.parametrize("sched", ["cosin", "", "plateau"])  # the last one follows a metric
def test_an_impossible_schedule_is_named_with_its_flag(sched):
    with pytest.raises(ValueError, match=f"--sched must be cosine, poly, .* or none, got '{sched}'"):
        rates(sched=sched)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(
        ValueError, match="--warmup-epochs 2 are 10 updates, all of the run's 10: say less, or more --epochs"
    ):
        rates(epochs=5, max_steps=10, warmup_epochs=2)
