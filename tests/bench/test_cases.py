"""Each case trains what it says, starts from the same function, and the baselines compute what ours computes."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from torch import nn

from capaboost_vit.bench.baselines import LoopOverBranches, TwoProducts
from capaboost_vit.bench.cases import (
    Answer,
    Case,
    TrainingStep,
    build_case,
    group_of_cases,
    inference_cases,
    make_batch,
    places,
)
from capaboost_vit.bench.config import GROUPS, TARGETS, ScaleConfig, SpeedConfig, Workload
from capaboost_vit.bench.layer import LayerPass, input_of
from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.inject import branches

ALL = [(group, case.name) for group in GROUPS for case in group_of_cases(group, 2)]
every_case = pytest.mark.parametrize(("group", "name"), ALL, ids=lambda value: value)


def find_case(group, name, rank=2):
    return next(case for case in group_of_cases(group, rank) if case.name == name)


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.fixture
def build(batch):
    return lambda group, name: build_case(find_case(group, name), batch)


def shake(model):
    """Moves the zero factors of a freshly adapted model, so that its branches do something."""
    torch.manual_seed(3)
    with torch.no_grad():
        for branch in branches(model).values():
            branch.up.weight.normal_()
    return model


@every_case
def test_every_case_makes_a_step_and_moves_exactly_what_it_trains(group, name, batch, workload):
    step = TrainingStep(find_case(group, name, rank=8), batch, workload)  # wide enough for some ReLU to be open
    before = {key: value.clone() for key, value in step.model.state_dict().items()}
    phases = []
    step(phases.append)
    step()  # the factor that starts at zero holds back the gradient of the other one for a step
    assert phases == ["forward", "backward", "update"]
    moved = {key for key, value in step.model.state_dict().items() if not torch.equal(before[key], value)}
    assert moved == {key for key, p in step.model.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in step.model.parameters())


@every_case
def test_every_case_but_those_with_tokens_starts_from_the_same_function(group, name, batch, build):
    with torch.no_grad():
        wanted, found = batch.base.eval()(batch.images), build(group, name).eval()(batch.images)
    same = torch.allclose(found, wanted, atol=1e-6)
    assert same != name.startswith(("prefix", "prompt"))


def test_the_floor_trains_nothing_and_its_gradients_reach_the_tokens_of_the_first_block(batch, workload):
    step = TrainingStep(find_case("all-linears", "floor"), batch, workload)
    assert step.trained == []
    assert step.optimizer is None
    tokens = []
    step.model.blocks[0].register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    seen = []
    step.model.patch_embed.register_forward_hook(lambda module, args, y: seen.append(y.requires_grad))
    step.loss(step.model).backward()
    assert seen == [False]
    assert tokens[0].grad is not None
    assert tokens[0].grad.abs().min() > 0
    assert all(p.grad is None for p in step.model.parameters())


def test_the_floor_answers_without_a_gradient(build, batch):
    model = build("all-linears", "floor")
    with torch.no_grad():
        assert not model(batch.images).requires_grad


def test_a_compiled_floor_gives_the_tokens_the_same_gradient(workload, batch):
    step = TrainingStep(find_case("all-linears", "floor"), batch, workload)
    step.loss(step.model)  # the eager call that must come first
    tokens = []
    hook = step.model.blocks[0].register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    step.loss(step.model).backward()
    hook.remove()
    (entry,) = step.model.blocks[0]._forward_pre_hooks.values()
    step.loss(torch.compile(step.model, backend="aot_eager", fullgraph=True)).backward()
    torch.testing.assert_close(entry.zeros.grad, tokens[0].grad)


@pytest.mark.parametrize("group", TARGETS)
def test_peft_and_ours_train_equally_many_parameters_on_equal_targets(group, build):
    counts = {case.name: trained(build(group, case.name)) for case in group_of_cases(group, 2)}
    frozen_down = counts.pop("capaboost-d2-fa")
    assert counts.pop("floor") == 0
    assert len(set(counts.values())) == 1, counts
    assert frozen_down < counts["peft"]


def test_the_adapters_are_as_large_as_ours(build):
    sizes = {name: trained(build("methods", name)) for name in ("adapter-nn", "adapter-d1", "adapter-d2")}
    assert len(set(sizes.values())) == 1, sizes


@pytest.mark.parametrize("group", TARGETS)
@pytest.mark.parametrize("d", [2, 4])
def test_the_loop_over_branches_computes_what_ours_computes(group, d, build, batch):
    ours, loop = shake(build(group, f"capaboost-d{d}")), build(group, f"loop-d{d}")
    names = [name for name in loop.state_dict() if not name.startswith("head")]
    assert names == [name for name in ours.state_dict() if not name.startswith("head")]
    loop.load_state_dict(ours.state_dict())
    assert any(isinstance(module, LoopOverBranches) for module in loop.modules())
    assert not any(isinstance(module, AdaptedLinear) for module in loop.modules())
    torch.testing.assert_close(loop(batch.images), ours(batch.images), atol=1e-5, rtol=1e-4)


def test_peft_computes_what_our_plain_lora_computes(build, batch):
    ours, peft = shake(build("all-linears", "lora")), build("all-linears", "peft")
    with torch.no_grad():
        for name, branch in branches(ours).items():
            place = name.removesuffix(".branches.all")
            peft.get_submodule(f"{place}.lora_A.default").weight.copy_(branch.down.weight)
            peft.get_submodule(f"{place}.lora_B.default").weight.copy_(branch.up.weight)
    torch.testing.assert_close(peft(batch.images), ours(batch.images), atol=1e-5, rtol=1e-4)


def test_two_products_compute_what_our_plain_adapter_computes(build, batch):
    ours, plain = shake(build("methods", "adapter-d1")), build("methods", "adapter-nn")
    with torch.no_grad():
        for name, branch in branches(ours).items():
            module = plain.get_submodule(name.removesuffix(".branch"))
            assert isinstance(module, TwoProducts)
            module.down.weight.copy_(branch.down.weight)
            module.down.bias.copy_(branch.down_bias)
            module.up.weight.copy_(branch.up.weight)
            module.up.bias.copy_(branch.up_bias)
    torch.testing.assert_close(plain(batch.images), ours(batch.images), atol=1e-5, rtol=1e-4)


def test_merged_and_unmerged_answer_alike(batch, workload):
    cases = {case.name: case for case in inference_cases(TARGETS["q-v"], 2)}
    assert list(cases) == ["base", "merged", "unmerged"]
    answers = {name: Answer(case, batch, workload) for name, case in cases.items()}
    for answer in answers.values():
        answer()
    assert not any(isinstance(module, AdaptedLinear) for module in answers["merged"].model.modules())
    assert any(isinstance(module, AdaptedLinear) for module in answers["unmerged"].model.modules())


def test_without_peft_its_case_says_what_is_missing(batch, workload, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="peft"):
        TrainingStep(find_case("all-linears", "peft"), batch, workload)


def test_a_batch_follows_the_seed_and_leaves_the_global_generator_alone(workload, batch):
    before = torch.get_rng_state()
    again, other = make_batch(workload), make_batch(dataclasses.replace(workload, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.images, batch.images)
    assert torch.equal(again.base.head.weight, batch.base.head.weight)
    assert not torch.equal(other.images, batch.images)
    assert batch.images.shape == (4, 3, 16, 16)


def test_mixed_precision_is_that_of_the_workload(workload, batch):
    seen = []
    step = TrainingStep(find_case("methods", "head"), batch, dataclasses.replace(workload, amp=True))
    step.model.blocks[0].mlp.fc1.register_forward_hook(lambda module, args, y: seen.append(y.dtype))
    step()
    assert seen == [torch.bfloat16]


def test_places_are_named_once_and_in_the_order_of_the_targets(batch):
    assert places(batch.base, ("query", "value")) == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    assert len(places(batch.base, TARGETS["all-linears"])) == 8


def test_a_layer_alone_is_fed_with_what_the_model_feeds_it(batch, workload):
    linear = Case("floor", "", lambda model: model.requires_grad_(False))
    step = TrainingStep(linear, batch, workload)
    x = input_of(step, "blocks.1.mlp.fc2")
    assert x.shape == (4, 5, 64)
    layer, phases = LayerPass(step, "blocks.1.mlp.fc2", x), []
    assert isinstance(layer.layer, nn.Linear)
    seen = []
    layer.x.register_hook(seen.append)
    layer(phases.append)
    assert phases == ["forward", "backward"]
    torch.testing.assert_close(seen[0], layer.grad @ layer.layer.weight)
    assert layer.x.grad is None


@pytest.mark.parametrize(
    ("cls", "options", "text"),
    [
        (Workload, {"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        (Workload, {"amp_dtype": "int8"}, "--amp-dtype must be bfloat16 or float16, got 'int8'"),
        (SpeedConfig, {"groups": ("q-w",)}, "--groups: unknown 'q-w'; choose from all-linears, q-v, methods"),
        (SpeedConfig, {"measures": ("taste",)}, "--measures: unknown 'taste'; choose from step, inference"),
        (ScaleConfig, {"targets": "methods"}, "--targets: unknown 'methods'; choose from all-linears, q-v"),
    ],
)
def test_wrong_options_are_refused(cls, options, text):
    with pytest.raises(ValueError, match=text):
        cls(**options)


def test_a_device_that_is_not_there_is_refused(workload):
    with pytest.raises(ValueError, match="--device nowhere"):
        make_batch(dataclasses.replace(workload, device="nowhere"))
