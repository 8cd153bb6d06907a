"""A branch equals d masked copies; its rank, identity and scale are those of the formulas."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from oracle import Copies, low_rank
from torch import nn

from capaboost_vit.core.analysis import count_parameters, ranks, spectrum
from capaboost_vit.core.branch import LowRankBranch
from capaboost_vit.core.masking import Masking
from capaboost_vit.core.tied import TiedMaskedWeight

PATTERNS = ["random", "complementary", "sign", "2:4"]


def branch(in_features=24, out_features=16, rank=4, *, filled=True, dtype=torch.float64, **options) -> LowRankBranch:
    made = low_rank(in_features, out_features, rank, path="layer.q", **options).to(dtype)
    if filled:
        generator = torch.Generator().manual_seed(5)
        for name, parameter in made.named_parameters():
            if name != "down.weight":
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return made


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("num_branches", [1, 2, 3])
@pytest.mark.parametrize(("act", "bias"), [(None, False), ("relu", True), ("tanh", True)])
def test_forward_gradients_and_adamw_steps_equal_masked_copies(pattern, num_branches, act, bias):
    ours = branch(num_branches=num_branches, pattern=pattern, act=act, bias=bias, scaling=0.7)
    naive = Copies(ours, lr=0.05, weight_decay=0.1)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.05, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        x = torch.randn(3, 7, 24, generator=generator, dtype=torch.float64)
        target = torch.randn(3, 7, 16, generator=generator, dtype=torch.float64)
        ours_y, naive_y = ours(x), naive(x)
        torch.testing.assert_close(ours_y, naive_y, rtol=0, atol=1e-10)
        (ours_y - target).square().mean().backward()
        (naive_y - target).square().mean().backward()
        for name, gradient in naive.gradients().items():
            torch.testing.assert_close(getattr(ours, name).weight.grad, gradient, rtol=0, atol=1e-10)
        for name, bias_parameter in naive.biases.items():
            torch.testing.assert_close(getattr(ours, name).grad, bias_parameter.grad, rtol=0, atol=1e-10)
        optimizer.step()
        optimizer.zero_grad()
        naive.update()
        for name, shared in naive.shared.items():
            torch.testing.assert_close(getattr(ours, name).weight, shared, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("act", "bias"), [(None, False), ("gelu", True)])
def test_gradcheck_in_double(act, bias):
    made = branch(6, 5, 2, act=act, bias=bias)
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*made.named_parameters(), strict=True)

    def call(x, *values):
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_branch_is_the_zero_map_at_the_start(pattern):
    made = branch(filled=False, num_branches=3, pattern=pattern)
    assert not made.up().any()
    assert all(not made.up()[i].any() for i in range(3))
    assert made.down().any(-1).any(-1).all()  # but no branch's A is zero, so each can learn
    assert not made(torch.randn(4, 24, dtype=torch.float64)).any()


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("num_branches", [1, 2, 4])
def test_rank_of_update_is_branches_times_rank(density, num_branches):
    made = branch(256, 256, 8, num_branches=num_branches, density=density, pattern="random")
    assert ranks(made.delta_weight()).algebraic == num_branches * 8


@pytest.mark.parametrize("pattern", ["complementary", "sign", "2:4"])
def test_structured_masks_raise_the_rank_too(pattern):
    assert ranks(branch(256, 256, 8, pattern=pattern).delta_weight()).algebraic == 16


@pytest.mark.parametrize("num_branches", [1, 2, 4])
def test_rank_stays_r_without_masks(num_branches):
    assert ranks(branch(256, 256, 8, num_branches=num_branches, density=1).delta_weight()).algebraic == 8


def test_complementary_and_sign_masks_raise_the_stable_rank_and_random_ones_hardly():
    stable = {
        pattern: ranks(branch(256, 256, 8, pattern=pattern).delta_weight()).stable
        for pattern in ("random", "complementary", "sign")
    }
    plain = ranks(branch(256, 256, 8, num_branches=1, density=1).delta_weight()).stable
    assert stable["random"] < 1.2 * plain
    assert min(stable["complementary"], stable["sign"]) > 1.4 * plain


@pytest.mark.parametrize("num_branches", [2, 3])
def test_density_one_equals_plain_lora_with_d_times_the_scale(num_branches):
    tied = branch(num_branches=num_branches, density=1, scaling=0.5)
    plain = branch(num_branches=1, density=1, scaling=0.5 * num_branches)
    x = torch.randn(4, 24, dtype=torch.float64)
    torch.testing.assert_close(tied(x), plain(x))
    torch.testing.assert_close(tied.delta_weight(), plain.delta_weight())


def test_delta_weight_is_the_linear_map_of_the_branch():
    made = branch(scaling=1.5)
    x = torch.randn(5, 24, dtype=torch.float64)
    torch.testing.assert_close(x @ made.delta_weight().T, made(x))


def test_delta_weight_is_refused_where_no_weight_is_equal():
    with pytest.raises(TypeError, match="activation or a bias"):
        branch(act="relu").delta_weight()
    dropping = branch(dropout=0.1)
    with pytest.raises(ValueError, match="dropout=0"):
        dropping.train().delta_weight()
    assert dropping.eval().delta_weight().shape == (16, 24)


def test_dropout_acts_on_the_input_in_training_only():
    made = branch(dropout=0.5)
    x = torch.randn(64, 24, dtype=torch.float64)
    assert torch.equal(made.eval()(x), made(x))
    torch.manual_seed(0)
    dropped = made.train()(x)
    torch.manual_seed(0)
    thinned = torch.nn.functional.dropout(x, 0.5)
    assert torch.equal(dropped, made.eval()(thinned))


@pytest.mark.parametrize("bias", [False, True])
def test_each_shared_weight_is_one_parameter(bias):
    made = branch(num_branches=4, bias=bias, act="relu" if bias else None)
    shapes = sorted(tuple(p.shape) for p in made.parameters())
    assert shapes == sorted([(4, 24), (16, 4)] + ([(4,), (16,)] if bias else []))


def test_start_depends_on_seed_and_path_alone():
    torch.manual_seed(1)
    first = branch(filled=False)
    torch.manual_seed(2)
    torch.rand(7)
    state = torch.get_rng_state()
    second = branch(filled=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.down.weight, second.down.weight)
    assert torch.equal(first.down.mask, second.down.mask)
    other = branch(filled=False, init_seed=1)
    assert not torch.equal(first.down.weight, other.down.weight)
    assert torch.equal(first.down.mask, other.down.mask)  # masks have a seed of their own
    bound = 24**-0.5
    assert first.down.weight.abs().max() <= bound
    assert first.down.weight.std() > 0.4 * bound


def test_reset_parameters_restores_the_start():
    made, start = branch(dtype=torch.float32), branch(filled=False, dtype=torch.float32)
    made.reset_parameters()
    for name, parameter in start.named_parameters():
        assert torch.equal(dict(made.named_parameters())[name], parameter), name


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_function_and_tying(duplicate):
    made = branch(num_branches=3)
    twin = duplicate(made)
    x = torch.randn(2, 24, dtype=torch.float64)
    assert torch.equal(made(x), twin(x))
    assert len(list(twin.parameters())) == 2
    with torch.no_grad():
        twin.up.weight.add_(1)
    assert not torch.equal(made(x), twin(x))


def test_state_dict_round_trip_brings_the_masks_along():
    made = branch(mask_seed=0)
    other = branch(mask_seed=1, filled=False)
    assert not torch.equal(made.down.mask, other.down.mask)
    other.load_state_dict(made.state_dict())
    assert torch.equal(made.delta_weight(), other.delta_weight())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_casting_leaves_the_masks_alone(dtype):
    made = branch(dtype=torch.float32).to(dtype)
    assert made.down.mask.dtype == torch.int8
    assert made.down.weight.dtype == dtype
    assert made(torch.randn(2, 24, dtype=dtype)).dtype == dtype


def test_masked_entries_get_no_gradient():
    made = branch(density=0.3)
    made(torch.randn(4, 24, dtype=torch.float64)).sum().backward()
    unseen = made.down.mask.eq(0).all(0)
    assert unseen.any()
    assert not made.down.weight.grad[unseen].any()


def test_live_parameters_are_those_that_some_branch_keeps():
    counts = count_parameters(low_rank(64, 64, 8, num_branches=2, density=0.5))
    assert (counts.trained, counts.stored) == (1024, 1024)
    assert 0.70 * 1024 < counts.live < 0.80 * 1024  # 1 - (1 - 0.5)^2
    assert count_parameters(low_rank(64, 64, 8, pattern="complementary")).live == 1024


def test_ranks_of_known_matrices():
    assert ranks(torch.zeros(3, 4)).algebraic == 0
    eye = ranks(torch.eye(5))
    assert (eye.algebraic, eye.stable, eye.effective) == (5, pytest.approx(5), pytest.approx(5))
    torch.testing.assert_close(spectrum(torch.diag(torch.tensor([3.0, 1.0]))), torch.tensor([3.0, 1.0]).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"act": "swish"}, "act must be relu, gelu, silu or tanh, got 'swish'"),
        ({"dropout": 1.0}, "dropout must lie"),
        ({"drop_path": -0.1}, r"drop_path must lie in \[0, 1\), got -0.1"),
        ({"init": "houlsbi"}, "init must be zero or houlsby, got 'houlsbi'"),
        ({"learned_scale": "row"}, "learned_scale must be scalar, channel, rank or token, got 'row'"),
        ({"pattern": "2:4", "rank": 6}, "divisible by 4"),
    ],
)
def test_bad_options_of_a_branch_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        branch(**options)


# a learned factor, another start, stochastic depth


@pytest.mark.parametrize("num_branches", [1, 2])
@pytest.mark.parametrize(("kind", "size"), [("scalar", 1), ("channel", 16)])
@pytest.mark.parametrize(("act", "bias"), [(None, False), ("gelu", True)])
def test_a_gain_multiplies_everything_that_the_branch_gives(kind, size, act, bias, num_branches):
    options = dict(act=act, bias=bias, num_branches=num_branches, scaling=0.7)
    made, without = branch(learned_scale=kind, **options), branch(**options)
    without.load_state_dict({name: value for name, value in made.state_dict().items() if name != "gain"})
    assert made.gain.shape == (size,)
    x, y = torch.randn(3, 7, 24, dtype=torch.float64), torch.randn(3, 7, 16, dtype=torch.float64)
    expected = made.gain * without(x)
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(made.added_to(y, x), y + expected, rtol=0, atol=1e-12)
    weights = torch.randn(3, 7, 16, dtype=torch.float64)
    (made.added_to(y, x) * weights).sum().backward()
    gradient = (weights * without(x)).sum((0, 1))
    torch.testing.assert_close(made.gain.grad, gradient if size > 1 else gradient.sum(0, keepdim=True))
    (made.gain.detach() * without(x) * weights).sum().backward()
    torch.testing.assert_close(made.up.weight.grad, without.up.weight.grad)
    if act is None:
        torch.testing.assert_close(x @ made.delta_weight().T, expected)


def test_a_gain_starts_from_one_and_is_trained():
    made, plain = branch(filled=False, learned_scale="channel"), branch(filled=False)
    assert torch.equal(made.gain, torch.ones(16, dtype=torch.float64))
    assert torch.equal(made.down.weight, plain.down.weight)
    assert any(p is made.gain for p in made.trained_parameters())
    assert count_parameters(made).trained == count_parameters(plain).trained + 16


def test_the_start_of_houlsby_is_a_normal_distribution_cut_at_two_deviations():
    made = branch(768, 768, 8, filled=False, init="houlsby", act="relu", bias=True)
    for factor in (made.down.weight, made.up.weight):
        assert 0.019 < factor.abs().max() <= 0.02
        assert abs(factor.mean()) < 5e-4
        assert factor.std().item() == pytest.approx(0.01 * 0.8796, rel=0.02)  # sqrt(1 - 4 phi(2) / (2 Phi(2) - 1))
    assert not torch.equal(made.down.weight.T[:768], made.up.weight)
    assert not made.down_bias.any()
    assert not made.up_bias.any()
    x = torch.randn(50, 768, dtype=torch.float64)
    assert 0 < made(x).abs().max() < 0.05  # near the zero map, beside inputs of size one
    other = branch(768, 768, 8, filled=False, init="houlsby", init_seed=1)
    assert not torch.equal(made.up.weight, other.up.weight)


@pytest.mark.parametrize("options", [{}, {"act": "relu", "bias": True, "learned_scale": "channel"}], ids=str)
def test_drop_path_leaves_out_whole_examples_in_training_only(options):
    made, x = branch(drop_path=0.25, **options), torch.randn(400, 3, 24, dtype=torch.float64)
    whole, y = made.eval()(x), torch.randn(400, 3, 16, dtype=torch.float64)
    assert torch.equal(whole, made(x))
    torch.manual_seed(0)
    found = made.train()(x)
    left_out = (found == 0).flatten(1).all(1)
    assert 0.2 < left_out.double().mean() < 0.3
    torch.testing.assert_close(found[~left_out], whole[~left_out] / 0.75)
    torch.manual_seed(0)
    torch.testing.assert_close(made.added_to(y, x), y + found)
    with pytest.raises((ValueError, TypeError)):
        made.delta_weight()


def test_tied_weight_shows_itself():
    assert "num_branches=2, density=0.5" in repr(TiedMaskedWeight((4, 8), Masking(), path="x"))


def test_branch_compiles_in_one_graph():
    made = branch(dtype=torch.float32)
    x = torch.randn(2, 3, 24)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), made(x))


def test_modules_hold_no_tensors_outside_parameters_and_buffers():
    for module in branch(bias=True, act="relu").modules():
        assert not [k for k, v in vars(module).items() if isinstance(v, torch.Tensor | nn.Parameter)]
