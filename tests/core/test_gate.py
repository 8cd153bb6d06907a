"""A gate is the mean of sigmoids over the real positions, and takes part in branches, scales and copies."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from oracle import low_rank
from torch import nn

from capaboost_vit.core.adapted import Adapted
from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.gate import Gate, Padding
from capaboost_vit.core.scaled import Scale


def gate(features=6, *, padding=None, dtype=torch.float64, **options) -> Gate:
    made = Gate(features, padding=padding, path="layer", **options).to(dtype)
    with torch.no_grad():
        made.weight.normal_(generator=torch.Generator().manual_seed(1))
        made.bias.fill_(0.3)
    return made


def by_hand(made, x, real=None):
    """One example and one position after the other."""
    found = []
    for row, example in enumerate(x.flatten(1, -2)):
        kept = [token for i, token in enumerate(example) if real is None or real[row][i]]
        values = [1 / (1 + torch.exp(-(token @ made.weight + made.bias))) for token in kept]
        found.append(sum(values) / len(values))
    return torch.stack(found)


@pytest.mark.parametrize("shape", [(3, 5, 6), (1, 1, 6), (3, 2, 4, 6)])
def test_it_is_the_mean_of_the_sigmoids(shape):
    made, x = gate(), torch.randn(shape, dtype=torch.float64)
    g = made(x)
    assert g.shape == (shape[0], *[1] * (len(shape) - 1))
    torch.testing.assert_close(g.flatten(1), by_hand(made, x), rtol=1e-12, atol=1e-12)


REAL = torch.tensor([[True, True, True, True], [True, True, False, False], [False, True, False, True]])


def test_padding_has_no_part_in_it():
    padding = Padding()
    made, x = gate(padding=padding), torch.randn(3, 4, 6, dtype=torch.float64)
    padding.real = REAL
    torch.testing.assert_close(made(x).flatten(1), by_hand(made, x, REAL), rtol=1e-12, atol=1e-12)
    other = torch.where(REAL[..., None], x, torch.randn_like(x))
    assert torch.equal(made(other), made(x))
    padding.real = None
    torch.testing.assert_close(made(x).flatten(1), by_hand(made, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("front", [1, 3])
def test_positions_that_the_mask_does_not_know_stand_in_front_and_are_real(front):
    padding = Padding()
    made, x = gate(padding=padding), torch.randn(3, 4 + front, 6, dtype=torch.float64)
    padding.real = REAL
    longer = torch.cat([torch.ones(3, front, dtype=torch.bool), REAL], dim=1)
    torch.testing.assert_close(made(x).flatten(1), by_hand(made, x, longer), rtol=1e-12, atol=1e-12)


def test_positions_that_only_the_mask_knows_stand_in_front_too():
    """The keys of a prefix are in the mask, and no tokens."""
    padding = Padding()
    made, x = gate(padding=padding), torch.randn(3, 4, 6, dtype=torch.float64)
    padding.real = torch.cat([torch.ones(3, 2, dtype=torch.bool), REAL], dim=1)
    torch.testing.assert_close(made(x).flatten(1), by_hand(made, x, REAL), rtol=1e-12, atol=1e-12)


def test_an_example_of_nothing_but_padding_has_a_gate_of_zero_and_harms_no_gradient():
    padding = Padding()
    made = gate(padding=padding)
    padding.real = torch.tensor([[True, True], [False, False]])
    g = made(torch.randn(2, 2, 6, dtype=torch.float64))
    assert g[1].item() == 0
    g.sum().backward()
    assert made.weight.grad.isfinite().all()


def test_gradients_are_those_of_the_formula():
    padding = Padding()
    padding.real = REAL
    made = gate(padding=padding)
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        return torch.func.functional_call(made, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, made.weight, made.bias))
    made(x).sum().backward()
    assert not x.grad[~REAL].any()


def test_it_starts_near_a_half_and_depends_on_seed_and_path_alone():
    torch.manual_seed(1)
    first = Gate(400, init_seed=3, path="a")
    torch.manual_seed(2)
    assert torch.equal(Gate(400, init_seed=3, path="a").weight, first.weight)
    assert not torch.equal(Gate(400, init_seed=3, path="b").weight, first.weight)
    assert not torch.equal(Gate(400, init_seed=4, path="a").weight, first.weight)
    assert 0.018 < first.weight.std() < 0.022
    assert first.bias.item() == 0
    assert first(torch.zeros(2, 3, 400)).flatten().tolist() == [0.5, 0.5]
    assert sum(p.numel() for p in first.parameters()) == 401


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_share_a_padding_of_their_own_that_begins_empty(duplicate):
    padding = Padding()
    padding.real = REAL
    model = nn.ModuleList([gate(padding=padding), gate(padding=padding)])
    first, second = duplicate(model)
    assert first.padding is second.padding
    assert first.padding is not padding
    assert first.padding.real is None
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    first.padding.real = REAL[:, :1].expand(3, 4)
    padding.real = None
    torch.testing.assert_close(model[0](x).flatten(1), by_hand(model[0], x))


def test_a_gate_is_in_the_state_and_the_padding_is_not():
    padding = Padding()
    padding.real = REAL
    assert set(gate(padding=padding).state_dict()) == {"weight", "bias"}


# in branches and scales


def filled(**options):
    made = low_rank(6, 6, 2, path="layer", **options).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(2))
    return made


@pytest.mark.parametrize("options", [dict(), dict(act="relu", bias=True)])
def test_a_branch_is_multiplied_by_its_gate(options):
    branch, x = filled(**options), torch.randn(3, 4, 6, dtype=torch.float64)
    plain = branch(x)
    branch.gate = gate()
    torch.testing.assert_close(branch(x), by_hand(branch.gate, x)[..., None] * plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(branch.added_to(x, x), x + branch(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("execution", ["auto", "weight", "token", "plain"])
def test_a_gated_low_rank_update_is_computed_in_token_space_whatever_was_asked(execution):
    branch, base = filled(), nn.Linear(6, 6).double().requires_grad_(False)
    layer = AdaptedLinear(base, {"all": branch}, execution=execution)
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    delta = layer(x) - base(x)
    branch.gate = gate()
    torch.testing.assert_close(layer(x), base(x) + by_hand(branch.gate, x)[..., None] * delta, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), base(x) + branch.gate(x) * delta, rtol=1e-10, atol=1e-10)


def test_each_part_of_a_fused_layer_has_its_own_gate():
    branches = {part: filled() for part in ("q", "v")}
    for seed, branch in enumerate(branches.values()):
        branch.gate = gate()
        branch.gate.bias.data.fill_(seed)
    base = nn.Linear(6, 18).double()
    layer, x = AdaptedLinear(base, branches, ("q", "k", "v")), torch.randn(3, 4, 6, dtype=torch.float64)
    y, plain = layer(x), base(x)
    for index, part in enumerate(("q", "k", "v")):
        rows = slice(6 * index, 6 * (index + 1))
        expected = plain[..., rows] + (branches[part](x) if part in branches else 0)
        torch.testing.assert_close(y[..., rows], expected, rtol=1e-12, atol=1e-12)


def test_a_sequential_adapter_s_gate_looks_at_what_the_adapter_is_fed_with():
    base, branch = nn.Linear(6, 6).double(), filled(act="relu", bias=True)
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    z = base(x)
    plain = branch(z)
    branch.gate = gate()
    expected = z + by_hand(branch.gate, z)[..., None] * plain
    torch.testing.assert_close(Adapted(base, branch, "output")(x), expected, rtol=1e-12, atol=1e-12)


def test_no_weight_expresses_a_gate():
    branch, scale = filled(), Scale(6)
    branch.gate, scale.gate = gate(), gate()
    with pytest.raises(TypeError, match="branch 'layer' has a gate, which depends on the input"):
        branch.delta_weight()
    with pytest.raises(TypeError, match="has a gate, which depends on the input"):
        scale.vector()
    with pytest.raises(TypeError, match="gate"):
        _ = AdaptedLinear(nn.Linear(6, 6).double(), {"all": branch}).weight


def test_under_autocast_a_gate_keeps_the_low_precision_of_what_it_multiplies():
    branch, x = filled(act="relu", bias=True).float(), torch.randn(3, 4, 6)
    branch.gate = gate(dtype=torch.float32)
    expected = branch(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = branch(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)
