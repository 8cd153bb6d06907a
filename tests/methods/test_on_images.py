"""Methods that came with the text models, on vision transformers: BitFit, shared prefixes, UniPELT without prefixes."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

import capaboost_vit
from capaboost_vit.core.inject import branches

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def vit(**options):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **{**SMALL, **options}).eval()


@torch.no_grad()
def awake(model):
    for seed, addition in enumerate(branches(model).values()):
        generator = torch.Generator().manual_seed(seed)
        for parameter in addition.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def gradients(model):
    model(IMAGES).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# BitFit


def test_bitfit_trains_every_bias_and_the_head(tmp_path):
    model = capaboost_vit.adapt(vit(), "bitfit")
    assert torch.equal(model(IMAGES), vit()(IMAGES))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.endswith(".bias")} | {"head.weight"}
    assert gradients(model).keys() == trained
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    path = capaboost_vit.save_adapter(model, tmp_path / "bitfit.safetensors")
    assert torch.equal(capaboost_vit.load_adapter(vit(), path)(IMAGES), model(IMAGES))


# shared prefixes


@torch.no_grad()
def test_a_shared_prefix_is_one_mlp_with_an_output_for_each_block(tmp_path):
    options = dict(prefix_length=3, bottleneck=4, shared=True, num_branches=1, density=1)
    model = awake(capaboost_vit.adapt(vit(), "prefix", **options))
    first, second = branches(model).values()
    assert first.table is second.table
    hidden = torch.tanh(first.table.weight @ first.mlp.down.weight.T + first.mlp.down_bias)
    apart = capaboost_vit.adapt(vit(), "prefix", prefix_length=3, num_branches=1, density=1)
    for name, tokens in branches(apart).items():
        mlp = branches(model)[name].mlp
        tokens.table.weight.copy_(hidden @ mlp.up.weight.T + mlp.up_bias)
    torch.testing.assert_close(model(IMAGES), apart(IMAGES))
    assert (model(IMAGES) - vit()(IMAGES)).abs().max() > 1e-3
    path = capaboost_vit.save_adapter(model, tmp_path / "prefix.safetensors")
    again = capaboost_vit.load_adapter(vit(), path)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert next(iter(branches(again).values())).table is list(branches(again).values())[1].table


def test_every_parameter_of_a_shared_prefix_learns_and_is_counted_once():
    model = awake(capaboost_vit.adapt(vit(), "prefix", prefix_length=3, bottleneck=4, shared=True))
    added = {id(p): p for b in branches(model).values() for p in b.parameters()}
    assert sum(p.numel() for p in added.values()) == 3 * 16 + (16 + 1) * 4 + 2 * (4 + 1) * 32
    gradients(model)
    assert all(p.grad.abs().sum() > 0 for p in added.values())


# UniPELT


@pytest.mark.parametrize("masks", [{}, dict(num_branches=2, density=0.5)])
@torch.no_grad()
def test_unipelt_with_lora_and_adapter_equals_its_blocks_written_out(masks):
    """`q = W x + g B A x` for q and v; `z = mlp(x)`, `z + g adapter(z)`; each gate is a mean over all tokens."""
    model = awake(
        capaboost_vit.adapt(vit(), "unipelt", parts=["lora", "adapter"], rank=4, bottleneck=6, **masks).double()
    )
    plain, found = vit().double(), branches(model)

    def gated(branch, x):
        g = torch.sigmoid(x @ branch.gate.weight + branch.gate.bias).mean(1)[:, None, None]
        gate, branch.gate = branch.gate, None
        y = g * branch(x)
        branch.gate = gate
        return y

    x = plain.norm_pre(plain._pos_embed(plain.patch_embed(IMAGES.double())))
    for i, block in enumerate(plain.blocks):
        h = block.norm1(x)
        q, k, v = block.attn.qkv(h).chunk(3, -1)
        q = q + gated(found[f"blocks.{i}.attn.qkv.branches.q"], h)
        v = v + gated(found[f"blocks.{i}.attn.qkv.branches.v"], h)
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in (q, k, v))
        heads = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
        x = x + block.attn.proj(heads.transpose(1, 2).flatten(2))
        z = block.mlp(block.norm2(x))
        x = x + z + gated(found[f"blocks.{i}.mlp.branch"], z)
    expected = plain.forward_head(plain.norm(x))
    torch.testing.assert_close(model(IMAGES.double()), expected, rtol=1e-10, atol=1e-10)
    assert (expected - plain(IMAGES.double())).abs().max() > 1e-3


def test_unipelt_starts_as_the_base_and_every_part_of_it_learns(tmp_path):
    model = capaboost_vit.adapt(vit(), "unipelt", parts=["lora", "adapter"], copies=2)
    torch.testing.assert_close(model(IMAGES), vit()(IMAGES))
    gradients(awake(model))
    assert all(p.grad.abs().sum() > 0 for b in branches(model).values() for p in b.parameters())
    path = capaboost_vit.save_adapter(model, tmp_path / "unipelt.safetensors")
    assert torch.equal(capaboost_vit.load_adapter(vit(), path)(IMAGES), model(IMAGES))
    with pytest.raises(ValueError, match="a gate depends on the input"):
        capaboost_vit.merge(model)


def test_unipelt_with_a_prompt_gives_the_prompt_no_gate():
    model = awake(capaboost_vit.adapt(vit(), "unipelt", parts=["lora", "prompt"]))
    assert branches(model)["blocks.0.tokens"].gate is None
    gradients(model)
    assert all(p.grad.abs().sum() > 0 for b in branches(model).values() for p in b.parameters())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "the prefixes of a VisionTransformer take no gates: leave 'prefix' out of parts"),
        (dict(parts=["lora", "ia3"]), "target 'mlp_hidden' matches nothing in VisionTransformer"),
    ],
)
def test_unipelt_with_what_images_have_not_is_refused_and_the_model_stays_as_it_was(options, text):
    model = vit()
    with pytest.raises(ValueError, match=text):
        capaboost_vit.adapt(model, "unipelt", **options)
    assert list(model.state_dict()) == list(vit().state_dict())
    assert not hasattr(model, "capaboost")


def test_gates_of_copies_are_their_own():
    model = awake(capaboost_vit.adapt(vit(), "unipelt", parts=["adapter"]))
    twin = copy.deepcopy(model)
    assert torch.equal(twin(IMAGES), model(IMAGES))
    with torch.no_grad():
        next(iter(branches(twin).values())).gate.bias.add_(3)
    assert not torch.equal(twin(IMAGES), model(IMAGES))
