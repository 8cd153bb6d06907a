"""Pairs of factors that a group of layers shares, each layer with masks of its own."""

from __future__ import annotations

import pytest
import timm
import torch

import capaboost_vit
from capaboost_vit.core.branch import LowRankBranch
from capaboost_vit.core.inject import branches
from capaboost_vit.core.tied import factors_formed_once

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "img_size": 16, "num_classes": 3}
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LINEAR = ("query", "key", "value", "attn_out", "mlp_in", "mlp_out")


def adapted(**options):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **TINY)
    return capaboost_vit.adapt(model, "lora", **{"num_branches": 1, "pattern": "sign", **options})


def low_rank(model):
    return {name: branch for name, branch in branches(model).items() if isinstance(branch, LowRankBranch)}


def stored(model):
    return sum({id(p): p.numel() for branch in low_rank(model).values() for p in branch.parameters()}.values())


@torch.no_grad()
def trained(model):
    for i, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(i))
    return model.eval()


@pytest.mark.parametrize(("share_blocks", "rank"), [(2, 4), (4, 8)])
def test_a_pair_for_g_blocks_has_g_times_the_rank_at_the_same_number_of_parameters(share_blocks, rank):
    plain, shared = adapted(rank=2, density=1.0, pattern="random"), adapted(rank=rank, share_blocks=share_blocks)
    assert stored(shared) == stored(plain)
    updates = [branch.delta_weight() for branch in low_rank(trained(shared)).values()]
    assert {int(torch.linalg.matrix_rank(update)) for update in updates} == {rank}
    assert all(not torch.equal(a, b) for i, a in enumerate(updates) for b in updates[:i])


def test_which_layers_share_follows_from_role_block_and_shape():
    owners = {name: id(b.down.weight) for name, b in low_rank(adapted(rank=2, share_blocks=2)).items()}
    first = owners["blocks.0.attn.qkv.branches.q"]
    assert [name for name, owner in owners.items() if owner == first] == [
        "blocks.0.attn.qkv.branches.q",
        "blocks.1.attn.qkv.branches.q",
    ]
    by_shape = low_rank(adapted(rank=2, share_blocks=4, share_shapes=True, targets=LINEAR))
    assert len(by_shape) == 24
    assert len({id(branch.down.weight) for branch in by_shape.values()}) == 3  # (16, 16), (64, 16), (16, 64)


def test_masks_of_layers_that_share_a_weight_are_not_mixed_up_where_factors_are_formed_once():
    model = trained(adapted(rank=3, share_blocks=4))
    before = model(X)
    with factors_formed_once():
        assert torch.equal(model(X), before)
        assert torch.equal(model(X), before)


def test_the_gradient_of_a_shared_factor_is_the_sum_over_its_layers():
    model = trained(adapted(rank=3, share_blocks=4)).double()
    alone = trained(adapted(rank=3)).double()
    ours, theirs = low_rank(model), low_rank(alone)
    with torch.no_grad():
        for name, branch in theirs.items():
            branch.down.weight.copy_(ours[name].down.weight)
            branch.up.weight.copy_(ours[name].up.weight)
    alone.head.load_state_dict(model.head.state_dict())
    for one in (model, alone):
        one(X.double()).square().sum().backward()
    for part in "qv":
        total = sum(b.up.weight.grad for name, b in theirs.items() if name.endswith(f".{part}"))
        torch.testing.assert_close(ours[f"blocks.0.attn.qkv.branches.{part}"].up.weight.grad, total)


def test_masks_that_drop_entries_cannot_tell_layers_apart():
    with pytest.raises(ValueError, match="say pattern='sign'"):
        adapted(pattern="random", num_branches=2, share_blocks=2)
