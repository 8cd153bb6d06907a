"""Aurora: CP against Tucker's form and the naive formula, what all matrices share, and a model of images and texts."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch.nn import functional as F
from vits import IMAGES, vit

import capaboost_vit
from capaboost_vit.core.fact_update import FactUpdate
from capaboost_vit.core.inject import branches


def updates(model):
    return [module for module in model.modules() if isinstance(module, FactUpdate)]


@torch.no_grad()
def awake(model):
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(number))
    return model.double().eval()


def adapted(**options):
    return awake(capaboost_vit.adapt(vit(), "aurora", rank=3, **options))


def squares(model):
    """dW_k of all squares (16, 16) of the model, below each other."""
    deltas = [update.delta(lambda: None) for update in updates(model)]
    return torch.cat([square for delta in deltas for rows in delta.split(16) for square in rows.split(16, 1)])


@pytest.mark.parametrize("form", ["cp", "tk"])
def test_step_0_is_the_base_to_the_bit(form):
    assert torch.equal(capaboost_vit.adapt(vit(), "aurora", form=form)(IMAGES), vit()(IMAGES))


@torch.no_grad()
def test_each_square_is_a_sum_of_weighted_products_of_shared_vectors():
    model = adapted()
    first = updates(model)[0]
    u, v, c = first.downs[0].weight, first.ups[0].weight, first.core
    p = torch.cat([update.mixing for update in updates(model)])
    assert p.shape == (2 * 12, 3)
    expected = [sum(c[r] * p[k, r] * torch.outer(v[:, r], u[r]) for r in range(3)) for k in range(len(p))]
    torch.testing.assert_close(squares(model), torch.cat(expected), rtol=1e-12, atol=1e-12)
    shared = {id(tensor) for update in updates(model) for tensor in (*update.parameters(),) if tensor.dim() == 1}
    assert shared == {id(c)}


@torch.no_grad()
@pytest.mark.parametrize("form", ["cp", "tk"])
def test_all_updates_have_one_column_space_and_one_row_space(form):
    model = adapted(form=form)
    stacked = squares(model)
    assert torch.linalg.matrix_rank(stacked) == 3
    assert torch.linalg.matrix_rank(torch.cat(stacked.split(16), 1)) == 3
    assert all(torch.linalg.matrix_rank(square) == 3 for square in stacked.split(16))


@torch.no_grad()
def test_tucker_s_form_with_a_superdiagonal_core_is_cp():
    cp, tucker = adapted(), adapted(form="tk")
    for ours, other in zip(updates(tucker), updates(cp), strict=True):
        ours.downs[0].weight.copy_(other.downs[0].weight)
        ours.ups[0].weight.copy_(other.ups[0].weight)
        ours.mixing.copy_(other.mixing)
        ours.core.zero_()[range(3), range(3), range(3)] = other.core
    torch.testing.assert_close(squares(tucker), squares(cp), rtol=1e-12, atol=1e-12)
    expected = cp(IMAGES.double())
    assert (tucker.eval()(IMAGES.double())).shape == expected.shape
    for block, other in zip(tucker.blocks, cp.blocks, strict=True):
        torch.testing.assert_close(block.attn.qkv.weight, other.attn.qkv.weight, rtol=1e-12, atol=1e-12)


def test_it_is_called_by_its_rank_and_form():
    labels = {"aurora r64 cp": {}, "aurora r32 tk": {"form": "tk", "rank": 32}}
    for label, options in labels.items():
        method = capaboost_vit.make_method("aurora", **options)
        assert method.label(method.record()) == label


def pairs(generator, number=24, kinds=4):
    """Images with one of four patterns under noise, and texts with its word among others."""
    words = torch.arange(number) % kinds
    patterns = torch.randn(kinds, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = patterns[words] + 0.5 * torch.randn(number, 3, 32, 32, generator=generator)
    texts = torch.randint(10, 50, (number, 6), generator=generator)
    texts[:, 0], texts[:, 2], texts[:, -1] = 1, 3 + words, 59  # the largest number is what CLIP takes for the end
    return {"pixel_values": images, "input_ids": texts}, words


def test_it_adapts_both_towers_of_clip_and_they_learn_to_match_pairs():
    pytest.importorskip("transformers")
    model = capaboost_vit.adapt(zoo.build("clip_both"), "aurora", rank=8)
    towers = {path.partition(".")[0] for path in branches(model)}
    assert towers == {"text_model", "vision_model"}
    assert len({id(update.core) for update in updates(model)}) == 1  # the towers are as wide as each other
    assert {name for name, p in model.named_parameters() if p.requires_grad and ".updates." not in name} == set()

    @torch.no_grad()
    def matched():
        inputs, words = pairs(torch.Generator().manual_seed(99))
        return (words[model(**inputs).logits_per_image.argmax(1)] == words).float().mean()

    before = matched()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        inputs, words = pairs(generator)
        logits = model(**inputs).logits_per_image
        same = (words[:, None] == words).float()  # several pairs have one word
        target = same / same.sum(1)
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimizer.step()
    assert before < 0.5
    assert matched() > 0.9
    with torch.no_grad():
        expected = model.double()(**{**inputs, "pixel_values": inputs["pixel_values"].double()}).logits_per_image
        merged = capaboost_vit.merge(model)
        found = merged(**{**inputs, "pixel_values": inputs["pixel_values"].double()}).logits_per_image
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
