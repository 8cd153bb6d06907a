"""Token dispatchers: how often a token is kept, the gate's gradient by hand, a fixed capacity, rates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from capaboost_vit.core.dispatcher import TokenDispatcher, realised_rate


@pytest.mark.parametrize("tau", [0.1, 5.0])
def test_a_token_is_kept_with_probability_sigmoid_g_whatever_tau(tau):
    gate = TokenDispatcher(1, tau=tau).train()
    gate.weight.data.fill_(1.0)
    g = torch.tensor([-2.0, 0.1, 1.0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        share = gate(g.view(1, 3, 1).expand(20_000, 3, 1)).mean(0)
    torch.testing.assert_close(share, g.sigmoid(), rtol=0, atol=0.015)
    assert gate.eval()(g.view(1, 3, 1)).tolist() == [[0, 1, 1]]


def test_the_straight_through_gradient_is_that_of_the_soft_gate():
    torch.manual_seed(0)
    gate = TokenDispatcher(6, always=1, tau=2.0).double().train()
    x, there = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    state = torch.get_rng_state()
    mask = gate(x)
    assert set(mask.flatten().tolist()) == {0.0, 1.0}
    assert bool((mask[:, 0] == 1).all())
    found = torch.autograd.grad((mask * there).sum(), (gate.weight, gate.bias))
    torch.set_rng_state(state)
    u = torch.rand(2, 4, dtype=torch.float64)
    s = (x @ gate.weight + gate.bias + u.log() - (1 - u).log()) / 2.0
    slope = there * s.sigmoid() * (1 - s.sigmoid()) / 2.0
    slope[:, 0] = 0
    torch.testing.assert_close(found[0], torch.einsum("bn,bnd->d", slope, x))
    torch.testing.assert_close(found[1], slope.sum().view(1))


def test_a_fixed_capacity_drops_the_lowest_in_evaluation_alone():
    gate = TokenDispatcher(1, always=1, capacity=0.5).eval()
    gate.weight.data.fill_(1.0)
    x = torch.tensor([[-9.0, 3.0, 1.0, 2.0, 4.0], [0.0, -1.0, -2.0, -3.0, 1.0]]).unsqueeze(-1)
    assert gate(x).tolist() == [[1, 1, 0, 0, 1], [1, 0, 0, 0, 1]]
    assert gate.train().selected(gate.logits(x)).tolist() == [[True] * 5, [True, False, False, False, True]]


def test_rate_of_no_pass_is_not_a_number():
    with realised_rate(nn.Linear(1, 1)) as rate:
        assert math.isnan(float(rate))
