"""After merge and detach a timm model is the base architecture again, for timm's own bookkeeping too."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from torch import nn

import capaboost_vit

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 4}
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def adapted():
    model = timm.create_model("vit_tiny_capaboost_lora", rank=3, **SMALL).eval()
    for branch in capaboost_vit.branches(model).values():
        nn.init.normal_(branch.up.weight, std=0.1)
    return model


@pytest.mark.parametrize("verb", [capaboost_vit.merge, lambda model: capaboost_vit.detach(copy.deepcopy(model))])
def test_saved_folder_of_a_plain_again_model_names_the_base(tmp_path, verb):
    model = adapted()
    plain = verb(model)
    save_for_hf(plain, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(loaded.blocks[0].attn.qkv) is nn.Linear
    assert torch.equal(loaded(X), plain(X))
    assert plain.pretrained_cfg["architecture"] == "vit_tiny_patch16_224"
    assert model.pretrained_cfg["architecture"] == "vit_tiny_capaboost_lora"


def test_convolution_net_keeps_its_running_statistics_in_training():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4)
    capaboost_vit.adapt(model, "lora", targets="fc", pattern="random", head=[])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.1)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 64, 64)).square().sum().backward()
        optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == {"fc.branches.all.down.weight", "fc.branches.all.up.weight"}
    merged = capaboost_vit.merge(model).eval()
    timm.create_model("test_resnet", num_classes=4).load_state_dict(merged.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(merged(x), model.eval()(x), rtol=0, atol=1e-5)


def test_a_torch_model_that_timm_does_not_know_is_adapted_by_pattern():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(2, 5, 16)
    before = model.eval()(x)
    capaboost_vit.adapt(model, "lora", targets=["layers.*.linear1", "layers.*.linear2"], rank=2, head=())
    torch.testing.assert_close(model.train()(x), before)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 2 * 2 * (2 * (16 + 32) + 2)  # with a coefficient for each rank
    shown = str(capaboost_vit.summary(model, flops=False))
    assert "mlp_in " in shown
    assert "mlp_out " in shown
    with pytest.raises(ValueError, match="target 'query' matches nothing in Sequential"):
        capaboost_vit.adapt(nn.Sequential(nn.Linear(4, 4)), "lora")
    with pytest.raises(ValueError, match="give input_size"):
        capaboost_vit.summary(model)


def test_merge_puts_a_name_alone_into_the_head_even_where_it_would_match_more():
    model = nn.ModuleDict({"fc": nn.Linear(4, 2), "se": nn.ModuleDict({"fc": nn.Linear(4, 4)}), "x": nn.Linear(4, 4)})
    capaboost_vit.adapt(model, "lora", targets="x", rank=1, head=["fc"])
    assert model["fc"].weight.requires_grad
    assert not model["se"]["fc"].weight.requires_grad
