"""Capability x method on text models: gradients, checkpointing, copies, autocast, compilation."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from pairs import pairs
from small import ADDED, ONE_EACH, adapted, build, each_family, examples, padded, wake

from capaboost_vit.core.inject import branches
from capaboost_vit.nlu import adapt

ALL = [name for name in ADDED if name not in ("lora-d3", "lora-plain")]
SOME = ["parallel", "prefix-shared", "unipelt-all", "lora", "prompt-mlp", "ia3", "lora+prompt+prefix"]
every_method = pytest.mark.parametrize("name", ALL)
some_methods = pytest.mark.parametrize("name", SOME)
LABELS = torch.tensor([0, 1, 1])


def classifier(family, name, **options):
    return wake(adapted(build(family, "SequenceClassification", **options), name))


def loss_of(model, ids=None):
    ids = ids or examples()
    return model(**padded(model, ids, 9), labels=LABELS[: len(ids)]).loss


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@each_family(ALL)
def test_every_trained_parameter_gets_a_finite_gradient_and_no_frozen_one_gets_any(family, name):
    model = classifier(family, name).train()
    loss_of(model).backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
        else:
            assert parameter.grad is None, parameter_name
    for addition_name, addition in branches(model).items():
        for parameter_name, parameter in addition.named_parameters():
            assert parameter.grad.abs().sum() > 0, f"{addition_name}.{parameter_name}"


@some_methods
@pytest.mark.parametrize("family", ["roberta", "deberta-v3"])
def test_training_moves_what_is_trained_alone_and_lowers_the_loss(family, name):
    model = adapted(build(family, "SequenceClassification"), name).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    first = loss_of(model).item()
    for _ in range(12):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model).item() < 0.5 * first
    for parameter_name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[parameter_name]) != parameter.requires_grad, parameter_name


@pytest.mark.parametrize(
    ("family", "name", "reentrant"),
    pairs(ONE_EACH, ["houlsby", "unipelt-all", "lora", "prefix-shared", "prompt"], [False, True]),
)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(family, name, reentrant):
    """Two batches with different padding before the first backward pass: recomputation must see its own."""

    def computed(checkpointing):
        model = classifier(family, name).double().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
        losses = [loss_of(model), loss_of(model, [ids.flip(0) for ids in examples((3, 6))])]
        sum(losses).backward()
        return gradients(model)

    expected, found = computed(False), computed(True)
    assert found.keys() == expected.keys()
    for parameter_name, gradient in expected.items():
        torch.testing.assert_close(found[parameter_name], gradient, rtol=1e-6, atol=1e-8, msg=parameter_name)


@each_family(SOME)
@torch.no_grad()
def test_copies_compute_the_same_and_share_nothing(family, name):
    model = classifier(family, name)
    batch = padded(model, examples())
    expected = model(**batch).logits
    for duplicate in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):
        assert_copied(model, duplicate(model), batch, expected)


def assert_copied(model, twin, batch, expected):
    assert torch.equal(twin(**batch).logits, expected)
    assert twin.capaboost == model.capaboost
    assert sum(1 for _ in twin.parameters()) == sum(1 for _ in model.parameters())  # what was tied is tied
    for addition in branches(twin).values():
        for parameter in addition.parameters():
            parameter.add_(1)
    assert not torch.equal(twin(**batch).logits, expected)
    assert torch.equal(model(**batch).logits, expected)
    twin(**padded(model, examples(), 12))
    assert torch.equal(model(**batch).logits, expected)


@torch.no_grad()
def test_the_gates_of_a_copy_look_at_the_padding_of_the_copy():
    model = classifier("bert", "unipelt")
    twin = copy.deepcopy(model)
    paddings = [{id(b.gate.padding) for b in branches(m).values()} for m in (model, twin)]
    assert len(paddings[0]) == len(paddings[1]) == 1
    assert paddings[0] != paddings[1]


@each_family(SOME)
def test_autocast_in_bfloat16_runs_and_is_near(family, name):
    model = classifier(family, name).train()
    expected = loss_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model)
    loss.backward()
    torch.testing.assert_close(loss.float(), expected, rtol=0.1, atol=0.1)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@some_methods
@torch.no_grad()
def test_a_model_in_bfloat16_stays_in_it(name):
    model = classifier("bert", name).to(torch.bfloat16)
    assert model(**padded(model, examples())).logits.dtype == torch.bfloat16
    fresh = adapted(build("bert").to(torch.bfloat16), name)
    assert fresh(**padded(fresh, examples()))[0].dtype == torch.bfloat16
    assert {p.dtype for p in fresh.parameters() if not p.requires_grad} == {torch.bfloat16}


@some_methods
@pytest.mark.parametrize("family", ["bert", "deberta-v3"])
def test_dropout_acts_in_training_only(family, name):
    model = classifier(family, name, hidden_dropout_prob=0.3)
    assert torch.equal(loss_of(model), loss_of(model))
    model.train()
    assert not torch.equal(loss_of(model), loss_of(model))


@every_method
def test_adapting_draws_nothing_from_the_global_generator(name):
    model = build("bert")
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    adapted(model, name)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"), [("bert", "unipelt-masked"), ("deberta-v3", "unipelt"), ("bert", "prompt")]
)
def test_a_compiled_model_computes_the_same_with_the_same_gradients(family, name):
    eager, compiled = classifier(family, name), classifier(family, name)
    torch._dynamo.reset()
    run = torch.compile(compiled, backend="aot_eager")
    for ids in (examples(), examples((5, 2, 6))):  # another padding
        batch = padded(eager, ids, 9)
        expected, found = eager(**batch).logits, run(**batch).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        expected.square().sum().backward()
        found.square().sum().backward()
    for parameter_name, gradient in gradients(eager).items():
        torch.testing.assert_close(gradients(compiled)[parameter_name], gradient, rtol=1e-3, atol=1e-4)


def test_bert_with_unipelt_compiles_in_one_graph():
    model = classifier("bert", "unipelt", attention="sdpa")
    batch = padded(model, examples())
    torch._dynamo.reset()
    run = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(**batch).logits, model(**batch).logits, rtol=1e-4, atol=1e-5)


def test_the_whole_second_method_is_trained_beside_the_first():
    model = adapt(adapt(build("bert", "SequenceClassification"), "lora"), "prefix")
    assert all(p.requires_grad for addition in branches(model).values() for p in addition.parameters())
    assert [record["method"] for record in model.capaboost["methods"]] == ["lora", "prefix"]
