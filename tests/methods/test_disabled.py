"""Adapters switched off: bitwise the base within the block, and the model as it was behind it."""

from __future__ import annotations

import pytest
import timm
import torch
from registered import CHANGE_THE_BASE, OWN
from torch import nn
from vits import IMAGES, vit

import capaboost_vit


def adapted(method):
    model = capaboost_vit.adapt(vit(), method, **OWN[method])
    with torch.no_grad():
        for branch in capaboost_vit.branches(model).values():
            for parameter in branch.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("method", [name for name in OWN if name not in CHANGE_THE_BASE])
def test_a_disabled_model_is_bitwise_its_base_and_is_itself_again_behind_the_block(method):
    model = adapted(method)
    before, keys, record = model(IMAGES), list(model.state_dict()), model.capaboost
    with capaboost_vit.disabled(model):
        assert torch.equal(model(IMAGES), vit()(IMAGES))
        assert model.state_dict().keys() == vit().state_dict().keys()
        with capaboost_vit.disabled(model):
            assert torch.equal(model(IMAGES), vit()(IMAGES))
        assert torch.equal(model(IMAGES), vit()(IMAGES))
        with pytest.raises(ValueError, match="carries no adapter"):  # rather than a file without branches
            capaboost_vit.save_adapter(model, "nowhere.safetensors")
    assert torch.equal(model(IMAGES), before)
    assert list(model.state_dict()) == keys
    assert model.capaboost is record
    assert method == "head" or not torch.equal(before, vit()(IMAGES))


@torch.no_grad()
def test_several_methods_a_model_within_another_and_an_error_within_the_block():
    model = capaboost_vit.adapt(capaboost_vit.adapt(vit(), "lora"), "prompt")
    outer = nn.Sequential(model)
    before = outer(IMAGES)
    with capaboost_vit.disabled(outer):
        assert torch.equal(outer(IMAGES), vit()(IMAGES))
    with pytest.raises(RuntimeError, match=r"shape|channels|size"), capaboost_vit.disabled(outer):
        outer(IMAGES[:, :1])
    assert torch.equal(outer(IMAGES), before)


@torch.no_grad()
def test_the_head_stays_as_it_is_trained():
    model, base = adapted("lora"), vit()
    model.head.weight.add_(1)
    base.head.weight.add_(1)
    with capaboost_vit.disabled(model):
        assert torch.equal(model(IMAGES), base(IMAGES))


def test_modes_are_restored_and_frozen_batch_norms_do_not_move():
    torch.manual_seed(0)
    model = capaboost_vit.adapt(timm.create_model("resnet10t", num_classes=3), "lora", targets=("fc",), head=())
    model.train()
    modes = [module.training for module in model.modules()]
    statistics = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    with capaboost_vit.disabled(model):
        model(IMAGES)
        model.eval()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], value) for name, value in statistics.items())


def test_what_cannot_be_disabled_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"VisionTransformer carries no adapter: call capaboost_vit.adapt"):
        capaboost_vit.disabled(vit()).__enter__()
    for method in CHANGE_THE_BASE:
        model = adapted(method)
        with pytest.raises(ValueError, match=f"'{method}' trains parameters of the base itself, whose values are gone"):
            capaboost_vit.disabled(model).__enter__()
        assert model.capaboost["methods"][0]["method"] == method
