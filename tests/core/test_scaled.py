"""Vectors that scale and shift: on rows or on what enters, alone or gated, as a layer of its own weight and bias."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from oracle import low_rank
from torch import nn
from torch.nn import functional as F

from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.gate import Gate
from capaboost_vit.core.inject import branches
from capaboost_vit.core.merge import merge
from capaboost_vit.core.scaled import Scale, Scaled

PARTS = ("q", "k", "v")


def scale(features, seed=0, *, shift=False):
    made = Scale(features, shift=shift).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(seed))
            seed += 100
    return made


def layer(scaled=("k", "v"), *, bias=True, shift=()) -> Scaled:
    base = nn.Linear(5, 12, bias=bias).double()
    return Scaled(base, {part: scale(4, seed, shift=part in shift) for seed, part in enumerate(scaled)}, PARTS)


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
    with pytest.raises(TypeError, match="a Sequential has no weight of its own"):
        _ = made.weight
    model = nn.Sequential(Scaled(made, {"all": scale(8)}))
    with pytest.raises(ValueError, match="cannot merge '0': a Sequential has no weight of its own"):
        merge(model)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Scaled(nn.Linear(5, 12), {"all": Scale(12)}, side="rows"),
            "side must be output or input, got 'rows'",
        ),
        (lambda: Scaled(nn.Linear(5, 12), {"z": Scale(4)}, PARTS), "a scaled part must be q, k or v, got 'z'"),
        (lambda: Scaled(nn.Linear(5, 12), {"all": Scale(12)}, PARTS), "a scaled part must be q, k or v, got 'all'"),
        (lambda: Scaled(nn.Linear(5, 12), {"k": Scale(5)}, PARTS, "input"), "a scaled part must be all, got 'k'"),
        (lambda: Scaled(nn.Linear(5, 12), {"all": Scale(5, shift=True)}, side="input"), "only outputs are shifted"),
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
    low = low_rank(5, 5, 2, path="layer").double()
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
    wrapper = Scaled(layer(), {"all": scale(15)})
    wrapper.scales["all"].gate = Gate(5)
    assert {id(p) for p in wrapper.trained()} == {id(p) for p in wrapper.scales.parameters()}
    assert len(list(wrapper.trained())) == 3


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


# shifts


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shift", [("v",), ("k", "v")])
def test_the_rows_of_a_part_are_shifted_by_its_own_vector(shift, bias):
    made = layer(shift=shift, bias=bias)
    y, plain = made(X), made.base(X)
    for index, part in enumerate(PARTS):
        rows = slice(4 * index, 4 * index + 4)
        expected = plain[..., rows] * made.scales[part].weight if part in made.scales else plain[..., rows]
        torch.testing.assert_close(y[..., rows], expected + made.scales[part].bias if part in shift else expected)


LAYERS = {
    "linear": (lambda: nn.Linear(5, 8), (3, 4, 5)),
    "conv": (lambda: nn.Conv2d(5, 8, 2, stride=2), (3, 5, 6, 4)),
    "conv of sequences": (lambda: nn.Conv1d(5, 8, 3), (3, 5, 6)),
    "layer norm": (lambda: nn.LayerNorm(8), (3, 4, 8)),
    "layer norm of maps": (lambda: timm.layers.LayerNorm2d(8), (3, 8, 8, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 8), (3, 8, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_every_kind_of_layer_is_scaled_along_its_channels_and_merges_exactly(name):
    make, shape = LAYERS[name]
    torch.manual_seed(1)
    base = make().double()
    for parameter in base.parameters():
        parameter.normal_()
    made, x = Scaled(base, {"all": scale(8, shift=True)}), torch.randn(shape, dtype=torch.float64)
    y, own = base(x), made.scales["all"]
    channel = -1 if name in ("linear", "layer norm") else 1
    rows = zip(own.weight, own.bias, y.unbind(channel), strict=True)
    expected = torch.stack([factor * values + shift for factor, shift, values in rows], channel)
    torch.testing.assert_close(made(x), expected, rtol=1e-12, atol=1e-12)
    merged = merge(nn.Sequential(made))
    assert type(merged[0]) is type(base)
    torch.testing.assert_close(merged(x), expected, rtol=1e-12, atol=1e-12)
    assert made(x).stride() == y.stride()
    assert (made.weight.shape, made.bias.shape) == (base.weight.shape, base.bias.shape)


@torch.no_grad()
def test_a_shift_without_a_bias_to_hold_it_is_computed_but_neither_merged_nor_lost():
    made = layer(PARTS, shift=("q",), bias=False)
    torch.testing.assert_close(
        made(X)[..., :4], made.base(X)[..., :4] * made.scales["q"].weight + made.scales["q"].bias
    )
    with pytest.raises(TypeError, match="a Linear without bias is shifted, which its weight alone does not tell"):
        _ = made.weight
    with pytest.raises(ValueError, match="cannot merge '0': there is no bias that could hold the shift"):
        merge(nn.Sequential(made))
    with pytest.raises(ValueError, match="cannot merge '0': a LayerNorm has no weight of its own"):
        merge(nn.Sequential(Scaled(nn.LayerNorm(8, elementwise_affine=False), {"all": Scale(8)})))


@pytest.mark.parametrize("order", ["shifted outside", "lora outside", "twice shifted"])
@torch.no_grad()
def test_merging_of_shifts_is_exact_whatever_stands_around_what(order):
    base = nn.Linear(5, 5).double()
    low = low_rank(5, 5, 2, path="layer").double()
    low.up.weight.normal_(generator=torch.Generator().manual_seed(3))
    inside = scale(5, shift=True)
    if order == "shifted outside":
        made = Scaled(AdaptedLinear(base, {"all": low}), {"all": inside})
    elif order == "lora outside":
        made = AdaptedLinear(Scaled(base, {"all": inside}), {"all": low})
    else:
        made = Scaled(Scaled(base, {"all": inside}), {"all": scale(5, 4, shift=True)})
    torch.testing.assert_close(F.linear(X, made.weight, made.bias), made(X), rtol=1e-12, atol=1e-12)
    merged = merge(nn.Sequential(made))
    torch.testing.assert_close(merged(X), made(X), rtol=1e-12, atol=1e-12)


def test_a_gate_moves_between_nothing_and_scale_and_shift():
    made = scale(5, shift=True)
    made.gate = Gate(5, path="here").double()
    nn.init.normal_(made.gate.weight)
    g = torch.sigmoid(X @ made.gate.weight + made.gate.bias).mean(1)[:, None, None]
    torch.testing.assert_close(made(X, X), X * (1 - g) + g * (X * made.weight + made.bias), rtol=1e-12, atol=1e-12)


def test_gradients_of_both_vectors_are_those_of_the_formula():
    made = Scaled(nn.Linear(5, 8).double().requires_grad_(False), {"all": scale(8, shift=True)})
    weight = torch.randn(3, 4, 8, dtype=torch.float64)
    (made(X) * weight).sum().backward()
    torch.testing.assert_close(made.scales["all"].weight.grad, (weight * made.base(X)).sum((0, 1)))
    torch.testing.assert_close(made.scales["all"].bias.grad, weight.sum((0, 1)))


@pytest.mark.parametrize("parts", [("all",), PARTS])
def test_shifts_under_autocast_keep_the_dtype_of_the_output_and_their_own_precision(parts):
    torch.manual_seed(0)
    base = nn.Linear(63, 63)
    made = Scaled(base, {part: Scale(63 // len(parts), shift=True) for part in parts}, parts)
    with torch.no_grad():
        for part in made.scales.values():
            part.weight.fill_(1.002)
            part.bias.fill_(0.001)
    x = torch.randn(16, 63)
    with torch.autocast("cpu", torch.bfloat16):
        y, plain = made(x), base(x)
    assert torch.equal(y, torch.addcmul(torch.tensor(0.001), plain.float(), torch.tensor(1.002)).bfloat16())
