"""The moving average is its formula, is what is evaluated and kept, and never touches the live weights."""

from __future__ import annotations

import pytest
import torch
from toys import Saves, Scripted, begin, go_on, largest_difference, small, state, train, trained_names

from capaboost_vit.training.hooks import Averages


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9998])
@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_the_kept_model_is_the_average_of_all_updates_by_the_formula(method, decay):
    model, saves = small(method), Saves()
    expected = {name: state(model)[name].double() for name in trained_names(model)}
    train(model, hooks={"save": saves}, model_ema=True, model_ema_decay=decay, checkpoint_interval=1)
    assert sorted(saves.models) == list(range(1, 13))
    for update, weights in sorted(saves.models.items()):
        now = min(decay, (1 + update) / (10 + update))
        expected = {name: now * mean + (1 - now) * weights[name].double() for name, mean in expected.items()}
    found = state(model)
    assert max((found[name] - mean).abs().max().item() for name, mean in expected.items()) <= 1e-6
    if decay:
        assert largest_difference(found, saves.models[12]) > 1e-4


def test_evaluation_sees_the_average_and_leaves_the_live_weights_as_they_were():
    model, plain = small(), small()
    saves, plain_saves = Saves(), Saves()
    val = Scripted(model, [0] * 4)
    log = train(model, None, val, hooks={"save": saves}, model_ema=True, model_ema_decay=0.9, checkpoint_interval=1)
    train(plain, hooks={"save": plain_saves}, checkpoint_interval=1)
    assert saves.calls == plain_saves.calls
    for update, weights in saves.models.items():  # those of a run that nobody averaged or evaluated
        assert largest_difference(weights, plain_saves.models[update]) == 0
    assert largest_difference(val.seen[-1], state(model)) == 0
    assert largest_difference(val.seen[0], saves.models[3]) > 0
    assert set(log.state.averages.values) == trained_names(model)


def test_the_best_model_is_an_average_too():
    model = small()
    val = Scripted(model, [1, 3, 2, 2])
    train(model, None, val, model_ema=True, model_ema_decay=0.9, select="best")
    assert largest_difference(val.seen[1], state(model)) == 0


def test_the_block_gives_the_values_back_bit_for_bit_even_if_it_fails():
    live = {"a": torch.tensor([1.0, -0.0, float("inf")]), "b": torch.randn(3, 2)}
    before = {name: tensor.clone() for name, tensor in live.items()}
    averages = Averages(live, 0.5)
    averages.values["b"].zero_()

    def fail():
        with averages.applied():
            assert live["b"].eq(0).all()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    for name, tensor in live.items():
        assert tensor.numpy().tobytes() == before[name].numpy().tobytes()


def test_the_average_starts_at_the_weights_and_shares_no_memory():
    state_ = begin(small(), model_ema=True)
    live = dict(state_.model.named_parameters())
    for name, value in state_.averages.values.items():
        assert torch.equal(value, live[name])
        assert value.data_ptr() != live[name].data_ptr()
    go_on(state_)
