"""Masked branches behind learned coefficients: a superset of the plain branch, and equal to it while these are zero."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

import capaboost_vit
from capaboost_vit.core.branch import LowRankBranch
from capaboost_vit.core.masking import PLAIN, Masking
from capaboost_vit.core.masks import make_masks
from capaboost_vit.core.rescaling import rescaling

MASKINGS = {
    "sign": Masking(2, pattern="sign", coefficients="rank"),
    "three signs": Masking(4, pattern="sign", coefficients="branch"),
    "random": Masking(3, 0.5, coefficients="rank"),
    "complementary": Masking(3, pattern="complementary", coefficients="rank"),
    "no masks": Masking(2, 1.0, coefficients="rank"),
}
every_masking = pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
TINY = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 16, "num_classes": 3}


def branch(masking, **options):
    return LowRankBranch(6, 5, 3, masking, path="b", **options).double()


def filled(made):
    """The branch with numbers everywhere, and the coefficients among them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return made


@every_masking
@pytest.mark.parametrize("act", [None, "gelu"])
def test_it_is_the_plain_branch_plus_each_masked_one_times_its_coefficients(masking, act):
    made = filled(branch(masking, act=act, bias=act is not None, scaling=0.7))
    x = torch.randn(4, 6, dtype=torch.double)
    down, up = made.down.weight, made.up.weight
    ones = torch.ones(masking.num_branches, 1, 1)
    masks_down, masks_up = (ones if m.mask is None else m.mask for m in (made.down, made.up))
    c = made.coefficients.view(masking.num_branches - 1, -1)
    y = torch.zeros(4, 5, dtype=torch.double) if made.up_bias is None else made.up_bias.expand(4, -1)
    for i in range(masking.num_branches):
        hidden = x @ (down * masks_down[i]).T + (0 if made.down_bias is None else made.down_bias)
        hidden = hidden if act is None else nn.functional.gelu(hidden)
        y = y + (hidden * (1 if i == 0 else c[i - 1])) @ (up * masks_up[i]).T
    torch.testing.assert_close(made(x), 0.7 * y)


def test_the_first_mask_is_all_ones_and_the_others_are_those_of_one_branch_less():
    masks = make_masks((4, 6), MASKINGS["random"], path="b")
    assert (masks[0] == 1).all()
    assert np.array_equal(masks[1:], make_masks((4, 6), Masking(2, 0.5), path="b"))


def adapted(dtype, **options):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **TINY).to(dtype)
    nn.init.normal_(model.head.weight, std=0.3)
    return capaboost_vit.adapt(model, "lora", rank=4, **options)


def after_updates(model, x, updates=8):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(updates):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("execution", ["plain", "weight", "token"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_coefficients_frozen_at_zero_training_is_that_of_plain_lora_to_the_bit(execution, dtype):
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    plain = after_updates(adapted(dtype, num_branches=1, density=1.0, execution=execution), x)
    frozen = adapted(dtype, pattern="sign", num_branches=3, coefficients="rank", execution=execution)
    for module in frozen.modules():
        if isinstance(module, LowRankBranch):
            module.coefficients.requires_grad_(False)
    after_updates(frozen, x)
    assert torch.equal(frozen(x), plain(x))
    for name, parameter in plain.named_parameters():
        assert torch.equal(frozen.get_parameter(name), parameter), name


def test_coefficients_wait_for_b_and_then_get_a_gradient():
    model, x = adapted(torch.float32, pattern="sign", coefficients="rank"), torch.randn(4, 3, 16, 16)
    coefficients = next(m for m in model.modules() if isinstance(m, LowRankBranch)).coefficients
    after_updates(model, x, 1)
    assert not coefficients.any()
    after_updates(model, x, 2)
    assert coefficients.ne(0).all()


@pytest.mark.parametrize("pattern", ["random", "sign"])
def test_a_branch_of_coefficients_holds_no_less_of_a_target_than_the_plain_one(pattern):
    from capaboost_vit.core.analysis import held_share

    target = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    plain = held_share(LowRankBranch(12, 12, 2, PLAIN, path="p"), target)
    boosted = LowRankBranch(12, 12, 2, Masking(2, pattern=pattern, coefficients="rank"), path="p")
    assert held_share(boosted, target, iterations=40) >= plain - 1e-6


def test_rank_dropout_leaves_out_terms_of_rank_one_in_training_alone():
    made = filled(branch(PLAIN, rank_dropout=0.5)).train()
    x = torch.randn(4, 6, dtype=torch.double)
    torch.manual_seed(5)
    y = made(x)
    torch.manual_seed(5)
    kept = nn.functional.dropout(torch.ones(3, dtype=torch.double), 0.5)
    torch.testing.assert_close(y, (x @ made.down.weight.T * kept) @ made.up.weight.T)
    torch.testing.assert_close(made.eval()(x), x @ made.down.weight.T @ made.up.weight.T)
    with pytest.raises(ValueError, match="random numbers"):
        copy.deepcopy(made).train().delta_weight()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_branches": 1}, "num_branches must be at least 2, got 1"),
        ({"num_branches": 2, "pattern": "complementary"}, "num_branches must be at least 3, got 2"),
        ({"coefficients": "each"}, "coefficients must be rank or branch, got 'each'"),
    ],
)
def test_coefficients_that_have_nothing_to_multiply_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Masking(**{"coefficients": "rank", **options})


def test_there_is_nothing_to_rescale_beside_coefficients():
    with pytest.raises(ValueError, match="nothing to rescale"):
        rescaling("norm", MASKINGS["sign"])
