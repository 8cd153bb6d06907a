"""DoRA, NEAT, GraLoRA and MLAE: PEFT's results, ranks, masks; the sizes of all methods that change weights."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F
from twins import assert_the_same_as_peft, update_of
from vits import IMAGES, vit

import capaboost_vit
from capaboost_vit.core.inject import branches
from capaboost_vit.core.meta_models import outlines

SIX = ("query", "key", "value", "attn_out", "mlp_in", "mlp_out")
SIZES = [
    ("dora", {}, 313_344),
    ("vera", {}, 24_576),
    ("ether", {}, 18_432),
    ("ether", {"num_blocks": 4}, 18_432),
    ("ether", {"targets": SIX}, 82_944),
    ("etherplus", {}, 73_728),
    ("etherplus", {"targets": SIX}, 331_776),
    ("etherplus", {"targets": SIX, "two_sided": False}, 165_888),
    ("neat", {}, 258_048),
    ("neat", {"rank": 8}, 294_912),
    ("neat", {"rank": 8, "targets": SIX}, 1_327_104),
    ("neat", {"rank": 8, "hidden_depth": 2}, 294_912 + 24 * 4 * 64),
    ("hra", {}, 147_456),
    ("boft", {}, 92_160),
    ("randlora", {}, 460_800),
    ("randlora", {"rank": 52}, 295_200),
    ("gralora", {}, 294_912),
    ("mlae", {}, 442_656),
    ("intlora", {}, 331_776),
]


@pytest.mark.parametrize(("method", "options", "size"), SIZES, ids=str)
def test_the_size_on_vit_base(method, options, size):
    with outlines():
        model = timm.create_model("vit_base_patch16_224")
        capaboost_vit.adapt(model, method, **options)
    assert sum(p.numel() for update in branches(model).values() for p in update.parameters()) == size


def same(value):
    return value


def dora(update, theirs):
    yield update.factors.down.weight, theirs.lora_A["default"].weight, same
    yield update.factors.up.weight, theirs.lora_B["default"].weight, same
    yield update.magnitude, theirs.lora_magnitude_vector["default"].weight, same


def test_dora_is_peft_s():
    config = ("LoraConfig", {"r": 4, "lora_alpha": 6, "use_dora": True})
    assert_the_same_as_peft(config, dora, "dora", rank=4, alpha=6.0)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_neat_is_peft_s(depth):
    def pairs(update, theirs):
        yield update.factors.down.weight, theirs.peanut_A["default"].weight, same
        yield update.factors.up.weight, theirs.peanut_B["default"].weight, same
        for i in range(depth):
            yield update.encoders, theirs.peanut_encoders["default"][i].weight, lambda value, i=i: value[i]
            yield update.decoders, theirs.peanut_decoders["default"][i].weight, lambda value, i=i: value[i]

    config = ("PeanutConfig", {"r": 4, "depth": depth, "scaling": 0.7})
    assert_the_same_as_peft(config, pairs, "neat", rank=4, hidden_depth=depth, scaling=0.7)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_gralora_is_peft_s(k):
    def pairs(update, theirs):
        yield update.down, theirs.gralora_A["default"], lambda value: value.mT
        yield update.up, theirs.gralora_B["default"], lambda value: value.mT

    config = ("GraloraConfig", {"r": 4, "gralora_k": k, "alpha": 6})
    assert_the_same_as_peft(config, pairs, "gralora", rank=4, gralora_k=k, alpha=6.0)


# DoRA


def test_the_length_of_each_row_is_the_one_that_is_learned_and_the_norm_a_constant():
    ours, update = update_of("dora", 12, 8, rank=4)
    torch.testing.assert_close(ours[0].weight.norm(dim=1), update.magnitude.abs())
    torch.manual_seed(0)
    g = torch.randn(12, 8).double()
    (ours[0].weight * g).sum().backward()
    v = (ours[0].base.weight + update.factors.delta_weight()).detach()
    scale = (update.magnitude / v.norm(dim=1)).detach().unsqueeze(1)
    up, down = update.factors.up.weight.detach(), update.factors.down.weight.detach()
    torch.testing.assert_close(update.factors.up.weight.grad, 8 / 4 * scale * g @ down.T)
    torch.testing.assert_close(update.factors.down.weight.grad, 8 / 4 * up.T @ (scale * g))
    torch.testing.assert_close(update.magnitude.grad, (g * v).sum(1) / v.norm(dim=1))


@torch.no_grad()
def test_a_row_of_zeros_stays_one():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    model[0].weight[1] = 0
    model = capaboost_vit.adapt(model, "dora", targets=["0"], head=[], rank=2)
    assert not model[0].weight[1].any()
    assert torch.equal(model[0].weight, model[0].base.weight)


@pytest.mark.parametrize("method", ["dora", "neat"])
def test_masks_are_those_of_the_low_rank_part(method):
    options = {"rank": 4, "num_branches": 3, "density": 0.5}
    ours, update = update_of(method, 12, 8, **options)
    w = ours[0].base.weight
    views = list(zip(update.factors.up(), update.factors.down(), strict=True))
    assert len(views) == 3
    assert update.factors.down.density == pytest.approx(0.5, abs=0.1)
    if method == "dora":
        direction = w + 8 / 4 * sum(up @ down for up, down in views)
        expected = (update.magnitude / direction.norm(dim=1)).unsqueeze(1) * direction
    else:
        expected = w + sum(up @ F.relu(down @ w) for up, down in views)
    torch.testing.assert_close(ours[0].weight, expected)
    record = ours.capaboost["methods"][0]
    assert capaboost_vit.METHODS[method].label(record) == f"capaboost-{method} r4 d3"
    assert capaboost_vit.make_method(method).masking.num_branches == 1  # as published


# NEAT


@torch.no_grad()
def test_neat_has_no_more_rank_than_its_branches_and_merging_twice_is_merging_once():
    for options, rank in (({}, 3), ({"num_branches": 2, "density": 0.5}, 6)):
        ours, update = update_of("neat", 12, 10, rank=3, hidden_depth=1, **options)
        w = ours[0].base.weight.clone()
        assert torch.linalg.matrix_rank(update.delta(lambda w=w: w), rtol=1e-10) <= rank
        once, twice = capaboost_vit.merge(ours), capaboost_vit.merge(ours)
        assert torch.equal(once[0].weight, twice[0].weight)
        assert torch.equal(ours[0].base.weight, w)


def test_with_masks_each_view_goes_through_the_further_layers_by_itself():
    ours, update = update_of("neat", 12, 8, rank=4, hidden_depth=1, num_branches=2, density=0.5)
    w, expected = ours[0].base.weight, 0.0
    for up, down in zip(update.factors.up(), update.factors.down(), strict=True):
        first = F.relu(down @ w)
        expected = expected + up @ (F.relu(update.decoders[0] @ F.relu(update.encoders[0] @ first)) + first)
    torch.testing.assert_close(update.delta(lambda: w), expected)


# GraLoRA


@torch.no_grad()
def test_each_block_has_its_share_of_the_rank_and_the_whole_k_times_it():
    _, update = update_of("gralora", 12, 16, rank=4, gralora_k=2)
    delta = update.delta(None)
    assert torch.linalg.matrix_rank(delta) == 8
    for rows in delta.chunk(2):
        for block in rows.chunk(2, dim=1):
            assert torch.linalg.matrix_rank(block) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 5}, "rank of method 'gralora' must be a multiple of gralora_k=2, got 5"),
        ({"rank": 6, "gralora_k": 3}, "gralora_k must divide 16 and 16, the widths of 'blocks.0.attn.qkv.q', got 3"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        capaboost_vit.adapt(vit(), "gralora", **options)


# MLAE


def test_mlae_is_a_sum_of_experts_of_rank_one():
    ours, branch = update_of("mlae", 12, 8, rank=3)
    a, b, gain = branch.down.weight, branch.up.weight, branch.gain
    x = torch.randn(5, 8).double()
    expected = ours[0].base(x) + sum(gain[i] * (x @ a[i]).unsqueeze(1) * b[:, i] for i in range(3))
    torch.testing.assert_close(ours(x), expected)
    torch.testing.assert_close(capaboost_vit.merge(ours)(x), expected)
    start = next(iter(branches(capaboost_vit.adapt(vit(), "mlae", alpha=2.5)).values()))
    assert start.gain.eq(2.5).all()
    for rate, name in ((0.0, "mlae r8"), (0.5, "mlae r8 rank dropout 0.5")):
        method = capaboost_vit.make_method("mlae", rank_dropout=rate)
        assert method.label(method.record()) == name


def test_mlae_s_experts_are_left_out_once_a_batch():
    ours, branch = update_of("mlae", 12, 8, rank=3, rank_dropout=0.5)
    x = torch.randn(50, 8).double()
    terms = [branch.gain[i] * (x @ branch.down.weight[i]).unsqueeze(1) * branch.up.weight[:, i] for i in range(3)]
    ours.train()
    for seed in range(5):
        torch.manual_seed(seed)
        change = ours(x) - ours[0].base(x)
        sums = [sum((2 * t for i, t in enumerate(terms) if kept >> i & 1), 0 * x.sum()) for kept in range(8)]
        assert sum(torch.allclose(change, s.expand_as(change)) for s in sums) == 1


def test_mlae_takes_masks_and_its_numbers_are_those_of_all_views():
    ours, branch = update_of("mlae", 12, 8, rank=3, num_branches=2, density=0.5)
    views = zip(branch.up(), branch.down(), strict=True)
    expected = ours[0].base.weight + sum(up @ torch.diag(branch.gain) @ down for up, down in views)
    torch.testing.assert_close(ours[0].weight, expected)


def test_the_numbers_of_experts_do_not_decay():
    from capaboost_vit.training.optim import parameter_groups

    model = capaboost_vit.adapt(vit(), "mlae")
    spared = [g["params"] for g in parameter_groups(model, {}, weight_decay=0.1) if g["weight_decay"] == 0]
    assert {id(branch.gain) for branch in branches(model).values()} <= {id(p) for group in spared for p in group}


@pytest.mark.parametrize("method", ["dora", "neat", "gralora", "mlae", "vera", "randlora", "ether", "hra", "boft"])
@torch.no_grad()
def test_merging_is_exact_also_where_a_model_reads_the_weight(method):
    name = "eva02_tiny_patch14_224"
    model = capaboost_vit.adapt(vit(name, patch_size=8), method)
    for seed, update in enumerate(branches(model).values()):
        for parameter in update.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    model = model.double()
    expected = model(IMAGES.double())
    assert (capaboost_vit.merge(model)(IMAGES.double()) - expected).abs().max() <= 1e-11 * expected.abs().max()
    assert (expected - vit(name, patch_size=8).double()(IMAGES.double())).abs().max() > 1e-2
