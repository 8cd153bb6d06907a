"""IA3 on vision transformers: keys and values of a fused qkv, what enters the MLP's second layer; merging is exact."""

from __future__ import annotations

import pytest
import torch
from vits import IMAGES, vit

import capaboost_vit
from capaboost_vit.core.inject import branches
from capaboost_vit.core.merge import merge


@torch.no_grad()
def awake(model):
    for seed, addition in enumerate(branches(model).values()):
        addition.weight.normal_(1, 0.5, generator=torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def test_it_scales_the_rows_of_keys_and_values_and_the_hidden_units():
    model = awake(capaboost_vit.adapt(vit(), "ia3"))
    plain = vit().double()
    found = {name: addition.weight.double() for name, addition in branches(model).items()}
    assert set(found) == {
        f"blocks.{i}.{name}"
        for i in (0, 1)
        for name in ("attn.qkv.scales.k", "attn.qkv.scales.v", "mlp.fc2.scales.all")
    }
    x = plain.norm_pre(plain._pos_embed(plain.patch_embed(IMAGES.double())))
    for i, block in enumerate(plain.blocks):
        h = block.norm1(x)
        q, k, v = block.attn.qkv(h).chunk(3, -1)
        k, v = k * found[f"blocks.{i}.attn.qkv.scales.k"], v * found[f"blocks.{i}.attn.qkv.scales.v"]
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in (q, k, v))
        heads = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
        x = x + block.attn.proj(heads.transpose(1, 2).flatten(2))
        hidden = torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x)))
        x = x + block.mlp.fc2(hidden * found[f"blocks.{i}.mlp.fc2.scales.all"])
    expected = plain.forward_head(plain.norm(x))
    torch.testing.assert_close(model(IMAGES).double(), expected, rtol=1e-4, atol=1e-5)
    assert (expected - plain(IMAGES.double())).abs().max() > 1e-2


@torch.no_grad()
def test_at_step_0_it_is_the_base_to_the_last_bit():
    assert torch.equal(capaboost_vit.adapt(vit(), "ia3")(IMAGES), vit()(IMAGES))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "beit_base_patch16_224"])
@torch.no_grad()
def test_merging_is_exact_also_where_a_model_reads_the_weight(name):
    options = {} if name.startswith("vit") else {"patch_size": 8}
    model = awake(capaboost_vit.adapt(vit(name, **options).double(), "ia3", inputs=["mlp_out"]))
    expected = model(IMAGES.double())
    merged = merge(model)
    assert (merged(IMAGES.double()) - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert list(merged.state_dict()) == list(vit(name, **options).state_dict())
    assert (expected - vit(name, **options).double()(IMAGES.double())).abs().max() > 1e-2


@torch.no_grad()
def test_where_a_model_reads_the_weight_the_bias_that_it_keeps_elsewhere_is_not_scaled():
    model = awake(capaboost_vit.adapt(vit("beit_base_patch16_224"), "ia3", targets=["value"], inputs=[]))
    plain = vit("beit_base_patch16_224")
    for i, block in enumerate(plain.blocks):
        block.attn.qkv.weight[32:] *= branches(model)[f"blocks.{i}.attn.qkv.scales.v"].weight[:, None]
    torch.testing.assert_close(model(IMAGES), plain(IMAGES), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_merging_with_lora_is_exact_in_both_orders():
    for order in (["lora", "ia3"], ["ia3", "lora"]):
        model = vit().double()
        for method in order:
            capaboost_vit.adapt(model, method)
        for seed, addition in enumerate(branches(model).values()):
            weight = getattr(addition, "up", addition).weight
            weight.normal_(generator=torch.Generator().manual_seed(seed))
        expected = model(IMAGES.double())
        assert (merge(model)(IMAGES.double()) - expected).abs().max() <= 1e-12 * expected.abs().max()
        assert (merge(model.float())(IMAGES) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_parameters_are_a_vector_for_each_layer_and_every_one_learns():
    model = capaboost_vit.adapt(vit(), "ia3")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for name, p in trained.items() if not name.startswith("head")) == 2 * (16 + 16 + 64)
    model(IMAGES).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in trained.values())
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_a_file_round_trips(tmp_path):
    model = awake(capaboost_vit.adapt(vit(), "ia3", targets=["value"], inputs=["mlp_out"]))
    path = capaboost_vit.save_adapter(model, tmp_path / "ia3.safetensors")
    again = capaboost_vit.load_adapter(vit(), path)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert again.capaboost["methods"] == model.capaboost["methods"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(targets=["key", "blocks.*.attn.qkv"]), "name 'blocks.0.attn.qkv' both as a whole and by its parts"),
        (dict(targets=["mlp_out"], inputs=["mlp_out"]), "'blocks.0.mlp.fc2' is named by targets and by inputs"),
        (dict(inputs=["key"], targets=[]), "inputs name a part of 'blocks.0.attn.qkv', whose input is that of all"),
        (dict(inputs=["mlp_uot"]), r"target 'mlp_uot' matches nothing .*did you mean 'mlp_out'"),
        (dict(targets=["blocks.*.norm1"]), "cannot tell the width of 'blocks.0.norm1', a LayerNorm"),
    ],
)
def test_wrong_targets_are_refused_and_the_model_stays_as_it_was(options, text):
    model = vit()
    with pytest.raises((ValueError, TypeError), match=text):
        capaboost_vit.adapt(model, "ia3", **options)
    assert list(model.state_dict()) == list(vit().state_dict())
    assert not hasattr(model, "capaboost")


def test_a_layer_is_scaled_once_also_where_lora_stands_around():
    model = capaboost_vit.adapt(vit(), "ia3")
    for method in (None, "lora"):
        if method:
            capaboost_vit.adapt(model, method)
        with pytest.raises(ValueError, match=r"'blocks.0.attn.qkv' carries a scale already"):
            capaboost_vit.adapt(model, "ia3")
    with pytest.raises(ValueError, match=r"'blocks.0.attn.qkv' carries a low-rank branch already"):
        capaboost_vit.adapt(capaboost_vit.adapt(capaboost_vit.adapt(vit(), "lora"), "ia3"), "lora")


def test_single_targets_may_be_plain_words():
    model = capaboost_vit.adapt(vit(), "ia3", targets="value", inputs=[])
    assert set(branches(model)) == {f"blocks.{i}.attn.qkv.scales.v" for i in (0, 1)}
