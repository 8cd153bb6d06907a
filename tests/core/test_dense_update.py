"""A linear layer with a dense update, and the two kinds of updates: formulas, gradients, precision, merging."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from capaboost_vit.core.branch import LowRankBranch
from capaboost_vit.core.dense_update import DenseUpdate, HadamardUpdate
from capaboost_vit.core.kernel_update import KernelUpdate
from capaboost_vit.core.masking import PLAIN, Masking

X = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))


def hadamard(in_features=6, out_features=6, *, masking=PLAIN, seed=0):
    update = HadamardUpdate(LowRankBranch(in_features, out_features, 2, masking, path=f"{seed}"))
    nn.init.normal_(update.factors.up.weight, generator=torch.Generator().manual_seed(seed))
    return update


def kernel(in_features=6, out_features=6, *, seed=0, moved=True, **options):
    update = KernelUpdate(in_features, out_features, 4, path=f"{seed}", **options)
    if moved:
        for points in (update.rows, update.columns):
            nn.init.normal_(points, generator=torch.Generator().manual_seed(seed))
    return update


KINDS = {"hadamard": hadamard, "masked": lambda **o: hadamard(masking=Masking(), **o), "kernel": kernel}
every_kind = pytest.mark.parametrize("kind", KINDS)


def fused(kind, **options):
    torch.manual_seed(0)
    base = nn.Linear(6, 18).requires_grad_(False)
    return DenseUpdate(base, {p: KINDS[kind](seed=i) for i, p in enumerate("qv")}, ("q", "k", "v"), **options).double()


@every_kind
def test_the_rows_of_each_part_have_its_update_and_the_others_none(kind):
    layer, x = fused(kind), X.double()
    expected = layer.base.weight.clone()
    for rows, part in ((slice(0, 6), "q"), (slice(12, 18), "v")):
        expected[rows] += layer.updates[part].delta(lambda rows=rows: layer.base.weight[rows])
    torch.testing.assert_close(layer.weight, expected)
    torch.testing.assert_close(layer(x), F.linear(x, expected, layer.bias))
    for start, stop in ((0, 6), (6, 12), (6, 18), (12, 18)):
        assert layer.splits(start)
        torch.testing.assert_close(layer.outputs(x, start, stop), layer(x)[..., start:stop])
    assert not layer.splits(3)
    layer.base.register_forward_hook(lambda *_: None)  # what looks at the base is called: base(x) + x dW^T
    torch.testing.assert_close(layer(x), F.linear(x, expected, layer.bias))


@every_kind
def test_gradients_are_those_of_finite_differences(kind):
    layer = fused(kind)
    names, parameters = zip(*((n, p) for n, p in layer.named_parameters() if p.requires_grad), strict=True)
    x = X[:1, :2].double().requires_grad_()

    def call(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters))


@every_kind
def test_merging_is_one_rounding_of_the_weight_beside_any_base(kind):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        layer = fused(kind).float()
        layer.base.to(dtype)
        merged = layer.merged(layer.base)
        exact = layer.base.weight.float()
        exact = exact + torch.cat([layer.updates["q"].delta(lambda w=exact: w[:6]), torch.zeros(6, 6),
                                   layer.updates["v"].delta(lambda w=exact: w[12:])])  # fmt: skip
        assert torch.equal(merged.weight, exact.to(dtype))
        assert merged.weight.dtype == dtype
        assert torch.equal(layer.base.weight, fused(kind).float().base.weight.to(dtype))  # the base stays as it is


@torch.no_grad()
@every_kind
def test_beside_a_low_precision_base_an_update_below_its_precision_acts(kind):
    layer = fused(kind).float()
    layer.base.bfloat16()
    layer.base.weight[:, 1] = layer.base.weight[:, 0]
    layer.base.bias.zero_()
    for update in layer.updates.values():
        for p in [update.factors.up.weight] if kind != "kernel" else [*update.parameters(), *update.buffers()]:
            p.mul_(1e-5)
    x = torch.tensor([[1, -1, 0, 0, 0, 0]]).bfloat16()  # W x = 0, and what remains is dW x
    weight = layer.base.weight
    deltas = [layer.updates[part].delta(lambda at=at: weight[at : at + 6]) for part, at in (("q", 0), ("v", 12))]
    expected = torch.cat([deltas[0] @ x[0].float(), torch.zeros(6), deltas[1] @ x[0].float()])
    assert 0 < expected.abs().max() < 1e-4
    torch.testing.assert_close(layer(x)[0], expected.bfloat16(), rtol=1e-2, atol=1e-9)


@every_kind
def test_the_update_is_formed_outside_of_autocast(kind):
    layer = fused(kind).float()
    expected = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, expected)
        y = layer(X)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(X), rtol=0.05, atol=0.1)


def test_dropout_acts_on_the_update_s_input_alone():
    layer = fused("hadamard", dropout=0.5)
    x = X.double()
    torch.testing.assert_close(layer.eval()(x), F.linear(x, layer.weight, layer.bias))
    layer.train()
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    q, v = (F.dropout(x, 0.5) for _ in range(2))
    deltas = layer.eval().weight - layer.base.weight
    expected = layer.base(x) + torch.cat([q @ deltas[:6].T, 0 * q, v @ deltas[12:].T], -1)
    torch.testing.assert_close(y, expected)
    with pytest.raises(ValueError, match=r"draws random numbers in training: use dropout=0 on models that read .weig"):
        _ = layer.train().weight
    torch.testing.assert_close(layer.merged(layer.base)(x), layer.eval()(x))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DenseUpdate(nn.ReLU(), {}), TypeError, "only linear layers .* ReLU"),
        (lambda: DenseUpdate(nn.Linear(6, 8), {}, ("q", "k", "v")), ValueError, "8 rows do not split into the 3 parts"),
        (lambda: DenseUpdate(nn.Linear(6, 18), {"z": kernel()}, ("q", "k", "v")), ValueError, "q, k or v, got 'z'"),
        (lambda: DenseUpdate(nn.Linear(6, 6), {"all": kernel()}, dropout=1.0), ValueError, r"dropout .*got 1.0"),
        (lambda: kernel(sparsity=1.0), ValueError, r"sparsity must lie in \[0, 1\), got 1.0"),
        (lambda: kernel(sparsifier="eq5"), ValueError, "sparsifier must be paper or code, got 'eq5'"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# the kernel


def looped(rows, columns):
    """The kernel entry by entry, in python's floats."""
    halves = [(rows[h].tolist(), columns[h].tolist()) for h in (0, 1)]
    (p, q), (p2, q2) = halves

    def distance(a, b):
        return sum((s - t) ** 2 for s, t in zip(a, b, strict=True)) ** 0.5

    return torch.tensor(
        [[0.1 * distance(p[i], q[j]) - 0.1 * distance(p2[i], q2[j]) for j in range(len(q))] for i in range(len(p))],
        dtype=torch.float64,
    )


