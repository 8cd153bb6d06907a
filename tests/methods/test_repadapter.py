"""RepAdapter: grouped convolutions of kernel 1 in front of a layer, merged exactly; what layers side by side share."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from vits import IMAGES, vit

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.core.front_adapter import FrontAdapter


def adapters(model):
    return [module for module in model.modules() if isinstance(module, FrontAdapter)]


@torch.no_grad()
def awake(model):
    for seed, adapter in enumerate(adapters(model)):
        for parameter in adapter.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
    return model.double().eval()


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_is_two_convolutions_of_kernel_1_of_which_the_second_has_groups(groups):
    model = awake(capaboost_vit.adapt(vit(), "repadapter", groups=groups, scale=0.5))
    layer = model.blocks[0].attn.qkv
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1)).double()
    inner = layer.adapter
    hidden = F.conv1d(x.transpose(1, 2), inner.down.weight[..., None], inner.down_bias)
    added = F.conv1d(hidden, inner.up.weight[..., None], inner.up_bias, groups=groups)
    expected = layer.base(x + 0.5 * added.transpose(1, 2))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])  # the second reads the weight
def test_merging_is_exact(name):
    options = {} if name.startswith("vit") else {"patch_size": 8}
    model = awake(capaboost_vit.adapt(vit(name, **options), "repadapter"))
    expected = model(IMAGES.double())
    base = capaboost_vit.merge(model)
    assert (base(IMAGES.double()) - expected).abs().max() <= 1e-12 * expected.abs().max()
    with capaboost_vit.disabled(model):
        assert (model(IMAGES.double()) - expected).abs().max() > 1e-3


def test_layers_without_a_bias_have_an_adapter_without_biases():
    model = capaboost_vit.adapt(vit(qkv_bias=False), "repadapter")
    assert model.blocks[0].attn.qkv.adapter.up_bias is None
    assert model.blocks[0].mlp.fc1.adapter.up_bias is not None


def test_query_key_and_value_of_a_text_encoder_have_one_adapter():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    model = nlu.adapt(transformers.BertForSequenceClassification(config), "repadapter")
    attention = model.bert.encoder.layer[0].attention.self
    assert attention.query.adapter is attention.key.adapter is attention.value.adapter
    assert len(adapters(model)) == 4
    trained = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "adapter" in name)
    assert trained == 4 * (8 * 16 + 8 + 16 * 4 + 16)


@torch.no_grad()
def test_with_masks_it_is_the_sum_over_the_views():
    model = awake(capaboost_vit.adapt(vit(), "repadapter", num_branches=3, density=0.5))
    inner = model.blocks[0].mlp.fc1.adapter
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).double()
    expected = x + inner.up_bias
    for down, up in zip(inner.down(), inner.up(), strict=True):
        expected = expected + F.linear(F.linear(x, down, inner.down_bias), torch.block_diag(up[:8], up[8:]))
    torch.testing.assert_close(model.blocks[0].mlp.fc1.changed(x), expected)
    torch.testing.assert_close(capaboost_vit.merge(model)(IMAGES.double()), model(IMAGES.double()))


def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"in front of the whole of 'blocks.0.attn.qkv', and its k is no target: name"):
        capaboost_vit.adapt(vit(), "repadapter", targets=["query", "value"])
    with pytest.raises(ValueError, match=r"groups=3 must divide the bottleneck, which is 8: say groups=1, or another"):
        capaboost_vit.adapt(vit(), "repadapter", groups=3)
    with pytest.raises(ValueError, match=r"groups=3 must divide the width of what it is in front of, which is 16"):
        capaboost_vit.adapt(vit(), "repadapter", groups=3, bottleneck=9)
    with pytest.raises(TypeError, match=r"repadapter needs linear layers, but 'patch_embed.proj' is a Conv2d"):
        capaboost_vit.adapt(vit(), "repadapter", targets=["patch_embed.proj"])
    model = capaboost_vit.adapt(nn.Sequential(nn.Linear(4, 4)), "repadapter", targets=["0"], head=[], dropout=0.5)
    with pytest.raises(ValueError, match=r"use dropout=0 on models that read .weight"):
        model.train()[0].weight  # noqa: B018
