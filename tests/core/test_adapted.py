"""Wrappers: base plus branch in one slot, an honest weight, and base checkpoints that load unchanged."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from oracle import low_rank, virtual_tokens
from torch import nn
from torch.nn import functional as F

from capaboost_vit.core.adapted import Adapted, Prompted
from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.branch import LowRankBranch
from capaboost_vit.core.gate import Gate
from capaboost_vit.core.wrapper import Frozen


def filled(in_features=12, out_features=12, *, seed=3, **options) -> LowRankBranch:
    made = low_rank(in_features, out_features, 4, path="layer", **options)
    with torch.no_grad():
        made.up.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return made


def fused(parts=("q", "v")) -> AdaptedLinear:
    return AdaptedLinear(nn.Linear(12, 36), {part: filled(seed=i) for i, part in enumerate(parts)}, ("q", "k", "v"))


@pytest.mark.parametrize("parts", [("q",), ("k",), ("q", "v"), ("v", "q"), ("q", "k", "v")])
def test_fused_layer_adds_each_branch_to_its_own_rows(parts):
    layer = fused(parts)
    x = torch.randn(2, 5, 12)
    y, base = layer(x), layer.base(x)
    for index, part in enumerate(("q", "k", "v")):
        rows = slice(12 * index, 12 * (index + 1))
        expected = base[..., rows] + (layer.branches[part](x) if part in parts else 0)
        torch.testing.assert_close(y[..., rows], expected)


def test_weight_is_the_weight_that_the_layer_acts_with():
    layer = fused()
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), layer(x))
    torch.testing.assert_close(layer.weight - layer.base.weight, layer.delta_weight())
    assert (layer.in_features, layer.out_features) == (12, 36)


@pytest.mark.parametrize("parts", [("k",), ("v", "q"), ("q", "k", "v")])
def test_the_factors_of_a_layer_are_those_of_its_branches_in_their_rows(parts):
    layer = fused(parts)
    down, up = layer.linear_factors()
    assert len(down) == up.shape[1] == sum(len(layer.branches[part].linear_factors()[0]) for part in parts)
    torch.testing.assert_close(up @ down, layer.delta_weight())
    around = AdaptedLinear(nn.Linear(12, 12), {"all": filled()})
    assert Frozen(around).linear_factors() is None
    around.branches["all"].gate = Gate(12)
    assert around.linear_factors() is None


@pytest.mark.parametrize("execution", ["plain", "weight", "token"])
def test_a_gain_is_in_the_weight_and_in_every_execution(execution):
    made = filled(learned_scale="channel")
    nn.init.normal_(made.gain)
    base = nn.Linear(12, 12).requires_grad_(False)
    layer, x = AdaptedLinear(base, {"all": made}, execution=execution), torch.randn(6, 5, 12)
    expected = base(x) + made(x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), expected, rtol=1e-4, atol=1e-5)
    layer(x).square().sum().backward()
    found = made.gain.grad.clone()
    made.gain.grad = None
    (base(x) + made(x)).square().sum().backward()
    torch.testing.assert_close(found, made.gain.grad, rtol=1e-3, atol=1e-3)


def test_gradient_through_the_weight_equals_that_through_the_call():
    called, read = fused(), fused()
    read.load_state_dict(called.state_dict())
    x = torch.randn(2, 5, 12)
    called(x).square().sum().backward()
    F.linear(x, read.weight, read.bias).square().sum().backward()
    for (name, first), second in zip(called.named_parameters(), read.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, msg=name, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AdaptedLinear(nn.Conv2d(3, 4, 1), {}), TypeError, "only linear layers .* Conv2d"),
        (lambda: AdaptedLinear(nn.ReLU(), {}), TypeError, "only linear layers .* ReLU"),
        (
            lambda: AdaptedLinear(nn.Linear(12, 35), {"q": filled()}, ("q", "k", "v")),
            ValueError,
            "35 rows do not split",
        ),
        (lambda: AdaptedLinear(nn.Linear(12, 36), {"z": filled()}, ("q", "k", "v")), ValueError, "q, k or v, got 'z'"),
        (lambda: AdaptedLinear(nn.Linear(12, 12), {"all": filled(12, 6)}), ValueError, "maps 12 to 6"),
        (
            lambda: Adapted(nn.Linear(12, 12), filled(), "beside"),
            ValueError,
            "source must be input, output or residual",
        ),
    ],
)
def test_wrong_parts_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_errors_inside_weight_are_not_swallowed_as_missing_attributes():
    active = AdaptedLinear(nn.Linear(12, 12), {"all": filled(act="relu")})
    with pytest.raises(TypeError, match="activation"):
        _ = active.weight
    dropping = AdaptedLinear(nn.Linear(12, 12), {"all": filled(dropout=0.2)})
    with pytest.raises(ValueError, match="dropout=0"):
        _ = dropping.weight


def test_parallel_adapter_reads_the_input_and_sequential_the_output():
    mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
    adapter = filled(act="relu", bias=True)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(Adapted(mlp, adapter, "input")(x), mlp(x) + adapter(x))
    torch.testing.assert_close(Adapted(mlp, adapter, "output")(x), mlp(x) + adapter(mlp(x)))


def test_adapter_hides_no_weight_silently():
    with pytest.raises(TypeError, match="carries an adapter"):
        _ = Adapted(nn.Linear(12, 12), filled(act="relu")).weight
    assert not hasattr(Adapted(nn.Sequential(nn.Linear(12, 12)), filled(act="relu")), "weight")


def test_prompt_adds_tokens_behind_and_takes_them_off():
    attention = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True).eval()
    tokens = virtual_tokens(3, 12, path="block")
    x = torch.randn(2, 5, 12)
    expected = attention(torch.cat([x, tokens().expand(2, -1, -1)], 1))
    torch.testing.assert_close(Prompted(attention, tokens, 3)(x), expected[:, :5])
    torch.testing.assert_close(Prompted(attention, tokens, 0)(x), expected)
    torch.testing.assert_close(Prompted(attention, virtual_tokens(0, 12), 0)(x), attention(x))
    with pytest.raises(ValueError, match="attention mask"):
        Prompted(attention, tokens, 3)(x, torch.zeros(5, 5))
    with pytest.raises(ValueError, match="causal"):
        Prompted(attention, tokens, 3)(x, is_causal=True)


def test_frozen_batch_norm_does_not_count():
    norm = nn.BatchNorm1d(4)
    frozen = Frozen(norm)
    frozen.train()
    before = copy.deepcopy(norm.state_dict())
    y = frozen(torch.randn(8, 4) + 3)
    assert frozen.training
    assert not norm.training
    assert all(torch.equal(before[k], v) for k, v in norm.state_dict().items())
    torch.testing.assert_close(y.mean(0), torch.full((4,), 3.0), rtol=0.5, atol=0)  # not normalised by its batch


def test_base_checkpoint_loads_unchanged_and_leaves_the_branches():
    base = nn.Sequential(nn.Linear(12, 36), nn.Sequential(nn.Linear(36, 12)))
    model = nn.Sequential(fused(), Adapted(nn.Sequential(nn.Linear(36, 12)), filled(36, 12, act="relu")))
    branches = {k: v.clone() for k, v in model.state_dict().items() if "branch" in k}
    model.load_state_dict(base.state_dict())
    state = model.state_dict()
    assert torch.equal(state["0.base.weight"], base[0].weight)
    assert torch.equal(state["1.base.0.bias"], base[1][0].bias)
    assert all(torch.equal(state[k], v) for k, v in branches.items())


def test_incomplete_checkpoint_of_an_adapted_model_is_refused():
    model = nn.Sequential(fused())
    state = model.state_dict()
    del state["0.branches.q.down.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)
    state = model.state_dict()
    state["0.branches.x.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict(state)


def test_checkpoint_of_an_adapted_model_round_trips():
    first, second = nn.Sequential(fused()), nn.Sequential(fused())
    second[0].branches["q"].up.weight.data.zero_()
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 12)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_wrappers_still_load_base_checkpoints(duplicate):
    twin = duplicate(nn.Sequential(fused()))
    base = nn.Linear(12, 36)
    twin.load_state_dict(nn.Sequential(base).state_dict())
    assert torch.equal(twin[0].base.weight, base.weight)


def test_wrapper_takes_over_the_training_mode_of_its_base():
    assert not AdaptedLinear(nn.Linear(12, 12).eval(), {"all": filled()}).branches["all"].training
    assert AdaptedLinear(nn.Linear(12, 12), {"all": filled()}).branches["all"].training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_output_has_the_dtype_of_the_base(dtype):
    layer = fused().to(dtype)
    assert layer(torch.randn(2, 12, dtype=dtype)).dtype == dtype
    assert layer.weight.dtype == dtype


def test_autocast_runs_the_branch_in_low_precision_and_keeps_master_weights():
    layer = fused()
    x = torch.randn(4, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.1)
    y.float().sum().backward()
    assert layer.branches["q"].down.weight.grad.dtype == torch.float32
