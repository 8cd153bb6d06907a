"""Wrappers around wrappers in one slot: names, shapes, sums, and what is refused."""

from __future__ import annotations

import pytest
import torch
from oracle import low_rank
from torch import nn

from capaboost_vit.core.adapted import Adapted, Wrapper
from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.gate import Gate
from capaboost_vit.core.inject import branches, detach, freeze_base
from capaboost_vit.core.merge import merge
from capaboost_vit.core.names import carries, distinct, get, namer, slots
from capaboost_vit.core.scaled import Scale, Scaled
from capaboost_vit.core.wrapper import unwrap

X = torch.randn(3, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(8))


def low(seed=0, **options):
    made = low_rank(8, 8, 2, path=f"layer.{seed}", **options).double()
    with torch.no_grad():
        made.up.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return made


def lora(base, seed=0):
    return AdaptedLinear(base, {"all": low(seed)})


def adapter(base, seed=0):
    return Adapted(base, low(seed, act="relu", bias=True), "output")


def scaled(base, seed=0):
    made = Scale(8).double()
    with torch.no_grad():
        made.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return Scaled(base, {"all": made})


def plain():
    torch.manual_seed(0)
    return nn.Linear(8, 8).double().requires_grad_(False)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_low_rank_updates_around_each_other_add_up(count):
    base = plain()
    layer = base
    for seed in range(count):
        layer = lora(layer, seed)
    expected = base.weight + sum(low(seed).delta_weight() for seed in range(count))
    torch.testing.assert_close(layer.weight, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(X), nn.functional.linear(X, expected, base.bias), rtol=1e-10, atol=1e-10)
    assert (layer.in_features, layer.out_features) == (8, 8)


@pytest.mark.parametrize("around", [lora, adapter, scaled])
@pytest.mark.parametrize("within", [lora, adapter, scaled])
def test_each_acts_on_what_the_slot_gave_before(within, around):
    base = plain()
    inner = within(base)
    layer = around(inner, 1)
    y = inner(X)
    expected = {
        lora: lambda: y + low(1)(X),
        adapter: lambda: y + low(1, act="relu", bias=True)(y),
        scaled: lambda: y * layer.scales["all"].weight,
    }[around]()
    torch.testing.assert_close(layer(X), expected, rtol=1e-12, atol=1e-12)
    assert unwrap(layer) is base


def test_a_low_rank_update_stands_around_what_has_no_weight():
    """Shapes are those of the layer itself: an adapter or a gate has none, and none is needed."""
    gated = lora(plain())
    gated.branches["all"].gate = Gate(8, path="g").double()
    for inner in (adapter(plain()), gated):
        with pytest.raises(TypeError):
            _ = inner.weight
        layer = lora(inner, 1)
        torch.testing.assert_close(layer(X), inner(X) + low(1)(X), rtol=1e-12, atol=1e-12)
        with pytest.raises(TypeError):
            _ = layer.weight


def stack():
    """lora, scale, lora, adapter, scale, lora: from the inside."""
    layer = plain()
    for seed, around in enumerate((lora, scaled, lora, adapter, scaled, lora)):
        layer = around(layer, seed)
    return nn.ModuleDict({"fc": layer, "other": nn.Linear(8, 8)})


NAMES = ["branches.all", "branches_2.all", "branches_3.all", "scales.all", "scales_2.all", "branch"]


def test_names_are_canonical_and_distinct_and_count_from_the_inside():
    model = stack()
    found = branches(model)
    assert set(found) == {f"fc.{name}" for name in NAMES}
    assert found["fc.branches.all"].path == "layer.0"
    assert found["fc.branches_2.all"].path == "layer.2"
    assert found["fc.branches_3.all"].path == "layer.5"
    canonical = namer(model)
    names = [canonical(name) for name in model.state_dict()]
    assert len(names) == len(set(names))
    assert {"fc.weight", "fc.bias", "other.weight", "other.bias"} <= set(names)
    assert not any(".base" in name for name in names)


def test_slots_know_the_base_s_modules_alone_and_each_finds_its_own():
    model = stack()
    assert [name for name, _ in slots(model)] == ["fc", "other"]
    assert get(model, "fc") is model["fc"]
    assert [carries(model["fc"], kind) for kind in (AdaptedLinear, Scaled, Adapted, Wrapper)] == [True] * 4
    assert not carries(model["other"], Wrapper)
    assert not carries(lora(plain()), Scaled)


def test_freezing_leaves_everything_that_was_added_and_detaching_takes_it_all_off():
    model = stack()
    base = unwrap(model["fc"])
    freeze_base(model)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for addition in branches(model).values() for p in addition.parameters()}
    model["fc"](X).sum().backward()
    assert all(p.grad is not None for addition in branches(model).values() for p in addition.parameters())
    detach(model)
    assert model["fc"] is base


def test_a_state_dict_round_trips_and_a_base_checkpoint_loads_unchanged():
    model, other = stack(), stack()
    with torch.no_grad():
        for addition in branches(model).values():
            for parameter in addition.parameters():
                parameter.add_(0.1)
    assert not torch.equal(other["fc"](X), model["fc"](X))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other["fc"](X), model["fc"](X))
    bare = nn.ModuleDict({"fc": nn.Linear(8, 8).double(), "other": nn.Linear(8, 8)})
    expected = branches(other)["fc.branches_2.all"].up.weight.detach().clone()
    other.load_state_dict(bare.state_dict())
    assert torch.equal(unwrap(other["fc"]).weight, bare["fc"].weight)
    assert torch.equal(branches(other)["fc.branches_2.all"].up.weight, expected)


def test_a_stack_of_updates_and_scales_merges_and_one_adapter_among_them_is_in_the_way():
    layer = plain()
    for seed, around in enumerate((lora, scaled, lora, scaled, lora)):
        layer = around(layer, seed)
    expected = layer(X)
    merged = merge(nn.Sequential(layer))
    assert type(merged[0]) is nn.Linear
    assert (merged(X) - expected).abs().max() <= 1e-12 * expected.abs().max()
    with pytest.raises(ValueError, match="cannot merge 'fc': an adapter is no change of a weight"):
        merge(stack())


def test_tied_tensors_are_named_once_by_their_first_name():
    model = nn.ModuleDict({"first": lora(plain()), "second": nn.Linear(8, 8)})
    model["third"] = model["first"].base
    model["second"].weight = model["first"].base.weight
    names = list(distinct(model))
    assert "first.base.weight" in names
    assert not {"second.weight", "third.weight", "third.bias"} & set(names)
    assert "second.bias" in names
