"""HiWi and PaFi: what is stored, and which entries of a model move."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

import capaboost_vit
from capaboost_vit.core.inject import wrappers
from capaboost_vit.run import train

SHAPE = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 16, "num_classes": 3}
X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def vit():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **SHAPE)
    for name, parameter in model.named_parameters():  # timm's biases start at zero
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def trained(model, steps=3, weight_decay=0.1):
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=weight_decay
    )
    for _ in range(steps):
        optimizer.zero_grad()
        model(X.to(next(model.parameters()).dtype)).square().sum().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_bias_is_the_adapter_s_formula_in_float64(activation):
    model = trained(capaboost_vit.adapt(vit().double(), "hiwi", bottleneck=4, activation=activation))
    for name, wrapper in wrappers(model):
        b = vit().double().get_submodule(name).bias
        a = wrapper.update.branch
        hidden = [max(0.0, v) if activation == "relu" else math.tanh(v) for v in (a.down.weight @ b).tolist()]
        expected = b + a.up.weight @ torch.tensor(hidden, dtype=torch.float64)
        torch.testing.assert_close(wrapper.bias, expected, rtol=1e-12, atol=1e-12)
        assert not torch.equal(wrapper.bias, b)


@pytest.mark.parametrize("bottleneck", [2, 16])
def test_new_biases_alone_are_stored_whatever_the_width(bottleneck, tmp_path):
    model = trained(capaboost_vit.adapt(vit(), "hiwi", bottleneck=bottleneck))
    expected = model(X)
    capaboost_vit.fold(model)
    stored = load_file(capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors"))
    assert sum(t.numel() for name, t in stored.items() if not name.startswith("head.")) == 2 * (64 + 16)
    merged = capaboost_vit.merge(model)
    torch.testing.assert_close(merged(X), expected)
    torch.testing.assert_close(merged.blocks[1].mlp.fc2.bias, stored["blocks.1.mlp.fc2.update.value"])


def test_both_mlp_biases_of_vit_b_are_as_many_as_the_document_says():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
    model = capaboost_vit.adapt(model, "hiwi", bottleneck=None)
    assert sum(p.numel() for _, wrapper in wrappers(model) for p in wrapper.added_parameters()) == 46_080


def test_a_layer_without_a_bias_is_refused():
    model = timm.create_model("vit_tiny_patch16_224", **SHAPE, qkv_bias=False)
    with pytest.raises(
        TypeError, match=r"only linear layers with a bias take an adapter of it, but 'blocks.0.attn.qkv'"
    ):
        capaboost_vit.adapt(model, "hiwi", targets=("query",))


def test_a_run_of_biases_of_zeros_is_refused_before_it_begins(configure, tmp_path, without_pictures):
    with pytest.raises(ValueError, match="all of them are zeros, as in a model that is not trained, where they would"):
        train(configure(model="vit_tiny_patch16_224", method={"name": "hiwi"}, output=str(tmp_path / "run")))


def test_exactly_the_smallest_entries_of_each_weight_move_even_with_weight_decay():
    fraction, base = 0.1, vit()
    model = trained(capaboost_vit.adapt(vit(), "pafi", fraction=fraction), weight_decay=10.0)
    merged = capaboost_vit.merge(model)
    torch.testing.assert_close(merged(X), model(X))
    for name, value in merged.named_parameters():
        before = base.get_parameter(name)
        if name.startswith("head."):
            continue
        if not name.endswith("qkv.weight"):
            assert torch.equal(value, before), name
            continue
        for part, new, old in zip("qkv", value.chunk(3), before.chunk(3), strict=True):
            smallest = sorted(range(old.numel()), key=old.abs().flatten().tolist().__getitem__)[: round(fraction * 256)]
            moved = (new != old).flatten().nonzero().flatten().tolist()
            assert moved == ([] if part == "k" else sorted(smallest)), name


def test_two_tasks_have_the_same_places_and_a_file_keeps_them(tmp_path):
    one = trained(capaboost_vit.adapt(vit(), "pafi"))
    seven = vit()
    seven.reset_classifier(7)
    other = trained(capaboost_vit.adapt(seven, "pafi"), steps=1)
    places = [{name: b for name, b in m.named_buffers() if name.endswith("positions")} for m in (one, other)]
    assert len(places[0]) == 4
    assert all(torch.equal(value, places[1][name]) for name, value in places[0].items())
    path = capaboost_vit.save_adapter(one, tmp_path / "adapter.safetensors")
    stored = load_file(path)
    assert {name: t.dtype for name, t in stored.items() if name.endswith("positions")} == dict.fromkeys(
        places[0], torch.int32
    )
    loaded = capaboost_vit.load_adapter(vit(), path).eval()
    torch.testing.assert_close(loaded(X), one(X), rtol=0, atol=0)


def test_two_hundredths_of_query_and_value_of_vit_b_are_about_lora_s_numbers():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
    model = capaboost_vit.adapt(model, "pafi")
    assert sum(p.numel() for _, wrapper in wrappers(model) for p in wrapper.added_parameters()) == 283_104


def test_a_fraction_of_no_entry_is_refused():
    with pytest.raises(ValueError, match=r"fraction 0.001 of the 256 entries of blocks.0.attn.qkv.q is none"):
        capaboost_vit.adapt(vit(), "pafi", fraction=0.001)
