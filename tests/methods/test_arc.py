"""ARC: one symmetric map for all blocks of a place, its masks, what is shared, and that it merges exactly."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F
from vits import IMAGES, vit

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.core.meta_models import outlines
from capaboost_vit.core.names import distinct
from capaboost_vit.core.symmetric_adapter import SymmetricAdapter

MASKS = {"num_branches": 3, "density": 0.5}


def adapters(model):
    return [module for module in model.modules() if isinstance(module, SymmetricAdapter)]


@torch.no_grad()
def awake(model):
    for seed, adapter in enumerate(adapters(model)):
        for parameter in (adapter.scale, adapter.bias):
            if parameter is not None:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
    return model.double().eval()


def adapted(**options):
    return awake(capaboost_vit.adapt(vit(), "arc", **{"bottleneck": 4, **options}))


def test_step_0_is_the_base_to_the_bit():
    assert torch.equal(capaboost_vit.adapt(vit(), "arc")(IMAGES), vit()(IMAGES))


@torch.no_grad()
@pytest.mark.parametrize("masks", [{}, MASKS, {"num_branches": 2, "pattern": "sign"}], ids=str)
def test_the_map_in_front_is_symmetric_and_a_sum_over_the_views(masks):
    model = adapted(**{"density": None, **masks} if "pattern" in masks else masks)
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1)).double()
    for block in model.blocks:
        for layer in (block.attn.qkv, block.mlp.fc1):
            inner = layer.adapter
            update = sum(view.T @ inner.scale.diag() @ view for view in inner.down())
            rank = 4 * masks.get("num_branches", 1)
            assert torch.linalg.matrix_rank(update) <= rank
            torch.testing.assert_close(update, update.T)
            expected = layer.base(x + x @ update + inner.bias)
            torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("masks", [{}, MASKS], ids=["plain", "masked"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])  # the second reads the weight
def test_merging_is_exact(name, masks):
    options = {} if name.startswith("vit") else {"patch_size": 8}
    model = awake(capaboost_vit.adapt(vit(name, **options), "arc", bottleneck=4, **masks))
    expected = model(IMAGES.double())
    merged = capaboost_vit.merge(model)
    assert (merged(IMAGES.double()) - expected).abs().max() <= 1e-12 * expected.abs().max()
    with capaboost_vit.disabled(model):
        assert (model(IMAGES.double()) - expected).abs().max() > 1e-3


def test_all_blocks_of_a_place_have_one_projection_in_model_optimizer_and_file(tmp_path):
    model = adapted()
    attention, mlp = (
        {id(get(block).adapter.down.weight) for block in model.blocks}
        for get in (lambda block: block.attn.qkv, lambda block: block.mlp.fc1)
    )
    assert len(attention) == len(mlp) == 1
    assert attention != mlp
    once = ["blocks.0.attn.qkv.adapter.down.weight", "blocks.0.mlp.fc1.adapter.down.weight"]
    assert [name for name in distinct(model) if "down" in name] == once
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    assert sum(p.shape == (4, 16) for p in optimizer.param_groups[0]["params"]) == 2
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    with safe_open(path, framework="pt") as file:
        assert [name for name in file.keys() if "down" in name] == once  # noqa: SIM118
    loaded = capaboost_vit.load_adapter(vit().double(), path).eval()
    assert torch.equal(loaded(IMAGES.double()), model(IMAGES.double()))
    assert len(list(loaded.parameters())) == len(list(model.parameters()))


@pytest.mark.parametrize("masks", [{}, MASKS], ids=["plain", "masked"])
def test_the_gradient_of_the_projection_is_the_sum_over_its_copies(masks):
    model = adapted(**masks)
    model(IMAGES.double()).square().sum().backward()
    twin = copy.deepcopy(model)
    for adapter in adapters(twin):
        adapter.down.weight = nn.Parameter(adapter.down.weight.detach().clone())
    twin(IMAGES.double()).square().sum().backward()
    for get in (lambda block: block.attn.qkv, lambda block: block.mlp.fc1):
        copies = [get(block).adapter.down.weight.grad for block in twin.blocks]
        assert min(gradient.abs().max() for gradient in copies) > 0
        shared = get(model.blocks[0]).adapter.down.weight.grad
        torch.testing.assert_close(shared, sum(copies), rtol=1e-10, atol=1e-10)


def test_dropout_is_on_the_hidden_units_in_training():
    model = adapted(dropout=0.5)
    layer = model.blocks[0].attn.qkv
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).double()
    down, up = layer.adapter.factors()
    torch.testing.assert_close(layer.changed(x), x + x @ down.T @ up.T + layer.adapter.bias)
    model.train()
    torch.manual_seed(2)
    hidden = F.dropout(x @ down.T, 0.5)
    torch.manual_seed(2)
    torch.testing.assert_close(layer.changed(x), x + hidden @ up.T + layer.adapter.bias)
    with pytest.raises(ValueError, match=r"use dropout=0 on models that read .weight"):
        layer.weight  # noqa: B018


def test_each_stage_of_swin_has_a_projection_of_its_width_in_each_place():
    options = {"embed_dim": 8, "img_size": 56, "num_heads": (1, 2, 2, 4)}
    model = awake(timm.create_model("swin_tiny_capaboost_arc", bottleneck=4, **options))
    shapes = {id(adapter.down.weight): adapter.down.weight.shape[1] for adapter in adapters(model)}
    assert sorted(shapes.values()) == [8, 8, 16, 16, 32, 32, 64, 64]
    x = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(capaboost_vit.merge(model)(x), model(x), rtol=1e-10, atol=1e-10)


def test_layers_without_a_bias_have_a_map_without_one():
    model = capaboost_vit.adapt(vit(qkv_bias=False), "arc")
    assert [adapter.bias is None for adapter in adapters(model)] == [True, False] * 2


def test_query_key_and_value_of_a_text_encoder_have_one_map():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    model = nlu.adapt(transformers.BertForSequenceClassification(config), "arc", bottleneck=4)
    attention = model.bert.encoder.layer[0].attention.self
    assert attention.query.adapter is attention.key.adapter is attention.value.adapter
    trained = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "adapter" in name)
    assert trained == 2 * 4 * 16 + 2 * 2 * (4 + 16)


@pytest.mark.parametrize(("size", "numbers"), [("tiny", 25_008), ("large", 153_952), ("huge", 213_120)])
def test_other_sizes_train_as_many_numbers_as_the_formula_says(size, numbers):
    with outlines():
        model = timm.create_model(f"vit_{size}_capaboost_arc", num_classes=0)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == numbers


def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"arc stands in front of the whole of 'blocks.0.attn.qkv', and its k is no"):
        capaboost_vit.adapt(vit(), "arc", targets=["query", "value"])
    with pytest.raises(TypeError, match=r"arc needs linear layers, but 'patch_embed.proj' is a Conv2d"):
        capaboost_vit.adapt(vit(), "arc", targets=["patch_embed.proj"])


@pytest.mark.parametrize(("options", "label"), [({}, "arc w50"), ({"num_branches": 2}, "capaboost-arc w50 d2 s1")])
def test_it_is_called_by_its_width_and_masks(options, label):
    method = capaboost_vit.make_method("arc", **options)
    assert method.label(method.record()) == label
