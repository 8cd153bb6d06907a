"""Prefixes and prompts in transformers' ViTs, against the computation written out."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo

import capaboost_vit
from capaboost_vit import branches
from capaboost_vit.core.names import get

TAKING = {
    "vit": ("vit.layers", "attention"),
    "beit": ("beit.layers", "attention"),
    "dinov2": ("dinov2.encoder.layer", "attention"),
    "clip": ("vision_model.encoder.layers", "self_attn"),
    "siglip": ("vision_model.encoder.layers", "self_attn"),
}


@torch.no_grad()
def awake(name, method, **options):
    model = capaboost_vit.adapt(zoo.build(name), method, **options)
    generator = torch.Generator().manual_seed(2)
    for addition in branches(model).values():
        for parameter in addition.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * wanted.abs().max().item())


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias of positions"])
@pytest.mark.parametrize("name", TAKING)
@torch.no_grad()
def test_a_prefix_is_softmax_over_its_keys_and_the_layers_own(name, bias):
    blocks, attention = TAKING[name]
    layer = get(awake(name, "prefix", prefix_length=3), f"{blocks}.1.{attention}")
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
    mask = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(4)) if bias else None
    base = layer.base
    q, k, v = (p(x).view(2, 5, 2, 16).transpose(1, 2) for p in (base.q_proj, base.k_proj, base.v_proj))
    keys, values = (half.view(3, 2, 16).transpose(0, 1) for half in layer.tokens().chunk(2, dim=-1))
    scores = torch.cat([q @ keys.transpose(-1, -2), q @ k.transpose(-1, -2)], dim=-1) / 16**0.5
    if bias:
        scores[..., 3:] += mask
    weights = scores.softmax(-1)
    y = (weights[..., :3] @ values + weights[..., 3:] @ v).transpose(1, 2).reshape(2, 5, 32)
    close(layer(x, mask)[0], getattr(base, "o_proj", None)(y) if hasattr(base, "o_proj") else base.out_proj(y))


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("name", [name for name in TAKING if name != "beit"])
@torch.no_grad()
def test_a_prompt_goes_through_the_blocks_and_is_in_no_output(name, deep):
    model, base = awake(name, "prompt", prompt_length=3, deep=deep), zoo.build(name)
    blocks = TAKING[name][0]
    plain = base(**zoo.batch(base), output_hidden_states=True)
    x = plain.hidden_states[0]
    expected, prompt = [x], None
    for index, block in enumerate(get(base, blocks)):
        if deep or index == 0:
            prompt = get(model, f"{blocks}.{index}").tokens().expand(2, -1, -1)
        y = block(torch.cat([x, prompt], dim=1), None)
        x, prompt = y[:, :-3], y[:, -3:]
        expected.append(x)
    outputs = model(**zoo.batch(model), output_hidden_states=True)
    for found, wanted in zip(outputs.hidden_states, expected, strict=True):
        close(found, wanted)
    close(outputs.logits, model(**zoo.batch(model)).logits)
    assert (outputs.logits - plain.logits).abs().max() > 1e-3


@pytest.mark.parametrize("name", TAKING)
def test_parts_behind_gates_train_with_dropout_too(name):
    options = dict(prefix_bottleneck=4, rank=2, bottleneck=2, activation="gelu")
    model = capaboost_vit.adapt(zoo.build(name), "unipelt", **options)
    for layer in model.modules():  # which have it as a number
        if hasattr(layer, "q_proj"):
            setattr(layer, "attention_dropout" if hasattr(layer, "attention_dropout") else "dropout", 0.5)
    first, second = (zoo.answer(model.train()) for _ in range(2))
    assert not torch.equal(first, second)
    first.square().sum().backward()
    for branch_name, branch in branches(model).items():
        assert all(p.grad is not None for p in branch.parameters()), branch_name


def test_attention_weights_are_refused_with_a_prefix():
    model = awake("vit", "prefix")
    with pytest.raises(ValueError, match="gives out no attention weights: leave output_attentions out"):
        model(**zoo.batch(model), output_attentions=True)


def test_a_second_prefix_is_refused():
    model = awake("vit", "prefix")
    with pytest.raises(ValueError, match="carries a prefix already"):
        capaboost_vit.adapt(copy.deepcopy(model), "prefix")


def test_a_prompt_refuses_a_mask():
    model = awake("vit", "prompt")
    with pytest.raises(ValueError, match="prompts do not work with an attention mask"):
        model(**zoo.batch(model), attention_mask=torch.tensor([[1] * 17, [1] * 9 + [0] * 8]))
