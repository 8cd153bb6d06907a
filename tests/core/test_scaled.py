"""IA3's vectors: on rows or on what enters, alone or gated; the weight is that of the layer that computes the same."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.gate import Gate
from capaboost_vit.core.inject import branches
from capaboost_vit.core.layers import LowRankBranch
from capaboost_vit.core.merge import merge
from capaboost_vit.core.scaled import Scale, Scaled

PARTS = ("q", "k", "v")


def scale(features, seed=0):
    made = Scale(features).double()
    with torch.no_grad():
        made.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return made


def layer(scaled=("k", "v"), *, bias=True) -> Scaled:
    base = nn.Linear(5, 12, bias=bias).double()
    return Scaled(base, {part: scale(4, seed) for seed, part in enumerate(scaled)}, PARTS)


X = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("scaled", [("k", "v"), ("v", "k"), ("q",), PARTS, ()])
@pytest.mark.parametrize("bias", [True, False])
def test_the_rows_of_each_part_are_multiplied_by_its_own_vector(scaled, bias):
    made = layer(scaled, bias=bias)
    y, plain = made(X), made.base(X)
    for index, part in enumerate(PARTS):
        for row in range(4):
            factor = made.scales[part].weight[row] if part in scaled else 1
            torch.testing.assert_close(y[..., 4 * index + row], factor * plain[..., 4 * index + row])


def test_what_enters_is_multiplied():
    base = nn.Linear(5, 12).double()
    made = Scaled(base, {"all": scale(5)}, side="input")
    torch.testing.assert_close(made(X), base(X * made.scales["all"].weight), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", ["output", "input"])
def test_weight_and_bias_are_those_of_the_layer_that_computes_the_same(side, bias):
    made = layer(bias=bias)
    if side == "input":
        made = Scaled(made.base, {"all": scale(5)}, side="input")
    torch.testing.assert_close(F.linear(X, made.weight, made.bias), made(X), rtol=1e-12, atol=1e-12)
    assert (made.bias is None) is not bias


@pytest.mark.parametrize(
    "make", [lambda: layer(PARTS), lambda: Scaled(nn.Linear(5, 12), {"all": Scale(5)}, side="input")]
)
def test_it_starts_as_the_identity(make):
    made = make()
    for part in made.scales.values():
        nn.init.ones_(part.weight)
    x = X.to(made.base.weight.dtype)
    assert torch.equal(made(x), made.base(x))


def test_a_gate_moves_between_one_and_the_vector():
    made = scale(5)
    made.gate = Gate(5, path="here").double()
    nn.init.normal_(made.gate.weight)
    looked_at = torch.randn(3, 4, 5, dtype=torch.float64)
    g = torch.sigmoid(looked_at @ made.gate.weight + made.gate.bias).mean(1)
    expected = X * (1 - g[:, None, None]) + X * made.weight * g[:, None, None]
    torch.testing.assert_close(made(X, looked_at), expected, rtol=1e-12, atol=1e-12)
    nn.init.ones_(made.weight)
    torch.testing.assert_close(made(X, looked_at), X)


def test_a_module_that_is_no_linear_layer_is_scaled_too_and_has_no_weight():
    base = nn.Sequential(nn.Linear(5, 8), nn.GELU()).double()
    made = Scaled(base, {"all": scale(8)})
    torch.testing.assert_close(made(X), base(X) * made.scales["all"].weight)
    with pytest.raises(TypeError, match="a Sequential has no weight of its own that could be scaled"):
        _ = made.weight
    model = nn.Sequential(Scaled(made, {"all": scale(8)}))
    with pytest.raises(
        ValueError, match="1 places carry an adapter, a prefix, a prompt, or scales of no linear layer: 0"
    ):
        merge(model)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Scaled(nn.Linear(5, 12), {"all": Scale(12)}, side="rows"),
            "side must be 'output' or 'input', got 'rows'",
        ),
        (lambda: Scaled(nn.Linear(5, 12), {"z": Scale(4)}, PARTS), "no part 'z' among q, k, v"),
        (lambda: Scaled(nn.Linear(5, 12), {"all": Scale(12)}, PARTS), "no part 'all' among q, k, v"),
        (lambda: Scaled(nn.Linear(5, 12), {"k": Scale(5)}, PARTS, "input"), "no part 'k' among all"),
    ],
)
def test_wrong_parts_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize("order", ["scaled outside", "lora outside", "twice scaled"])
@torch.no_grad()
def test_merging_is_exact_whatever_stands_around_what(order, side):
    base = nn.Linear(5, 5).double()
    low = LowRankBranch(5, 5, 2, path="layer").double()
    low.up.weight.normal_(generator=torch.Generator().manual_seed(3))
    if order == "scaled outside":
        made = Scaled(AdaptedLinear(base, {"all": low}), {"all": scale(5)}, side=side)
    elif order == "lora outside":
        made = AdaptedLinear(Scaled(base, {"all": scale(5)}, side=side), {"all": low})
    else:
        made = Scaled(Scaled(base, {"all": scale(5)}, side=side), {"all": scale(5, seed=4)})
    model = nn.Sequential(made)
    expected = model(X)
    merged = merge(model)
    assert type(merged[0]) is nn.Linear
    assert (merged(X) - expected).abs().max() <= 1e-12 * expected.abs().max()
    single = merge(model.float())(X.float())
    assert (single - expected).abs().max() <= 1e-6 * expected.abs().max()


@torch.no_grad()
def test_merging_rounds_once():
    base = nn.Linear(64, 64).bfloat16()
    made = Scaled(base, {"all": scale(64).bfloat16()})
    expected = (base.weight.float() * made.scales["all"].weight.float()[:, None]).bfloat16()
    assert torch.equal(merge(nn.Sequential(made))[0].weight, expected)


def test_gradients_reach_the_vectors_alone():
    made = layer()
    made.base.requires_grad_(False)
    made(X).square().sum().backward()
    plain = made.base(X)
    for index, part in ((1, "k"), (2, "v")):
        rows = slice(4 * index, 4 * (index + 1))
        expected = (2 * made.scales[part].weight * plain[..., rows].square()).sum((0, 1))
        torch.testing.assert_close(made.scales[part].weight.grad, expected, rtol=1e-10, atol=1e-10)
    assert made.base.weight.grad is None


def test_a_checkpoint_of_the_base_loads_unchanged_and_copies_are_independent():
    model = nn.Sequential(layer())
    before = model[0].scales["k"].weight.detach().clone()
    base = nn.Linear(5, 12).double()
    model.load_state_dict(nn.Sequential(base).state_dict())
    assert torch.equal(model[0].base.weight, base.weight)
    assert torch.equal(model[0].scales["k"].weight, before)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(X), model(X))
        with torch.no_grad():
            twin[0].scales["k"].weight.add_(1)
        assert not torch.equal(twin(X), model(X))


def test_scales_are_found_by_canonical_name_and_wholly_trained():
    model = nn.Sequential(Scaled(layer(), {"q": scale(4)}, PARTS))
    assert set(branches(model)) == {"0.scales.k", "0.scales.v", "0.scales_2.q"}
    made = scale(5)
    made.gate = Gate(5)
    assert {id(p) for p in made.trained_parameters()} == {id(p) for p in made.parameters()}
    assert len(made.trained_parameters()) == 3


@pytest.mark.parametrize("side", ["output", "input"])
def test_under_autocast_the_output_keeps_its_dtype_and_the_vector_its_precision(side):
    torch.manual_seed(0)
    base = nn.Linear(64, 64)
    made = Scaled(base, {"all": Scale(64)}, side=side)
    with torch.no_grad():
        made.scales["all"].weight.fill_(1.002)  # no bfloat16: the next above one is 1.0078
    x = torch.randn(256, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y, plain = made(x), base(x)
    assert y.dtype == plain.dtype == torch.bfloat16
    if side == "output":
        assert torch.equal(y, (plain.float() * 1.002).bfloat16())  # not by a rounded vector
    else:
        moved = (y.float() / plain.float())[plain.float().abs() > 0.1].mean()
        assert 1.001 < moved < 1.003
