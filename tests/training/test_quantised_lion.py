"""QFT's optimizer: Lion's steps, unbiased rounding, exact outliers, and what it keeps for each parameter."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import Lion
from torch import nn
from toys import largest_difference, small, state, train

from capaboost_vit.training.quantised_lion import QuantisedLion


def weights(rows=6, columns=200, **options):
    torch.manual_seed(3)
    weight = nn.Parameter(torch.randn(rows, columns, dtype=torch.float64))
    return weight, QuantisedLion([weight], **options)


def moved(optimizer, weight, gradient, steps=1):
    for _ in range(steps):
        weight.grad = gradient.clone()
        optimizer.step()


def test_vectors_take_the_steps_of_lion():
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 9)) for _ in range(2))
    optimizers = [kind([p], lr=0.1, weight_decay=0.2) for kind, p in ((QuantisedLion, ours), (Lion, theirs))]
    for seed in range(5):
        gradient = torch.randn(9, generator=torch.Generator().manual_seed(seed))
        for optimizer, p in zip(optimizers, (ours, theirs), strict=True):
            moved(optimizer, p, gradient)
    torch.testing.assert_close(ours, theirs)


def test_a_step_is_lion_s_but_for_the_rounding():
    weight, optimizer = weights(lr=0.05, weight_decay=0.1)
    start, gradient = weight.detach().clone(), torch.randn(weight.shape).double()
    moved(optimizer, weight, gradient)
    expected = start - 0.05 * (gradient.sign() + 0.1 * start)
    step = optimizer.state[weight]["step_of_weight"]
    assert ((weight - expected).abs() <= step).all()
    codes = weight / step
    dense = codes.abs() < 127.5
    torch.testing.assert_close(codes[dense], codes[dense].round(), rtol=0, atol=1e-9)
    momentum = optimizer.state[weight]["momentum"] * optimizer.state[weight]["step_of_momentum"]
    assert ((momentum - 0.01 * gradient).abs() <= optimizer.state[weight]["step_of_momentum"]).all()


def test_a_step_far_below_half_a_quantum_moves_the_weight_in_the_mean():
    weight, optimizer = weights(columns=20_000, lr=0.0)
    moved(optimizer, weight, torch.ones_like(weight))  # on the grid
    step = optimizer.state[weight]["step_of_weight"]
    dense = (weight.abs() < 100 * step).detach()
    start, optimizer.param_groups[0]["lr"] = weight.detach().clone(), float(step.min()) / 20
    moved(optimizer, weight, torch.ones_like(weight), steps=10)
    mean = (start - weight.detach())[dense].mean()
    assert float(mean) == pytest.approx(10 * optimizer.param_groups[0]["lr"], rel=0.03)
    nearest = ((start - optimizer.param_groups[0]["lr"]) / step).round() * step
    torch.testing.assert_close(nearest[dense], start[dense])  # which would stand still


def test_outliers_are_exact_and_are_few():
    weight, optimizer = weights(columns=1000, lr=0.0)
    start = weight.detach().clone()
    moved(optimizer, weight, torch.ones_like(weight))
    beyond = start.abs() > 127 * optimizer.state[weight]["step_of_weight"]
    assert int(beyond.sum()) == 6 * 10
    assert torch.equal(weight[beyond], start[beyond])
    assert not torch.equal(weight[~beyond], start[~beyond])


def test_rows_of_zeros_and_gradients_of_zero_are_no_trouble():
    weight = nn.Parameter(torch.zeros(3, 4))
    optimizer = QuantisedLion([weight], lr=0.1)
    moved(optimizer, weight, torch.zeros(3, 4))
    assert torch.equal(weight, torch.zeros(3, 4))
    moved(optimizer, weight, torch.ones(3, 4))
    torch.testing.assert_close(weight, torch.full((3, 4), -0.1))


def test_it_keeps_little_more_than_a_byte_for_each_parameter_where_adamw_keeps_eight():
    kept = {}
    for kind in (QuantisedLion, torch.optim.AdamW):
        model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=10)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer = kind(model.parameters(), lr=1e-3)
        optimizer.step()
        tensors = [t for entry in optimizer.state.values() for t in entry.values() if torch.is_tensor(t)]
        kept[kind] = sum(t.nbytes for t in tensors) / sum(p.numel() for p in model.parameters())
    assert kept[torch.optim.AdamW] == pytest.approx(8, abs=0.01)
    assert 1 < kept[QuantisedLion] < 1.1


def test_full_fine_tuning_learns_and_the_same_run_gives_the_same_bits():
    first, second = (small().requires_grad_(True) for _ in range(2))
    losses = [train(model, opt="qlion8", lr=3e-4, epochs=4).losses for model in (first, second)]
    assert losses[0] == losses[1]
    assert largest_difference(state(first), state(second)) == 0
    assert losses[0][-1] < losses[0][0]


def test_values_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"betas and outliers in \[0, 1\), got 0.1, \(0.9, 1.0\), 0.01"):
        weights(lr=0.1, betas=(0.9, 1.0))
    weight = nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    optimizer = QuantisedLion([weight])
    with pytest.raises(
        TypeError, match=r"multiples of a step, which torch.bfloat16 does not hold: say model.float\(\)"
    ):
        moved(optimizer, weight, torch.ones(2, 2, dtype=torch.bfloat16))
    assert weight.eq(1).all()