def test_the_kernel_is_a_double_loop_over_distances():
    update = kernel(5, 7, subtract_start=False).double()
    torch.testing.assert_close(update.delta(None), looped(update.rows, update.columns), rtol=1e-12, atol=1e-14)
    start = kernel(5, 7, moved=False, subtract_start=False).double()
    expected = looped(update.rows, update.columns) - looped(start.rows, start.columns)
    torch.testing.assert_close(kernel(5, 7).double().delta(None), expected, rtol=1e-12, atol=1e-14)


def test_the_start_is_the_published_one_and_subtracted_to_the_last_bit():
    paper = KernelUpdate(768, 768, 8, subtract_start=False)
    bound = (768 * 4) ** -0.5
    for points in (paper.rows, paper.columns):
        assert points.shape == (2, 768, 4)
        assert 0.99 * bound < points.abs().max() <= bound
    assert paper.delta(None).norm().item() == pytest.approx(0.96, abs=0.02)  # as measured of the official code
    for update in (kernel(moved=False), kernel(moved=False, sparsity=0.5), kernel(moved=False).double()):
        assert not update.delta(None).any()
    assert not torch.equal(KernelUpdate(6, 6, 4, init_seed=1).rows, KernelUpdate(6, 6, 4).rows)
    assert list(kernel().state_dict()) == ["rows", "columns"]  # the start is a function of (init_seed, path)


def test_equal_points_in_equal_halves_make_no_update_and_no_gradient_that_is_not_finite():
    update = kernel(subtract_start=False)
    with torch.no_grad():
        update.rows.copy_(update.rows[:1].clone())
        update.columns.copy_(update.rows)
    assert not update.delta(None).any()
    update.delta(None).square().sum().backward()
    assert update.rows.grad.isfinite().all()


@pytest.mark.parametrize("sparsifier", ["paper", "code"])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.995])
def test_sparsity_is_the_share_of_zeros_and_the_rest_is_its_formula(sparsity, sparsifier):
    options = {"subtract_start": False, "seed": 1}
    whole = kernel(31, 17, **options).double().delta(None).detach()
    update = kernel(31, 17, sparsity=sparsity, sparsifier=sparsifier, **options).double()
    delta = update.delta(None)
    zeros = round(sparsity * 31 * 17)
    assert (delta == 0).sum() == zeros
    threshold = whole.abs().flatten().sort().values[zeros - 1]
    size, kept = whole.abs(), whole.abs() > threshold
    expected = whole * (size - threshold).clamp(min=0) if sparsifier == "paper" else whole * size * kept
    torch.testing.assert_close(delta, expected)
    # through K alone: t, and in the code the factor too, is a constant
    slope = kept * ((2 * size - threshold) if sparsifier == "paper" else size)
    plain = kernel(31, 17, **options).double()
    expected = torch.autograd.grad(plain.delta(None), plain.rows, slope)
    torch.testing.assert_close(torch.autograd.grad(delta.sum(), update.rows), expected)


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5}, {"sparsity": 0.5, "sparsifier": "code"}], ids=str)
def test_the_points_alone_are_kept_and_the_backward_pass_forms_the_update_again(options):
    kept, update = [], kernel(31, 17, **options).double()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        delta = update.delta(None)
    assert sum(kept) == update.rows.numel() + update.columns.numel() < delta.numel() / 2
    first, second = torch.cdist(update.rows, update.columns, compute_mode="donot_use_mm_for_euclid_dist")
    expected = 0.1 * first - 0.1 * second
    if update.zeros:
        size, threshold = expected.abs(), expected.detach().abs().flatten().kthvalue(update.zeros).values
        factor = size.detach() * (size > threshold) if "sparsifier" in options else F.relu(size - threshold)
        expected = expected * factor
    weights = torch.randn(delta.shape, generator=torch.Generator().manual_seed(5)).double()
    points = (update.rows, update.columns)
    gradients = [torch.autograd.grad((dw * weights).sum(), points) for dw in (delta, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@torch.no_grad()
def test_sparsity_has_no_largest_layer():
    """In torch.quantile it is one of 2^24 entries, in older releases."""
    update = KernelUpdate(4097, 4097, 2, sparsity=0.25, subtract_start=False)
    zeros = round(0.25 * 4097 * 4097)
    assert zeros <= (update.delta(None) == 0).sum() < zeros + 100  # float32 has equal neighbours
