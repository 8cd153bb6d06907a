"""Each case trains what it says, starts from the same function, and the baselines compute what ours computes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from capaboost_vit.bench.baselines import LoopOverBranches, TwoProducts
from capaboost_vit.bench.cases import (
    Case,
    build_case,
    file_cases,
    group_of_cases,
    method_cases,
)
from capaboost_vit.bench.config import (
    GROUPS,
    SETS,
    SHAPES,
    CapacityConfig,
    ProcessesConfig,
    ScaleConfig,
    SpeedConfig,
    Workload,
)
from capaboost_vit.bench.inference_cases import fewer_cases, inference_cases, integer_cases
from capaboost_vit.bench.memory import stored
from capaboost_vit.bench.models import TEXT, VISION, make_subject
from capaboost_vit.bench.steps import Inference, TrainingStep, layer_passes
from capaboost_vit.bench.steps import logits_of as logits_in
from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.dispatcher import realised_rate
from capaboost_vit.core.inject import branches

FAMILIES = {family.items: family for family in (VISION, TEXT)}
every_group = pytest.mark.parametrize(("items", "group"), [(items, group) for items in FAMILIES for group in GROUPS])
every_family = pytest.mark.parametrize("items", FAMILIES)


def find_case(items, group, name, rank=2):
    return next(case for case in group_of_cases(FAMILIES[items], group, rank) if case.name == name)


def logits_of(model, subject):
    return logits_in(model, subject.inputs, Workload())


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.fixture
def build(subjects):
    return lambda items, group, name: build_case(find_case(items, group, name), subjects[items])


@pytest.fixture
def step(subjects, workloads):
    def make(items, group, name, rank=2, **options):
        workload = dataclasses.replace(workloads[items], **options)
        return TrainingStep(find_case(items, group, name, rank), subjects[items], workload)

    return make


def shake(model):
    """Moves the zero factors of a freshly adapted model, so that its branches do something."""
    torch.manual_seed(3)
    with torch.no_grad():
        for branch in branches(model).values():
            branch.up.weight.normal_()
    return model


@every_group
def test_every_case_makes_a_step_and_moves_exactly_what_it_trains(items, group, step):
    for case in group_of_cases(FAMILIES[items], group, 2):
        made = step(items, group, case.name, rank=8)  # wide enough for some ReLU to be open
        before = {key: value.clone() for key, value in made.model.state_dict().items()}
        phases = []
        made(phases.append)
        made()  # the factor that starts at zero holds back the gradient of the other one for a step
        assert phases == ["forward", "backward", "update"]
        moved = {key for key, value in made.model.state_dict().items() if not torch.equal(before[key], value)}
        trains = {key for key, p in made.model.named_parameters(remove_duplicate=False) if p.requires_grad}
        assert moved == trains, case.name
        assert all(p.grad is None for p in made.model.parameters())


def test_the_hooks_of_a_method_are_part_of_its_step(subjects, workloads):
    called = []

    class Hooked:
        def losses(self, forward, inputs, outputs, targets):
            called.append(torch.equal(forward(inputs), outputs))
            return forward.loss(outputs, targets) + 2 * len(targets)  # sums over the batch

        def penalty(self, model):
            return torch.tensor(3.0)

        def after_step(self, model, update, updates):
            called.append((update, updates))

    plain = find_case("images", "q-v", "lora")
    without, step = (
        TrainingStep(dataclasses.replace(plain, method=method), subjects["images"], workloads["images"])
        for method in (None, Hooked())
    )
    assert step.loss(step.called).item() == pytest.approx(2 * without.loss(without.called).item() + 2 + 3)
    step()
    step()
    assert called == [True, True, (0, 1000), True, (1, 1000)]


def test_methods_of_files_are_called_as_these_and_have_the_hooks_of_the_method():
    files = [Path("configs/vtab1k") / f"{name}.yaml" for name in ("capaboost_lora", "dyt")]
    cases = file_cases(VISION, [str(Path(__file__).parents[2] / file) for file in files])
    assert [case.name for case in cases] == ["floor", "capaboost_lora", "dyt"]
    assert [case.method and case.method.name for case in cases] == [None, "lora", "dyt"]
    assert cases[2].what.startswith("DyT")


@pytest.mark.parametrize("name", SHAPES)
def test_every_method_makes_a_step_on_every_text_encoder(name, workloads):
    workload = dataclasses.replace(workloads["tokens"], model=name)
    subject = make_subject(workload)
    for case in (*method_cases(TEXT, 2), find_case("tokens", "all-linears", "capaboost-d2")):
        step = TrainingStep(case, subject, workload)
        assert step.loss(step.model).isfinite()
        step()
        assert logits_of(step.model, subject).shape == (4, 3)


@every_group
def test_every_case_but_those_with_tokens_or_integers_starts_from_the_same_function(items, group, subjects, build):
    subject = subjects[items]
    with torch.no_grad():
        wanted = logits_of(subject.base.eval(), subject)
        assert wanted.shape == (4, 3)
        for case in group_of_cases(FAMILIES[items], group, 2):
            same = torch.allclose(logits_of(build(items, group, case.name).eval(), subject), wanted, atol=1e-6)
            assert same != case.name.startswith(("prefix", "prompt", "unipelt", "intlora")), case.name


@pytest.mark.parametrize(("items", "before"), [("images", "patch_embed"), ("tokens", "roberta.embeddings")])
def test_the_floor_trains_nothing_and_its_gradients_reach_the_tokens_of_the_first_block(items, before, step):
    step = step(items, "all-linears", "floor")
    assert step.trained == []
    assert step.optimizer is None
    tokens, seen = [], []
    first = step.model.get_submodule(step.subject.family.blocks(step.model)[0])
    first.register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    inside = step.model.get_submodule(before)
    inside.register_forward_hook(lambda module, args, y: seen.append(y.requires_grad))
    step.loss(step.model).backward()
    assert seen == [False]
    (entering,) = tokens
    assert entering.grad.shape == entering.shape
    real = entering.grad[step.subject.inputs["attention_mask"].bool()] if items == "tokens" else entering.grad
    assert real.abs().amax(-1).min() > 0
    assert all(p.grad is None for p in step.model.parameters())


@every_family
def test_the_floor_answers_without_a_gradient(items, build, subjects):
    model = build(items, "all-linears", "floor")
    with torch.no_grad():
        assert not logits_of(model, subjects[items]).requires_grad


@every_family
def test_a_compiled_floor_gives_the_tokens_the_same_gradient(items, step):
    step = step(items, "all-linears", "floor")
    step.model.eval()  # without dropout
    step.loss(step.model)  # the eager call that must come first
    tokens = []
    first = step.model.get_submodule(step.subject.family.blocks(step.model)[0])
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
    frozen_down, default = counts.pop("capaboost-d2-fa"), counts.pop("capaboost-default")
    assert counts.pop("floor") == 0
    assert len(set(counts.values())) == 1, counts
    assert frozen_down < counts["peft"] < default < 1.03 * counts["peft"]  # with coefficients


@every_family
def test_the_adapters_are_as_large_as_ours(items, build):
    sizes = {name: trained(build(items, "methods", name)) for name in ("adapter-nn", "adapter-d1", "adapter-d2")}
    assert len(set(sizes.values())) == 1, sizes


@every_family
def test_the_head_is_trained_by_everything_but_the_floor(items, build, subjects):
    (head,) = subjects[items].family.anatomy(subjects[items].base).head
    assert head == {"images": "head", "tokens": "classifier"}[items]
    made = ("q-v", "floor"), ("q-v", "peft"), ("q-v", "loop-d2"), ("methods", "adapter-nn"), ("frozen-front", "head")
    for group, name in made:
        trains = {p.requires_grad for p in build(items, group, name).get_submodule(head).parameters()}
        assert trains == {name != "floor"}


@pytest.mark.parametrize(
    ("items", "group", "d"), [("images", "all-linears", 4), ("images", "q-v", 2), ("tokens", "all-linears", 2)]
)
def test_the_loop_over_branches_computes_what_ours_computes(items, group, d, build, subjects):
    subject = subjects[items]
    ours, loop = (build(items, group, f"{name}-d{d}").eval() for name in ("capaboost", "loop"))
    shake(ours)
    heads = subject.family.anatomy(subject.base).head
    names = [name for name in loop.state_dict() if not name.startswith(heads)]
    assert names == [name for name in ours.state_dict() if not name.startswith(heads)]
    loop.load_state_dict(ours.state_dict())
    assert any(isinstance(module, LoopOverBranches) for module in loop.modules())
    assert not any(isinstance(module, AdaptedLinear) for module in loop.modules())
    torch.testing.assert_close(logits_of(loop, subject), logits_of(ours, subject), atol=1e-5, rtol=1e-4)


@every_family
def test_peft_computes_what_our_plain_lora_computes(items, build, subjects):
    ours, peft = (build(items, "all-linears", name).eval() for name in ("lora", "peft"))
    shake(ours)
    with torch.no_grad():
        for name, branch in branches(ours).items():
            place = name.removesuffix(".branches.all")
            peft.get_submodule(f"{place}.lora_A.default").weight.copy_(branch.down.weight)
            peft.get_submodule(f"{place}.lora_B.default").weight.copy_(branch.up.weight)
    found, wanted = (logits_of(model, subjects[items]) for model in (peft, ours))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, logits_of(subjects[items].base.eval(), subjects[items]), atol=1e-3)


@every_family
def test_two_products_compute_what_our_plain_adapter_computes(items, build, subjects):
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
    found, wanted = (logits_of(model, subjects[items]) for model in (plain, ours))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, logits_of(subjects[items].base.eval(), subjects[items]), atol=1e-4)


@every_family
@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("all-linears", ("capaboost-d2", "capaboost-d2-whole")),
        ("frozen-front", ("last-third", "last-third-recomputed", "last-third-whole")),
        ("frozen-front", ("head", "head-recomputed", "head-whole")),
    ],
)
def test_short_cuts_change_neither_loss_nor_gradients(items, group, names, step):
    results = []
    for name in names:
        made = step(items, group, name)
        made.model.eval()  # without dropout
        made.network.eval()
        loss = made.loss(made.network)
        results.append([loss, *torch.autograd.grad(loss, made.trained)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-6)


@every_family
def test_what_is_kept_of_a_frozen_front_is_not_computed_in_a_step(items, step):
    for name, gradients in (("last-third", []), ("last-third-recomputed", [False]), ("last-third-whole", [True])):
        made, seen = step(items, "frozen-front", name), []
        first, last = (made.model.get_submodule(made.subject.family.blocks(made.model)[i]) for i in (0, -1))
        list(first.modules())[-1].register_forward_hook(lambda *_, seen=seen: seen.append(torch.is_grad_enabled()))
        made()
        assert seen == gradients, name
        assert any(p.requires_grad for p in last.parameters())
        assert not any(p.requires_grad for p in first.parameters())


def test_without_anything_in_front_there_is_nothing_to_keep(workload):
    subject = make_subject(dataclasses.replace(workload, model_kwargs={**workload.model_kwargs, "depth": 1}))
    with pytest.raises(RuntimeError, match="nothing is in front of what is trained"):
        TrainingStep(find_case("images", "frozen-front", "last-third"), subject, workload)


@every_family
def test_merged_and_unmerged_answer_alike(items, subjects, workloads):
    cases = {case.name: case for case in inference_cases(FAMILIES[items], "q-v", 2)}
    assert list(cases) == ["base", "evaluated", "merged", "unmerged", "peft", "peft-merged"]
    for case in cases.values():
        Inference(case, subjects[items], workloads[items])()
    merged, unmerged, peft = (
        build_case(cases[name], subjects[items]).eval() for name in ("evaluated", "unmerged", "peft-merged")
    )
    assert {type(module) for module in peft.modules()} == {type(module) for module in subjects[items].base.modules()}
    assert not any(isinstance(module, AdaptedLinear) for module in merged.modules())
    assert any(isinstance(module, AdaptedLinear) for module in unmerged.modules())
    with torch.no_grad():
        torch.testing.assert_close(*(logits_of(model, subjects[items]) for model in (merged, unmerged)))


@every_family
def test_layers_of_integers_answer_as_the_unmerged_model_does_and_are_smaller(items, subjects):
    models = {c.name: build_case(c, subjects[items]).eval() for c in integer_cases(FAMILIES[items], 2)}
    with torch.no_grad():
        unmerged, merged = (logits_of(models[name], subjects[items]) for name in ("intlora-8", "integers-8"))
    assert torch.equal(unmerged, merged)
    sizes = [stored(models[name]) for name in ("intlora-8", "base", "integers-8", "integers-4")]
    assert sizes == sorted(sizes, reverse=True)


def test_what_computes_less_does_what_its_name_says(subjects, workloads):
    subject = subjects["images"]
    cases = {case.name: case for case in fewer_cases()}
    for rate in (0.7, 0.5):
        model = build_case(cases[f"dyt-{rate}"], subject).eval()
        with torch.no_grad(), realised_rate(model) as realised:
            logits_of(model, subject)
        assert float(realised) == pytest.approx(rate, abs=0.3)  # of two patches in a tiny image
    tokens = []
    for name in ("base", "e2vpt", "e2vpt-pruned"):
        model = build_case(cases[name], subject).eval()
        model.blocks[-1].register_forward_pre_hook(lambda module, args: tokens.append(args[0].shape[1]))
        logits_of(model, subject)
    tokens_of_base, whole, pruned = tokens
    assert (whole - tokens_of_base, pruned - tokens_of_base) in ((10, 5), (0, 0))
    for case in cases.values():
        Inference(case, subject, workloads["images"])()


def test_without_peft_its_case_says_what_is_missing(step, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="peft"):
        step("images", "all-linears", "peft")


def test_mixed_precision_is_that_of_the_workload(step):
    seen = []
    step = step("images", "frozen-front", "head-whole", amp=True)
    step.model.blocks[0].mlp.fc1.register_forward_hook(lambda module, args, y: seen.append(y.dtype))
    step()
    assert seen == [torch.bfloat16]


def test_a_layer_alone_is_fed_with_what_the_model_feeds_it(subject, workload):
    linear = Case("floor", "", lambda model: model.requires_grad_(False))
    step = TrainingStep(linear, subject, workload)
    seen, phases, gradients = [], [], []
    step.model.blocks[1].mlp.fc2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    layer = layer_passes({"floor": step}, "blocks.1.mlp.fc2")["floor"]
    assert layer.x.shape == (4, 5, 64)
    torch.testing.assert_close(layer.x, seen[0])
    assert isinstance(layer.layer, nn.Linear)
    layer.x.register_hook(gradients.append)
    layer(phases.append)
    assert phases == ["forward", "backward"]
    torch.testing.assert_close(gradients[0], layer.grad @ layer.layer.weight)
    assert layer.x.grad is None


@pytest.mark.parametrize(
    ("cls", "options", "text"),
    [
        (Workload, {"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        (Workload, {"amp_dtype": "int8"}, "--amp-dtype must be bfloat16 or float16, got 'int8'"),
        (Workload, {"padding": 1.0}, r"--padding must lie in \[0, 1\), got 1.0"),
        (SpeedConfig, {"groups": ("q-w",)}, "--groups must be all-linears, q-v, methods or frozen-front, got 'q-w'"),
        (
            SpeedConfig,
            {"measures": ("taste",)},
            "--measures must be step, inference, fewer, integers, layer, memory, probe or import",
        ),
        (SpeedConfig, {"goals": {"step q-v floor": 1.0}}, "--goals: no goal 'step q-v floor'; write one of step GROUP"),
        (SpeedConfig, {"goals": {"import": "soon"}}, r"bound of 'import' must be a number or \[least, most\], got 'so"),
        (ScaleConfig, {"targets": "methods"}, "--targets must be all-linears or q-v, got 'methods'"),
        (ScaleConfig, {"ranks": (4, 0)}, "--ranks must be at least 1, got 0"),
        (ProcessesConfig, {"processes": (0,)}, "--processes must be at least 1, got 0"),
        (CapacityConfig, {"ranks": (0,)}, "--ranks must be at least 1, got 0"),
        (CapacityConfig, {"ranks": ()}, "--ranks must be numbers of at least 1"),
    ],
)
def test_wrong_options_are_refused(cls, options, text):
    with pytest.raises(ValueError, match=text):
        cls(**options)


def test_a_device_that_is_not_there_is_refused(workload):
    with pytest.raises(ValueError, match="--device nowhere"):
        make_subject(dataclasses.replace(workload, device="nowhere"))
