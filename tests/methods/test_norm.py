"""LayerNorm-tuning: every normalisation layer with parameters is trained, and nothing else but the head."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm import layers
from torch import nn

import capaboost_vit
from capaboost_vit.core.names import norm_names

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def vit(**options):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **{**SMALL, **options}).eval()


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


# norms of torch and timm by their class, and how they are made
MADE = [
    lambda: nn.LayerNorm(8),
    lambda: nn.RMSNorm(8),
    lambda: nn.GroupNorm(2, 8),
    lambda: nn.BatchNorm1d(8),
    lambda: nn.BatchNorm2d(8),
    lambda: nn.SyncBatchNorm(8),
    lambda: nn.InstanceNorm2d(8, affine=True),
    lambda: layers.LayerNorm(8),
    lambda: layers.LayerNorm2d(8),
    lambda: layers.LayerNormFp32(8),
    lambda: layers.RmsNorm(8),
    lambda: layers.RmsNorm2d(8),
    lambda: layers.SimpleNorm(8),
    lambda: layers.GroupNorm1(8),
    lambda: layers.BatchNormAct2d(8, act_layer=nn.PReLU),
    lambda: layers.GroupNormAct(8, 2),
    lambda: layers.LayerNormAct(8),
    lambda: layers.EvoNorm2dS0(8),
    lambda: layers.FilterResponseNormTlu2d(8),
    lambda: layers.grn.GlobalResponseNorm(8),
]


@pytest.mark.parametrize("make", MADE, ids=lambda make: type(make()).__name__)
def test_a_normalisation_layer_is_found_by_what_it_is(make):
    assert norm_names(nn.Sequential(nn.Linear(8, 8), make())) == ["1"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LayerNorm(8, elementwise_affine=False),
        lambda: nn.BatchNorm1d(8, affine=False),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        lambda: nn.PReLU(8),
        lambda: layers.LayerScale(8),
    ],
    ids=["layer norm without parameters", "batch norm without", "weight norm", "prelu", "layer scale"],
)
def test_what_is_no_normalisation_layer_or_has_no_parameters_is_not_found(make):
    assert norm_names(nn.Sequential(make(), nn.Linear(8, 8))) == []


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("test_vit", "blocks.0.norm1"),
        ("test_vit3", "blocks.0.norm1"),
        ("test_convnext", "stem.1"),
        ("test_resnet", "layer1.0.bn1"),
        ("test_nfnet", None),  # blocks called NormFree, with parameters of their own
        ("test_mambaout", "stem.norm2"),
        ("test_efficientnet", "bn1"),
    ],
)
def test_in_models_of_timm_all_that_have_a_weight_for_each_channel_are_found_and_no_more(name, some):
    model = timm.create_model(name, num_classes=3)
    weights = {
        parameter.removesuffix(".weight"): p for parameter, p in model.named_parameters() if "weight" in parameter
    }
    found = norm_names(model)
    assert set(found) == {owner for owner, weight in weights.items() if weight.dim() == 1}
    assert some in found or (some is None and not found)


def test_norms_and_head_are_trained_and_the_model_is_the_base_at_first():
    model = capaboost_vit.adapt(vit(), "norm")
    assert torch.equal(model(IMAGES), vit()(IMAGES))
    norms = [f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)] + ["norm"]
    assert trained(model) == {f"{norm}.{name}" for norm in norms for name in ("weight", "bias")} | {
        "head.weight",
        "head.bias",
    }
    model(IMAGES).square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained(model)


def test_parameters_of_vit_base_are_those_of_25_norms():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
    capaboost_vit.adapt(model, "norm")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 25 * 2 * 768


@torch.no_grad()
def moved(model):
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_resnet"])
@torch.no_grad()
def test_a_file_holds_what_was_trained_and_loads_into_a_fresh_base(tmp_path, name):
    def base():
        torch.manual_seed(0)
        return timm.create_model(name, **(SMALL if "vit" in name else {"num_classes": 3})).eval()

    model = moved(capaboost_vit.adapt(base(), "norm"))
    path = capaboost_vit.save_adapter(model, tmp_path / "norm.safetensors")
    again = capaboost_vit.load_adapter(base(), path)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert not torch.equal(again(IMAGES), base()(IMAGES))
    assert trained(again) == trained(model)


@torch.no_grad()
def test_merging_is_the_identity_and_leaves_no_wrapper():
    for name in ("vit_tiny_patch16_224", "test_resnet"):
        torch.manual_seed(0)
        plain = timm.create_model(name, **(SMALL if "vit" in name else {"num_classes": 3})).eval()
        model = moved(capaboost_vit.adapt(copy.deepcopy(plain), "norm"))
        merged = capaboost_vit.merge(model)
        assert list(merged.state_dict()) == list(plain.state_dict())
        assert torch.equal(merged(IMAGES), model(IMAGES))


def test_batch_norms_keep_their_statistics_while_their_parameters_learn():
    model = capaboost_vit.adapt(timm.create_model("test_resnet", num_classes=3), "norm").train()
    before = {name: b.clone() for name, b in model.named_buffers()}
    model(IMAGES).square().sum().backward()
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert any("bn" in name for name in trained(model))


def test_norms_inside_of_wrappers_are_trained_beside_branches():
    model = capaboost_vit.adapt(capaboost_vit.adapt(vit(), "ssf"), "norm")
    assert "blocks.0.norm1.base.weight" in trained(model)
    assert "blocks.0.norm1.scales.all.weight" in trained(model)
    assert "blocks.0.attn.qkv.base.weight" not in trained(model)


def test_a_model_without_norms_is_refused_and_stays_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="Sequential has no normalisation layer with parameters: take bitfit or lora"):
        capaboost_vit.adapt(model, "norm")
    assert model[0].weight.requires_grad
    assert not hasattr(model, "capaboost")
