"""E^2VPT: tied keys and values against naive references, prompts beside them, their start."""

from __future__ import annotations

import copy
from itertools import chain

import pytest
import torch
from vits import vit as made

import capaboost_vit
from capaboost_vit import METHODS
from capaboost_vit.core.virtual_tokens import VirtualTokens
from capaboost_vit.methods import make_method

X = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def vit(**options):
    return made(**{"img_size": 16, "depth": 2, **options}).double().eval()


def e2vpt(prompt_length=3, prefix_length=2, **options):
    options = {"prompt_length": prompt_length, "prefix_length": prefix_length, **options}
    return capaboost_vit.adapt(vit(), "e2vpt", **options).double().eval()


def parts(model):
    """The prompts and the keys and values, from the first block to the last."""
    found = capaboost_vit.branches(model)
    return [[t for name, t in found.items() if (".attn." in name) == attention] for attention in (False, True)]


def naive(model, x=X):
    """The definition, by head: what is learned stands behind the tokens' own keys, prompts behind the class token."""
    plain = capaboost_vit.detach(copy.deepcopy(model))
    x = plain.norm_pre(plain._pos_embed(plain.patch_embed(x)))
    for block, prompt, prefix in zip(plain.blocks, *parts(model), strict=True):
        learned = prompt.table.weight.expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], learned, x[:, 1:]], 1)
        attention, heads = block.attn, []
        q, k, v = attention.qkv(block.norm1(x)).chunk(3, -1)
        for h in range(attention.num_heads):
            part = slice(h * attention.head_dim, (h + 1) * attention.head_dim)
            both = prefix.table.weight[:, part].expand(len(x), -1, -1)
            scores = q[..., part] @ torch.cat([k[..., part], both], 1).mT / attention.head_dim**0.5
            heads.append(scores.softmax(-1) @ torch.cat([v[..., part], both], 1))
        x = x + attention.proj(torch.cat(heads, -1))
        x = x + block.mlp(block.norm2(x))
        x = torch.cat([x[:, :1], x[:, 1 + learned.shape[1] :]], 1)
    return plain.forward_head(plain.norm(x))


@torch.no_grad()
def test_it_is_its_definition_wherever_what_is_learned_stands():
    model = e2vpt()
    torch.testing.assert_close(model(X), naive(model), rtol=1e-10, atol=1e-12)
    assert (model(X) - vit()(X)).abs().max() > 1e-3


@torch.no_grad()
def test_without_tokens_it_is_the_base_bit_for_bit():
    assert torch.equal(e2vpt(0, 0)(X), vit()(X))


@torch.no_grad()
def test_keys_and_values_alone_are_a_prefix_of_equal_halves():
    model = e2vpt(0, 2)
    twin = capaboost_vit.adapt(vit(), "prefix", prefix_length=2, num_branches=1, density=1).double().eval()
    for tied, apart in zip(parts(model)[1], parts(twin)[1], strict=True):
        apart.table.weight.copy_(torch.cat([tied.table.weight] * 2, 1))
    assert torch.equal(model(X), twin(X))


@torch.no_grad()
def test_prompts_alone_are_the_method_prompt():
    model = e2vpt(3, 0)
    twin = capaboost_vit.adapt(vit(), "prompt", prompt_length=3, num_branches=1, density=1).double().eval()
    for one, other in zip(parts(model)[0], parts(twin)[0], strict=True):
        other.table.weight.copy_(one.table.weight)
    assert torch.equal(model(X), twin(X))


def test_the_gradient_of_the_tied_tensor_is_that_of_keys_plus_that_of_values():
    model, apart = e2vpt(), e2vpt(tied=False)
    with torch.no_grad():
        for one, other in zip(chain(*parts(model)), chain(*parts(apart)), strict=True):
            other.table.weight.copy_(one())
    model(X).square().sum().backward()
    apart(X).square().sum().backward()
    for one, other in zip(parts(model)[1], parts(apart)[1], strict=True):
        keys, values = other.table.weight.grad.chunk(2, -1)
        assert keys.abs().max() > 0 < values.abs().max()
        torch.testing.assert_close(one.table.weight.grad, keys + values, rtol=1e-9, atol=1e-12)


def test_masked_tables_are_summed():
    model = e2vpt(num_branches=3, density=0.5)
    for tokens in chain(*parts(model)):
        own = tokens().chunk(2, -1)[0] if tokens.tied else tokens()
        assert tokens.table.mask.sum(0).unique().numel() > 1
        torch.testing.assert_close(own, (tokens.table.weight * tokens.table.mask).sum(0))


def test_the_start_is_uniform_within_the_bounds_of_the_formula_and_keyed_by_the_seed():
    model = capaboost_vit.adapt(vit(embed_dim=64, num_heads=4), "e2vpt", prompt_length=40, prefix_length=40)
    prompts, prefixes = parts(model)
    bounds = [(6 / (3 * 16 * 16 + 64)) ** 0.5, (6 / (40 * 16)) ** 0.5]
    for tokens, bound in [*((t, bounds[0]) for t in prompts), *((t, bounds[1]) for t in prefixes)]:
        values = tokens.table.weight
        assert 0.99 * bound < values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not torch.equal(prompts[0](), prompts[1]())
    assert torch.equal(parts(e2vpt())[0][0](), parts(e2vpt())[0][0]())
    assert not torch.equal(parts(e2vpt())[0][0](), parts(e2vpt(init_seed=1))[0][0]())


def test_dropout_is_that_of_prompts_for_each_example_in_training():
    model = e2vpt(dropout=0.5)
    prompt, prefix = parts(model)[0][0], parts(model)[1][0]
    assert (prompt.dropout, prefix.dropout) == (0.5, 0)
    assert torch.equal(prompt.for_batch(X[:, 0])[2], prompt())
    prompt.train()
    one, other, _ = dropped = prompt.for_batch(X[:, 0])
    assert not torch.equal(one, other)
    assert torch.equal(dropped[dropped != 0], (2 * prompt()).expand_as(dropped)[dropped != 0])
    assert 0 < (dropped == 0).double().mean() < 1


def test_a_tied_prefix_is_folded_to_the_half():
    tokens = VirtualTokens(3, 8, tied=True, bottleneck=2)
    expected = tokens()
    assert torch.equal(expected[:, :4], expected[:, 4:])
    assert tokens.fold()
    assert tokens.table.weight.shape == (3, 4)
    torch.testing.assert_close(tokens(), expected)


def test_labels_have_both_lengths():
    label = METHODS["e2vpt"].label
    assert label(make_method("e2vpt").record()) == "e2vpt p10 k5"
    assert label(make_method("e2vpt", tied=False, prompt_length=1).record()) == "e2vpt p1 k5 untied"
    assert label(make_method("e2vpt", num_branches=2, density=0.5).record()) == "capaboost-e2vpt p10 k5 d2"


def test_a_model_that_takes_no_prefix_is_refused():
    import timm

    model = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1), embed_dim=8, num_heads=(1, 2), img_size=56)
    with pytest.raises(ValueError, match="no prefix attention is known for SwinTransformer: use lora or adapter"):
        capaboost_vit.adapt(model, "e2vpt")
