"""Adapted models in torch.fx, by which timm and torchvision extract features; merged ones in torch.jit."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models._features_fx import GraphExtractNet
from torchvision.models.feature_extraction import create_feature_extractor

import capaboost_vit

SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _shaken(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _adapted(method):
    return _shaken(capaboost_vit.adapt(timm.create_model("vit_tiny_patch16_224", **SIZES), method))


@pytest.mark.parametrize("method", capaboost_vit.METHODS)
def test_timm_extracts_features_of_an_adapted_model_and_trains_it_through_them(method):
    if method == "unipelt":
        pytest.skip("its prefixes take no gates here")
    model = _adapted(method)
    net = GraphExtractNet(model, ["blocks.0", "head"], return_dict=True)
    seen = []
    model.blocks[0].register_forward_hook(lambda module, args, output: seen.append(output))
    logits, features = model(X), net(X)
    assert torch.equal(features["head"], logits)
    assert torch.equal(features["blocks.0"], seen[0])
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trained <= {id(parameter) for parameter in net.parameters()}


def test_torchvision_extracts_features_with_wrappers_as_leaves():
    model = _adapted("lora")
    leaves = {"leaf_modules": [capaboost_vit.Wrapper]}
    net = create_feature_extractor(model, ["blocks.1", "head"], tracer_kwargs=leaves)
    assert torch.equal(net(X)["head"], model(X))


@pytest.mark.parametrize("method", ["lora", "adapter", "prompt", "prefix"])
def test_features_by_graph_of_a_registered_name_are_saved_and_loaded(method, tmp_path):
    options = {**SIZES, "num_classes": 0, "features_only": True, "out_indices": (0, 1)}
    model = _shaken(timm.create_model(f"vit_tiny_capaboost_{method}", **{**SIZES, "num_classes": 0}))
    nets = [timm.create_model(f"vit_tiny_capaboost_{method}", feature_cls="fx", **options).eval() for _ in range(2)]
    for net in nets:
        net.graph_module.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for parameter in nets[0].parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    assert not torch.equal(nets[0](X)[1], nets[1](X)[1])
    path = capaboost_vit.save_adapter(nets[0], tmp_path / "adapter.safetensors")
    capaboost_vit.load_adapter(nets[1], path)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*(net(X) for net in nets), strict=True))


def test_code_that_reads_weights_is_not_traced_silently():
    model = capaboost_vit.adapt(timm.create_model("beitv2_base_patch16_224", **SIZES))
    with pytest.raises(TypeError, match=r"torch\.fx traces no code that reads the weight of an adapted Linear: merge"):
        GraphExtractNet(model, ["head"])


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is")
def test_merged_models_are_scripted():
    merged = capaboost_vit.merge(_adapted("lora"))
    assert torch.equal(torch.jit.script(merged)(X), merged(X))
