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
    logits_of,
    method_cases,
)
from capaboost_vit.bench.config import GROUPS, SETS, ScaleConfig, SpeedConfig, Workload
from capaboost_vit.bench.layer import LayerPass, input_of
from capaboost_vit.bench.models import TEXT, VISION, make_batch
from capaboost_vit.bench.shapes import SHAPES
from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.inject import branches

FAMILIES = {family.items: family for family in (VISION, TEXT)}
ALL = [(i, g, case.name) for i, family in FAMILIES.items() for g in GROUPS for case in group_of_cases(family, g, 2)]
every_case = pytest.mark.parametrize(("items", "group", "name"), ALL, ids=lambda value: value)
every_family = pytest.mark.parametrize("items", FAMILIES)


def find_case(items, group, name, rank=2):
    return next(case for case in group_of_cases(FAMILIES[items], group, rank) if case.name == name)


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.fixture
def build(batches):
    return lambda items, group, name: build_case(find_case(items, group, name), batches[items])


@pytest.fixture
def step(batches, workloads):
    def make(items, group, name, rank=2, **options):
        workload = dataclasses.replace(workloads[items], **options)
        return TrainingStep(find_case(items, group, name, rank), batches[items], workload)

    return make


def shake(model):
    """Moves the zero factors of a freshly adapted model, so that its branches do something."""
    torch.manual_seed(3)
    with torch.no_grad():
        for branch in branches(model).values():
            branch.up.weight.normal_()
    return model


@every_case
def test_every_case_makes_a_step_and_moves_exactly_what_it_trains(items, group, name, step):
    step = step(items, group, name, rank=8)  # wide enough for some ReLU to be open
    before = {key: value.clone() for key, value in step.model.state_dict().items()}
    phases = []
    step(phases.append)
    step()  # the factor that starts at zero holds back the gradient of the other one for a step
    assert phases == ["forward", "backward", "update"]
    moved = {key for key, value in step.model.state_dict().items() if not torch.equal(before[key], value)}
    assert moved == {key for key, p in step.model.named_parameters(remove_duplicate=False) if p.requires_grad}
    assert all(p.grad is None for p in step.model.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_every_method_makes_a_step_on_every_text_encoder(name, workloads):
    workload = dataclasses.replace(workloads["tokens"], model=name)
    batch = make_batch(workload)
    for case in (*method_cases(TEXT, 2), find_case("tokens", "all-linears", "capaboost-d2")):
        step = TrainingStep(case, batch, workload)
        assert step.loss(step.model).isfinite()
        step()
        assert logits_of(step.model, batch).shape == (4, 3)


@every_case
def test_every_case_but_those_with_tokens_starts_from_the_same_function(items, group, name, batches, build):
    batch = batches[items]
    with torch.no_grad():
        wanted = logits_of(batch.base.eval(), batch)
        found = logits_of(build(items, group, name).eval(), batch)
    assert wanted.shape == (4, 3)
    same = torch.allclose(found, wanted, atol=1e-6)
    assert same != name.startswith(("prefix", "prompt", "unipelt"))


@pytest.mark.parametrize(("items", "before"), [("images", "patch_embed"), ("tokens", "roberta.embeddings")])
def test_the_floor_trains_nothing_and_its_gradients_reach_the_tokens_of_the_first_block(items, before, step):
    step = step(items, "all-linears", "floor")
    assert step.trained == []
    assert step.optimizer is None
    tokens, seen = [], []
    first = step.model.get_submodule(step.batch.family.first_block(step.model))
    first.register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    inside = step.model.get_submodule(before)
    inside.register_forward_hook(lambda module, args, y: seen.append(y.requires_grad))
    step.loss(step.model).backward()
    assert seen == [False]
    (entering,) = tokens
    assert entering.grad.shape == entering.shape
    real = entering.grad[step.batch.inputs["attention_mask"].bool()] if items == "tokens" else entering.grad
    assert real.abs().amax(-1).min() > 0
    assert all(p.grad is None for p in step.model.parameters())


@every_family
def test_the_floor_answers_without_a_gradient(items, build, batches):
    model = build(items, "all-linears", "floor")
    with torch.no_grad():
        assert not logits_of(model, batches[items]).requires_grad


@every_family
def test_a_compiled_floor_gives_the_tokens_the_same_gradient(items, step):
    step = step(items, "all-linears", "floor")
    step.model.eval()  # without dropout
    step.loss(step.model)  # the eager call that must come first
    tokens = []
    first = step.model.get_submodule(step.batch.family.first_block(step.model))
    hook = first.register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    step.loss(step.model).backward()
    hook.remove()
    (entry,) = first._forward_pre_hooks.values()
    step.loss(torch.compile(step.model, backend="aot_eager", fullgraph=True)).backward()
    torch.testing.assert_close(entry.zeros.grad, tokens[0].grad)


@every_family
@pytest.mark.parametrize("group", SETS)
def test_peft_and_ours_train_equally_many_parameters_on_equal_targets(items, group, build):
    counts = {case.name: trained(build(items, group, case.name)) for case in group_of_cases(FAMILIES[items], group, 2)}
    frozen_down = counts.pop("capaboost-d2-fa")
    assert counts.pop("floor") == 0
    assert len(set(counts.values())) == 1, counts
    assert frozen_down < counts["peft"]


@every_family
def test_the_adapters_are_as_large_as_ours(items, build):
    sizes = {name: trained(build(items, "methods", name)) for name in ("adapter-nn", "adapter-d1", "adapter-d2")}
    assert len(set(sizes.values())) == 1, sizes


@every_family
def test_the_head_is_trained_by_everything_but_the_floor(items, build, batches):
    (head,) = batches[items].family.head(batches[items].base)
    assert head == {"images": "head", "tokens": "classifier"}[items]
    made = ("all-linears", "floor"), ("q-v", "peft"), ("q-v", "loop-d2"), ("methods", "head"), ("methods", "adapter-nn")
    for group, name in made:
        trains = {p.requires_grad for p in build(items, group, name).get_submodule(head).parameters()}
        assert trains == {name != "floor"}


@every_family
@pytest.mark.parametrize("group", SETS)
@pytest.mark.parametrize("d", [2, 4])
def test_the_loop_over_branches_computes_what_ours_computes(items, group, d, build, batches):
    batch = batches[items]
    ours, loop = (build(items, group, f"{name}-d{d}").eval() for name in ("capaboost", "loop"))
    shake(ours)
    heads = batch.family.head(batch.base)
    names = [name for name in loop.state_dict() if not name.startswith(heads)]
    assert names == [name for name in ours.state_dict() if not name.startswith(heads)]
    loop.load_state_dict(ours.state_dict())
    assert any(isinstance(module, LoopOverBranches) for module in loop.modules())
    assert not any(isinstance(module, AdaptedLinear) for module in loop.modules())
    torch.testing.assert_close(logits_of(loop, batch), logits_of(ours, batch), atol=1e-5, rtol=1e-4)


@every_family
def test_peft_computes_what_our_plain_lora_computes(items, build, batches):
    ours, peft = (build(items, "all-linears", name).eval() for name in ("lora", "peft"))
    shake(ours)
    with torch.no_grad():
        for name, branch in branches(ours).items():
            place = name.removesuffix(".branches.all")
            peft.get_submodule(f"{place}.lora_A.default").weight.copy_(branch.down.weight)
            peft.get_submodule(f"{place}.lora_B.default").weight.copy_(branch.up.weight)
    found, wanted = (logits_of(model, batches[items]) for model in (peft, ours))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, logits_of(batches[items].base.eval(), batches[items]), atol=1e-3)


