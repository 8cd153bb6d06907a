"""Folding: the tables are what the MLPs computed; the record says so, so that a folded file builds a folded model."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

import capaboost_vit
from capaboost_vit.core.inject import branches
from capaboost_vit.methods.adapter_file import read_header
from capaboost_vit.methods.apply import fold

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
WITH_MLP = [
    ("prefix", dict(prefix_length=3, bottleneck=4)),
    ("prefix", dict(prefix_length=3, bottleneck=4, shared=True)),
    ("prefix", dict(prefix_length=3, bottleneck=4, pattern="sign", num_branches=3)),
    ("prompt", dict(prompt_length=3, bottleneck=4)),
    ("prompt", dict(prompt_length=3, bottleneck=4, deep=False)),
]


def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **SMALL).eval()


@torch.no_grad()
def awake(model):
    for seed, addition in enumerate(branches(model).values()):
        generator = torch.Generator().manual_seed(seed)
        for parameter in addition.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(("method", "options"), WITH_MLP)
@torch.no_grad()
def test_the_folded_model_computes_the_same_to_the_last_bit(method, options):
    model = awake(capaboost_vit.adapt(vit(), method, **options))
    expected = model(IMAGES)
    assert (expected - vit()(IMAGES)).abs().max() > 1e-3
    assert fold(model) is model
    assert torch.equal(model(IMAGES), expected)
    width = 32 if method == "prefix" else 16
    count = 1 if options.get("deep") is False else 2
    assert sum(p.numel() for b in branches(model).values() for p in b.parameters()) == count * 3 * width
    assert not [name for name in model.state_dict() if name.endswith(".mask")]
    assert fold(model) is model  # a second time changes nothing
    assert torch.equal(model(IMAGES), expected)


@pytest.mark.parametrize(("method", "options"), WITH_MLP)
@torch.no_grad()
def test_a_folded_file_builds_a_folded_model(method, options, tmp_path):
    model = fold(awake(capaboost_vit.adapt(vit(), method, **options)))
    path = capaboost_vit.save_adapter(model, tmp_path / "folded.safetensors")
    (record,) = read_header(path)["methods"]
    assert record["bottleneck"] is None
    assert (record["num_branches"], record["density"], record["pattern"]) == (1, 1.0, "random")
    again = capaboost_vit.load_adapter(vit(), path)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert again.capaboost["methods"] == model.capaboost["methods"]


@pytest.mark.parametrize(
    ("method", "options"), [("prefix", {}), ("prompt", {}), ("lora", {}), ("adapter", {}), ("ia3", {})]
)
@torch.no_grad()
def test_what_has_no_mlp_is_left_alone(method, options):
    model = awake(capaboost_vit.adapt(vit(), method, **options))
    record, state = copy.deepcopy(model.capaboost), {name: t.clone() for name, t in model.state_dict().items()}
    fold(model)
    assert model.capaboost == record
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


@torch.no_grad()
def test_only_the_method_with_the_mlp_has_another_record():
    model = vit()
    capaboost_vit.adapt(model, "lora")
    capaboost_vit.adapt(model, "prefix", bottleneck=4, shared=True)
    capaboost_vit.adapt(model, "prompt")
    expected = copy.deepcopy(model.capaboost["methods"])
    expected[1] |= {"bottleneck": None, "shared": False, "num_branches": 1, "density": 1.0, "pattern": "random"}
    awake(model)
    before = model(IMAGES)
    assert fold(model).capaboost["methods"] == expected
    assert torch.equal(model(IMAGES), before)


def test_a_folded_model_is_trained_on():
    model = fold(awake(capaboost_vit.adapt(vit(), "prefix", bottleneck=4, shared=True)))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for b in branches(model).values() for p in b.parameters()} <= {id(p) for p in trained}
    model(IMAGES).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in trained)
    tables = [b.table.weight for b in branches(model).values()]
    assert tables[0] is not tables[1]


def test_a_model_without_anything_has_nothing_to_fold():
    with pytest.raises(ValueError, match=r"this VisionTransformer carries nothing to fold: call capaboost_vit\.adapt"):
        fold(vit())
