"""The controls of a study are what they say: masks only, tying only, dropout, more rank; and updates made as large."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import capaboost_vit
from capaboost_vit.core.analysis import ranks
from capaboost_vit.core.inject import branches

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
PLAIN = {"num_branches": 1, "density": 1.0}


def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **SMALL).eval()


def lora(**options):
    return capaboost_vit.adapt(vit(), "lora", **{"rank": 4, "alpha": 4.0, "pattern": "random", **options})


@torch.no_grad()
def awake(model):
    for seed, branch in enumerate(branches(model).values()):
        branch.up.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
    return model


def trained(model, steps=4, lr=0.1):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), torch.arange(8) % 3).backward()
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def count(model):
    return sum(p.numel() for branch in branches(model).values() for p in branch.parameters())


# masks only


@torch.no_grad()
def test_masks_only_is_one_masked_copy_of_plain_rank():
    model = awake(lora(num_branches=1, density=0.5))
    for branch in branches(model).values():
        assert branch.down.mask.shape == (1, 4, 16)
        assert (int(branch.down.mask.sum()), int(branch.up.mask.sum())) == (32, 32)
        expected = (branch.up.weight * branch.up.mask[0]) @ (branch.down.weight * branch.down.mask[0])
        torch.testing.assert_close(branch.delta_weight(), expected)
        assert ranks(branch.delta_weight()).algebraic == 4
    assert count(model) == count(lora(**PLAIN))


# tying only


@torch.no_grad()
def test_tying_only_is_plain_lora_of_doubled_alpha_at_every_step_of_training():
    tied, doubled = lora(num_branches=2, density=1.0), lora(alpha=8.0, **PLAIN)
    assert all(branch.down.mask is None and branch.up.mask is None for branch in branches(tied).values())
    with torch.enable_grad():
        ours, theirs = trained(tied), trained(doubled)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(tied.eval()(IMAGES), doubled.eval()(IMAGES))
    plain = lora(**PLAIN)
    with torch.enable_grad():
        trained(plain)
    assert (tied(IMAGES) - plain.eval()(IMAGES)).abs().max() > 1e-4
    for branch in branches(tied).values():
        assert ranks(branch.delta_weight()).algebraic == 4


# dropout


def test_lora_with_dropout_drops_inputs_of_the_branch_in_training_and_is_plain_lora_in_evaluation():
    model, plain = awake(lora(dropout=0.5, **PLAIN)), awake(lora(**PLAIN))
    assert torch.equal(model(IMAGES), plain(IMAGES))
    torch.manual_seed(0)
    first, second = model.train()(IMAGES), model(IMAGES)
    assert not torch.equal(first, second)
    branch, x = next(iter(branches(model).values())), torch.randn(20, 16)
    mean = torch.stack([branch(x) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, branch.eval()(x), rtol=0, atol=0.1)
    assert count(model) == count(plain)


# more rank


@pytest.mark.parametrize("d", [2, 4])
@torch.no_grad()
def test_plain_lora_of_rank_d_r_has_d_times_the_parameters_and_the_rank_of_capaboost(d):
    capaboost, wide = awake(lora(rank=2, alpha=2.0, num_branches=d)), awake(lora(rank=2 * d, alpha=2.0 * d, **PLAIN))
    assert count(wide) == d * count(capaboost)
    for ours, theirs in zip(branches(capaboost).values(), branches(wide).values(), strict=True):
        assert ranks(ours.delta_weight()).algebraic == ranks(theirs.delta_weight()).algebraic == 2 * d
        assert ours.scaling == theirs.scaling == 1


@torch.no_grad()
def test_a_trained_capaboost_lora_is_a_plain_lora_of_rank_d_r():
    """So what masks and tying take from rank d r is freedom, not the function class of what was found."""
    capaboost, wide = awake(lora()), lora(rank=8, alpha=8.0, **PLAIN)
    for ours, theirs in zip(branches(capaboost).values(), branches(wide).values(), strict=True):
        theirs.down.weight.copy_(ours.factors()[0])
        theirs.up.weight.copy_(ours.factors()[1])
    torch.testing.assert_close(wide(IMAGES), capaboost(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "adapter"])
@pytest.mark.parametrize("masks", [dict(pattern="random"), dict(pattern="complementary"), dict(pattern="sign"), PLAIN])
def test_all_families_of_masks_have_the_same_trained_parameters(method, masks):
    model = capaboost_vit.adapt(vit(), method, **masks)
    other = capaboost_vit.adapt(vit(), method, num_branches=3, density=0.5)
    found, expected = ({n: p.shape for n, p in m.named_parameters() if p.requires_grad} for m in (model, other))
    assert found == expected


# updates made as large as the plain ones


@pytest.mark.parametrize(
    ("rescale", "pattern", "factor"),
    [
        (None, "random", 1),
        ("mean", "random", 2),
        ("norm", "random", 1 / math.sqrt(0.625)),
        ("norm", "sign", 1 / math.sqrt(2)),
        ("norm", "complementary", math.sqrt(2)),
        ("mean", "2:4", 2),
    ],
)
def test_rescaling_is_a_factor_of_the_scaling(rescale, pattern, factor):
    for branch in branches(lora(alpha=6.0, rescale=rescale, pattern=pattern)).values():
        assert branch.scaling == pytest.approx(6 / 4 * factor)
    options = dict(rescale=rescale, pattern=pattern, scale=0.3, bottleneck=4)
    for branch in branches(capaboost_vit.adapt(vit(), "adapter", **options)).values():
        assert branch.scaling == pytest.approx(0.3 * factor)


@pytest.mark.parametrize("rescale", ["mean", "norm"])
def test_rescaling_makes_tying_only_plain_lora(rescale):
    ours, theirs = trained(lora(density=1.0, rescale=rescale)), trained(lora(**PLAIN))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_rescaled_update_is_merged_and_stored_with_its_factor(tmp_path):
    model = awake(lora(rescale="mean"))
    merged = capaboost_vit.merge(model)
    torch.testing.assert_close(merged(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    again = capaboost_vit.load_adapter(vit(), path)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert (again(IMAGES) - awake(lora())(IMAGES)).abs().max() > 1e-4
    with pytest.raises(capaboost_vit.AdapterFileError, match="was made with other options"):
        capaboost_vit.load_adapter(lora(), path)


@pytest.mark.parametrize("method", ["lora", "adapter"])
@torch.no_grad()
def test_a_file_of_a_release_without_an_option_is_one_where_it_is_not_given(tmp_path, method):
    model = awake(capaboost_vit.adapt(vit(), method, pattern="random"))
    (record,) = model.capaboost["methods"]
    new = (
        "rescale",
        "learned_scale",
        "init",
        "drop_path",
        "coefficients",
        "use_rslora",
        "share_blocks",
        "internal_prompt",
    )
    old = {name: value for name, value in record.items() if name not in new}
    model.capaboost = {**model.capaboost, "methods": [old]}
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    for other in (vit(), capaboost_vit.adapt(vit(), method, pattern="random")):
        assert torch.equal(capaboost_vit.load_adapter(other, path)(IMAGES), model(IMAGES))
    with pytest.raises(capaboost_vit.AdapterFileError, match="was made with other options"):
        capaboost_vit.load_adapter(capaboost_vit.adapt(vit(), method, pattern="random", rescale="norm"), path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(rescale="mean", pattern="sign"), "rescale='mean' has nothing to divide by with sign masks"),
        (dict(rescale="max"), "rescale of method 'lora' must be mean or norm, got 'max'"),
    ],
)
def test_a_rescaling_without_meaning_is_refused_and_the_model_stays_as_it_was(options, text):
    model = vit()
    with pytest.raises(ValueError, match=text):
        capaboost_vit.adapt(model, "lora", **options)
    assert list(model.state_dict()) == list(vit().state_dict())
    assert isinstance(model.blocks[0].attn.qkv, nn.Linear)
