"""Virtual tokens: masked tables and MLPs, layers that share one MLP, and tables that MLPs are folded into."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from oracle import Copies, virtual_tokens
from torch import nn

from capaboost_vit.core.adapted import Prompted
from capaboost_vit.core.gate import Gate
from capaboost_vit.core.inject import branches
from capaboost_vit.core.virtual_tokens import VirtualTokens


def tokens(length=5, width=12, **options) -> VirtualTokens:
    return virtual_tokens(length, width, path="block", **options).double()


def test_virtual_tokens_are_the_masked_sum():
    made = tokens(num_branches=3)
    expected = (made.table.weight * made.table.mask.sum(0)).detach()
    torch.testing.assert_close(made().detach(), expected)


def test_reparameterised_tokens_are_a_masked_map_of_the_table():
    made = tokens(bottleneck=4, num_branches=2)
    assert made.table.mask is None
    naive = Copies(made.mlp, lr=0.1, weight_decay=0)
    torch.testing.assert_close(made(), naive(made.table.weight))
    assert made().detach().abs().max() > 0


@pytest.mark.parametrize("num_branches", [1, 3])
def test_one_branch_at_density_1_is_the_plain_table_and_several_are_multiples_of_it(num_branches):
    made = tokens(num_branches=num_branches, density=1)
    torch.testing.assert_close(made(), num_branches * made.table.weight)
    assert made.table.mask is None


def test_the_mlp_of_one_branch_at_density_1_is_that_of_prefix_tuning():
    made = tokens(bottleneck=4, num_branches=1, density=1)
    with torch.no_grad():
        for bias in (made.mlp.down_bias, made.mlp.up_bias):
            bias.normal_()
    mlp = nn.Sequential(nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 12)).double()
    mlp[0].weight, mlp[0].bias = made.mlp.down.weight, made.mlp.down_bias
    mlp[2].weight, mlp[2].bias = made.mlp.up.weight, made.mlp.up_bias
    torch.testing.assert_close(made(), mlp(made.table.weight))


@pytest.mark.parametrize("options", [{}, dict(bottleneck=4), dict(bottleneck=4, table_width=6)])
def test_no_virtual_tokens_are_allowed_and_fewer_are_not(options):
    assert tokens(0, **options).forward().shape == (0, 12)
    with pytest.raises(ValueError, match="at least 0"):
        tokens(-1, **options)


def test_the_table_of_an_mlp_may_be_narrower():
    made = tokens(bottleneck=4, table_width=6)
    assert tuple(made.table.weight.shape) == (5, 6)
    assert made().shape == (5, 12)
    assert tuple(tokens(table_width=6).table.weight.shape) == (5, 12)  # nothing but the table there


def test_the_start_depends_on_seed_and_path_alone():
    first, second = tokens(bottleneck=4), tokens(bottleneck=4)
    torch.testing.assert_close(first(), second(), rtol=0, atol=0)
    assert not torch.equal(tokens(init_seed=1)(), tokens()())
    assert torch.equal(tokens(init_seed=1).table.mask, tokens().table.mask)
    large = virtual_tokens(64, 64, path="block", num_branches=1, density=1)
    assert 0.018 < large().std() < 0.022


# one MLP for several owners


def shared(count=3, **options):
    made = [
        virtual_tokens(5, 12, bottleneck=4, table_width=6, path=f"layer.{i}", **options).double() for i in range(count)
    ]
    for other in made[1:]:
        other.share(made[0])
    return nn.ModuleList(made)


def test_a_shared_mlp_is_one_table_and_one_first_layer_with_an_output_for_each():
    model = shared()
    count = 5 * 6 + 4 * 6 + 4 + 3 * (12 * 4 + 12)
    assert sum(p.numel() for p in model.parameters()) == count
    assert not torch.equal(model[0](), model[1]())
    before = [made().detach() for made in model]
    with torch.no_grad():
        model[2].table.weight.add_(1)
    assert all(not torch.equal(made(), value) for made, value in zip(model, before, strict=True))


def test_a_shared_mlp_is_one_mlp_with_a_wide_output():
    """As published: Embedding, Linear, tanh, Linear to the keys and values of all layers."""
    model = shared(num_branches=1, density=1)
    ups = torch.cat([made.mlp.up.weight for made in model])
    hidden = torch.tanh(model[0].table.weight @ model[0].mlp.down.weight.T + model[0].mlp.down_bias)
    torch.testing.assert_close(torch.cat([made() for made in model], dim=1), hidden @ ups.T)


def test_gradients_of_what_is_shared_are_summed():
    model = shared(num_branches=2)
    for made in model:
        made().square().sum().backward()
    total = model[0].table.weight.grad.clone()
    parts = []
    for made in model:
        model.zero_grad()
        made().square().sum().backward()
        parts.append(model[0].table.weight.grad.clone())
    torch.testing.assert_close(total, sum(parts))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_state_dicts_keep_what_is_shared(duplicate):
    model = shared()
    twin = duplicate(model)
    assert twin[0].table is twin[2].table
    assert twin[0].mlp.down is twin[2].mlp.down
    assert twin[0].table is not model[0].table
    other = shared(init_seed=5)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(a(), b()) for a, b in zip(other, model, strict=True))


def test_each_owner_is_found_and_nothing_inside_it():
    model = nn.Sequential(*(Prompted(nn.Identity(), made, 0) for made in shared()))
    assert set(branches(model)) == {"0.tokens", "1.tokens", "2.tokens"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dict(), dict()),
        (dict(bottleneck=4), dict()),
        (dict(bottleneck=4), dict(bottleneck=3)),
        (dict(bottleneck=4), dict(bottleneck=4, table_width=6)),
    ],
)
def test_only_alike_mlps_can_be_shared(one, other):
    with pytest.raises(ValueError, match="only virtual tokens with an MLP of the same shape can share"):
        tokens(**one).share(tokens(**other))


# folding


@pytest.mark.parametrize(
    "options", [dict(num_branches=2), dict(num_branches=3, pattern="sign"), dict(num_branches=1, density=1)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_folded_mlp_is_its_values_to_the_last_bit(options, dtype):
    made = tokens(bottleneck=4, **options).to(dtype)
    expected = made().detach()
    made.fold()
    assert torch.equal(made(), expected)
    assert made.mlp is None
    assert made().dtype == dtype
    assert {name: tuple(p.shape) for name, p in made.named_parameters()} == {"table.weight": (5, 12)}
    assert not list(made.buffers())
    assert made.table.weight.requires_grad


def test_folding_one_owner_leaves_the_others():
    model = shared()
    expected = [made().detach() for made in model]
    model[0].fold()
    assert all(torch.equal(made(), value) for made, value in zip(model, expected, strict=True))
    assert model[1].table is model[2].table
    assert model[0].table is not model[1].table


def test_folding_keeps_the_gate_and_leaves_a_masked_table_alone():
    made, table = tokens(num_branches=3, bottleneck=4), tokens(num_branches=3)
    made.gate = Gate(4)
    assert made.fold()
    assert not made.fold()
    assert made.gate is not None
    assert len(list(made.parameters())) == 3
    assert not table.fold()
    assert table.table.mask is not None


def test_no_tokens_can_be_folded():
    made = tokens(0, bottleneck=4)
    made.fold()
    assert made().shape == (0, 12)
