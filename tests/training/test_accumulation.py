"""An update that is computed in parts is the update."""

from __future__ import annotations

import pytest
from toys import Fixed, largest_difference, small, state, train


@pytest.mark.parametrize("parts", [2, 3, 5, 8, 100])
@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_parts_of_any_number_give_the_update_of_one_batch(method, parts):
    whole, divided = small(method), small(method)
    first = train(whole, Fixed((8, 7, 1)), opt="sgd")
    second = train(divided, Fixed((8, 7, 1), parts=parts), opt="sgd")
    assert largest_difference(state(whole), state(divided)) <= 1e-6
    assert first.losses == pytest.approx(second.losses, abs=1e-6)
    assert first.norms == pytest.approx(second.norms, abs=1e-6)
    assert first.state.progress.examples == second.state.progress.examples == 4 * 16
    assert first.rows[-1]["train_accuracy"] == second.rows[-1]["train_accuracy"]


@pytest.mark.parametrize("options", [{"smoothing": 0.3}, {"clip_grad": 0.05}, {"amp": True, "amp_dtype": "float16"}])
def test_what_acts_on_loss_and_gradient_acts_on_the_whole_update(options):
    whole, divided = small(), small()
    train(whole, opt="sgd", **options)
    train(divided, Fixed(parts=3), opt="sgd", **options)
    assert largest_difference(state(whole), state(divided)) <= (2e-3 if "amp" in options else 1e-6)
