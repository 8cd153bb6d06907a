"""A training loop of one's own: parameter groups by the rules of `capaboost train`, and states of the adapter alone."""

from __future__ import annotations

import importlib
import sys

import pytest
import small
import timm
import torch
from safetensors.torch import load_file

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.training.optim import make_optimizer
from capaboost_vit.vision.config import TrainConfig

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
METHODS = ["lora", "adapter", "prefix", "prompt", "ssf", "bitfit", "full"]


def adapted(method="lora", *, seed=0, **options):
    """As if trained: nothing that is trained has its start value."""
    torch.manual_seed(seed)
    model = capaboost_vit.adapt(timm.create_model("vit_tiny_patch16_224", **VIT), method, **options)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def by_parameter(groups):
    """(rate, decay) of each parameter, each in one group."""
    found = [(id(p), (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


# parameter groups


@pytest.mark.parametrize("method", METHODS)
def test_the_groups_hold_what_is_trained_with_the_rates_and_decays_of_a_run(method):
    model = adapted(method)
    groups = by_parameter(capaboost_vit.param_groups(model, 0.3, weight_decay=0.1))
    optimizer = make_optimizer(model, TrainConfig(method={"name": method}, lr=0.3, weight_decay=0.1))
    run = [{**group, "lr": group["lr"] * group.get("lr_scale", 1)} for group in optimizer.param_groups]
    assert groups == by_parameter(run)
    assert groups.keys() == {id(p) for p in model.parameters() if p.requires_grad}


def test_prompts_gains_coefficients_biases_and_norms_do_not_decay():
    model = adapted("lora", pattern="sign", coefficients="rank")
    capaboost_vit.adapt(model, "prompt", prompt_length=2)
    capaboost_vit.adapt(model, "ssf", targets=("mlp_out",))
    capaboost_vit.adapt(model, "norm")
    decays = by_parameter(capaboost_vit.param_groups(model, 1e-3, weight_decay=0.1))
    decaying = {
        name.rpartition(".branches.")[2] for name, p in model.named_parameters() if decays.get(id(p), (0, 0))[1]
    }
    assert decaying == {"q.down.weight", "q.up.weight", "v.down.weight", "v.up.weight", "head.weight"}


def test_the_head_and_b_have_rates_of_their_own():
    model = adapted("lora", coefficient_lr_ratio=8.0, pattern="sign", coefficients="rank")
    groups = capaboost_vit.param_groups(model, 0.01, 0.5, weight_decay=0.1, loraplus_ratio=4.0)
    rates = {name: by_parameter(groups)[id(p)][0] for name, p in model.named_parameters() if p.requires_grad}
    for name, rate in rates.items():
        wanted = {"head": 0.5, "up": 0.04, "coefficients": 0.08}
        key = "head" if name.startswith("head") else name.removesuffix(".weight").rpartition(".")[2]
        assert rate == pytest.approx(wanted.get(key, 0.01)), name


def test_the_groups_train_with_torchs_optimizer_and_schedule():
    model = adapted()
    optimizer = torch.optim.AdamW(capaboost_vit.param_groups(model, 0.1, 0.2))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    schedule.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.05, 0.1}


def test_what_contains_the_model_is_trained_with_it():
    outer = torch.nn.ModuleDict({"model": adapted(), "own": torch.nn.Linear(2, 2)})
    groups = by_parameter(capaboost_vit.param_groups(outer, 0.1, 0.5, weight_decay=0.1))
    assert groups.keys() == {id(p) for p in outer.parameters() if p.requires_grad}
    assert groups[id(outer["own"].weight)] == (0.1, 0.1)
    assert groups[id(outer["model"].head.bias)] == (pytest.approx(0.5), 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_is_marked_again(method):
    model = adapted(method)
    trained = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(method == "lora")
    capaboost_vit.mark_trainable(model)
    assert [p.requires_grad for p in model.parameters()] == trained


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        ("adapter", {"loraplus_ratio": 4.0}, "loraplus_ratio is for lora, and this model has adapter: leave it out"),
        ("lora", {"head_lr": 0.1}, "head_lr 0.1: no head of this VisionTransformer is trained"),
        (None, {}, "this VisionTransformer carries no adapter"),
    ],
)
def test_a_rate_for_what_is_not_there_is_refused(method, options, text):
    sizes = {**VIT, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", **sizes)
    if method is not None:
        capaboost_vit.adapt(model, method)
    with pytest.raises(ValueError, match=text):
        capaboost_vit.param_groups(model, 1e-3, **options)


# states


@pytest.mark.parametrize("method", METHODS)
def test_a_state_brings_a_model_to_another_one(method, tmp_path):
    first, second = adapted(method), adapted(method)
    for parameter in (p for p in second.parameters() if p.requires_grad):
        parameter.data.zero_()
    torch.save(capaboost_vit.state_dict(first), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    capaboost_vit.load_state_dict(second, state)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(second.eval()(images), first.eval()(images))
    third = adapted(method, seed=0)
    assert not third.load_state_dict(state, strict=False).unexpected_keys


def test_a_state_has_the_names_of_an_adapter_file_and_none_of_the_base(tmp_path):
    model = adapted("lora", num_branches=2, density=0.5)
    file = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    state = capaboost_vit.state_dict(model)
    assert state.keys() == load_file(file).keys()
    assert "blocks.0.attn.qkv.weight" not in state
    assert not any(tensor.requires_grad for tensor in state.values())


def test_a_state_of_a_text_encoder_holds_its_head():
    model = nlu.adapt(small.build("bert", "SequenceClassification"), "lora")
    state = capaboost_vit.state_dict(model)
    assert {"classifier.weight", "classifier.bias"} < state.keys()
    assert "bert.embeddings.word_embeddings.weight" not in state


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"rank": 2}, "of another shape"),
        ({"targets": ("query",)}, "unknown"),
        ({"targets": ("query", "value", "mlp_in")}, "missing"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(other, text):
    model = adapted(**other)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"the state does not fit this VisionTransformer: .*{text}") as error:
        capaboost_vit.load_state_dict(model, capaboost_vit.state_dict(adapted(rank=4)))
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# clients that are not there


@pytest.mark.parametrize(
    ("door", "client", "extra"),
    [("lightning", "lightning.pytorch", "lightning"), ("transformers", "transformers", "nlu")],
)
def test_a_missing_client_is_one_line_that_installs_it(door, client, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, client, None)
    monkeypatch.delitem(sys.modules, f"capaboost_vit.{door}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"^{client} is not installed: pip install .*\[{extra}\]'$"):
        importlib.import_module(f"capaboost_vit.{door}")