@every_family
def test_two_products_compute_what_our_plain_adapter_computes(items, build, batches):
    ours, plain = (build(items, "methods", name).eval() for name in ("adapter-d1", "adapter-nn"))
    shake(ours)
    with torch.no_grad():
        for name, branch in branches(ours).items():
            module = plain.get_submodule(name.removesuffix(".branch"))
            assert isinstance(module, TwoProducts)
            module.down.weight.copy_(branch.down.weight)
            module.down.bias.copy_(branch.down_bias)
            module.up.weight.copy_(branch.up.weight)
            module.up.bias.copy_(branch.up_bias)
    found, wanted = (logits_of(model, batches[items]) for model in (plain, ours))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, logits_of(batches[items].base.eval(), batches[items]), atol=1e-3)


@every_family
def test_merged_and_unmerged_answer_alike(items, batches, workloads):
    cases = {case.name: case for case in inference_cases(FAMILIES[items], "q-v", 2)}
    assert list(cases) == ["base", "merged", "unmerged"]
    answers = {name: Answer(case, batches[items], workloads[items]) for name, case in cases.items()}
    for answer in answers.values():
        answer()
    assert not any(isinstance(module, AdaptedLinear) for module in answers["merged"].model.modules())
    assert any(isinstance(module, AdaptedLinear) for module in answers["unmerged"].model.modules())


def test_without_peft_its_case_says_what_is_missing(step, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="peft"):
        step("images", "all-linears", "peft")


def test_mixed_precision_is_that_of_the_workload(step):
    seen = []
    step = step("images", "methods", "head", amp=True)
    step.model.blocks[0].mlp.fc1.register_forward_hook(lambda module, args, y: seen.append(y.dtype))
    step()
    assert seen == [torch.bfloat16]


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
        (Workload, {"seq_len": 0}, "--seq-len must be at least 1, got 0"),
        (Workload, {"padding": 1.0}, "--padding must be at least 0 and less than 1, got 1.0"),
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
