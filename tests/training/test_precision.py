"""Mixed precision, and numbers that are not finite: none of them reaches a weight."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from toys import Fixed, largest_difference, small, state, train

from capaboost_vit.training.hooks import Averages
from capaboost_vit.training.loop import NotFinite

# numbers that are not finite


def poison(step, value=float("nan")):
    """A prepare that spoils the images of one step, counted from 1."""
    count = 0

    def prepare(batch):
        nonlocal count
        count += 1
        return (batch[0] * value if count == step else batch[0]), batch[1]

    return prepare


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_a_weight(value):
    spoiled, stopped = small(), small()
    with pytest.raises(NotFinite, match=r"the loss is nan in epoch 2, step 1: try a smaller --lr") as caught:
        train(spoiled, hooks={"prepare": poison(4, value)}, sched="none", warmup_epochs=0)
    train(stopped, epochs=1, sched="none", warmup_epochs=0)  # the three steps before it
    assert largest_difference(state(spoiled), state(stopped)) == 0
    assert all(tensor.isfinite().all() for tensor in state(spoiled).values() if tensor.is_floating_point())
    assert caught.value.indices == list(range(8, 16))  # the second epoch begins with the second batch


class _Steep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


class Steep(nn.Module):
    """A finite loss with a gradient that is not, in all calls or in some, counted from 1."""

    def __init__(self, calls=range(100)):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.calls, self.count = calls, 0

    def forward(self, x):
        self.count += 1
        y = self.linear(x)
        return _Steep.apply(y) if self.count in self.calls else y


@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_it_reaches_a_weight(clip_grad):
    model = Steep()
    before = state(model)
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite in epoch 1, step 1"):
        train(model, Fixed(image=(4,)), clip_grad=clip_grad)
    assert largest_difference(before, state(model)) == 0


# a gradient scaler

HALF = {"amp": True, "amp_dtype": "float16"}


def test_an_overflow_in_float16_skips_the_update_and_is_in_no_mean(monkeypatch):
    model, weights, scales, stepped = Steep({2}), [], [], []
    monkeypatch.setattr(Averages, "after_step", lambda _, model, update, updates: stepped.append(update))

    def keep(at):
        weights.append(state(model))
        scales.append(at.scaler.get_scale())

    log = train(model, Fixed(image=(4,)), hooks={"save": keep}, **HALF, epochs=1, checkpoint_interval=1, model_ema=True)
    assert stepped == [0, 2]
    assert log.state.progress.update == 3  # it counts as an update of the schedule
    assert largest_difference(weights[0], weights[1]) == 0
    assert largest_difference(weights[1], weights[2]) > 0
    assert scales[1] == scales[0] / 2
    steps = {int(entry["step"]) for entry in log.state.optimizer.state.values()}
    assert steps == {2}
    (row,) = log.rows
    assert row["train_loss"] == pytest.approx((8 * log.losses[0] + 5 * log.losses[2]) / 13)
    assert row["grad_norm"] == pytest.approx((log.norms[0] + log.norms[2]) / 2)
    assert log.state.progress.overflows == 0


def test_thirty_overflows_in_a_row_are_borne_and_the_next_stops_the_run():
    batches, model = Fixed((2,) * 40, image=(4,)), Steep()
    before = state(model)
    with pytest.raises(NotFinite, match="the gradient is not finite in epoch 1, step 31"):
        train(model, batches, **HALF)
    assert largest_difference(before, state(model)) == 0
    survivor = Steep(range(1, 31))
    assert len(train(survivor, batches, **HALF, epochs=1).losses) == 40


def test_an_epoch_of_overflows_alone_has_no_means():
    log = train(Steep(range(1, 31)), Fixed((2,) * 3, image=(4,)), **{**HALF, "epochs": 2})
    for row in log.rows:
        assert (row["train_loss"], row["train_accuracy"], row["grad_norm"]) == (None, None, None)


class Cornered(nn.Module):
    """Gives class 0 no chance: a loss that is infinite, with a finite gradient."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x) + torch.tensor([-float("inf"), 0.0, 0.0])


@pytest.mark.parametrize("options", [{}, HALF], ids=["float32", "float16"])
def test_an_infinite_loss_with_a_finite_gradient_reaches_no_weight(options):
    model = Cornered()
    before = state(model)
    with pytest.raises(NotFinite, match="the loss is inf"):
        train(model, Fixed((8,) * 40, image=(4,)), **options)
    assert largest_difference(before, state(model)) == 0


# mixed precision


class Watched(nn.Module):
    """Notes the precision that its linear layer computes in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(4, 3)
        self.seen = set()

    def forward(self, x):
        y = self.linear(x)
        self.seen.add(y.dtype)
        return y


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.float32),
        ({"amp": True}, torch.bfloat16),
        ({"amp": True, "amp_dtype": "float16"}, torch.float16),
    ],
    ids=["float32", "bfloat16", "float16"],
)
def test_mixed_precision_computes_low_and_keeps_float32_weights(options, dtype):
    model, exact = Watched(), Watched()
    batches = Fixed(image=(4,))
    log = train(model, batches, batches, **options)
    train(exact, batches)
    assert model.seen == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert largest_difference(state(model), state(exact)) < 0.02
    assert all(math.isfinite(loss) for loss in log.losses)


def test_a_vit_trains_in_bfloat16():
    model = small("adapter")
    log = train(model, amp=True, epochs=8)
    assert log.rows[-1]["train_loss"] < log.rows[0]["train_loss"]


@pytest.mark.gpu
@pytest.mark.parametrize("amp_dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains_on_a_gpu(amp_dtype):
    model = small().cuda()
    hooks = {"prepare": lambda batch: (batch[0].cuda(), batch[1].cuda())}
    log = train(model, hooks=hooks, amp=True, amp_dtype=amp_dtype, epochs=8)
    assert log.rows[-1]["train_loss"] < log.rows[0]["train_loss"]
