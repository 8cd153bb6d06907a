"""One item ahead: the same items, fetched early, and failures in their turn."""

from __future__ import annotations

import pytest
from toys import Fixed, begin, go_on, largest_difference, small, state, train

from capaboost_vit.training.loader import Prefetcher


def counted(made, *, fail_at=None):
    for i in range(4):
        if i == fail_at:
            raise ValueError("broken")
        made.append(i)
        yield i


@pytest.mark.parametrize("fetches", [0, 1, 3])
def test_items_come_once_and_in_order_however_often_they_are_fetched(fetches):
    ahead, found = Prefetcher(counted([])), []
    for item in ahead:
        found.append(item)
        for _ in range(fetches):
            ahead.fetch()
    assert found == [0, 1, 2, 3]
    with pytest.raises(StopIteration):
        next(ahead)


def test_an_item_is_made_when_it_is_fetched_and_not_before():
    made = []
    ahead = Prefetcher(counted(made))
    assert made == []
    ahead.fetch()
    assert made == [0]
    assert next(ahead) == 0
    assert made == [0]


def test_a_failure_comes_in_its_turn():
    ahead = Prefetcher(counted([], fail_at=1))
    assert next(ahead) == 0
    ahead.fetch()
    ahead.fetch()
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


class Watching(Fixed):
    """Notes how many updates were done when each one was made; one of them fails."""

    def __init__(self, fail_at=None):
        super().__init__((4,) * 5)
        self.fail_at, self.seen, self.state = fail_at, [], None

    def epoch(self, epoch, start=0):
        for update in super().epoch(epoch, start):
            self.seen.append(self.state.progress.update)
            if len(self.seen) == self.fail_at:
                raise ValueError("broken")
            yield update


def test_the_next_update_is_made_while_the_device_computes_the_one_before():
    updates = Watching()
    updates.state = begin(small(), updates, epochs=2)
    go_on(updates.state, updates)
    assert updates.seen == [0, 0, 1, 2, 3, 5, 5, 6, 7, 8]  # the evaluation of an epoch comes between


def test_an_update_that_cannot_be_made_does_not_undo_the_one_before():
    updates, whole = Watching(fail_at=4), small()
    updates.state = begin(small(), updates, sched="none", warmup_epochs=0)
    with pytest.raises(ValueError, match="broken"):
        go_on(updates.state, updates)
    assert updates.state.progress.update == 3
    train(whole, Fixed((4,) * 5), sched="none", warmup_epochs=0, max_steps=3)
    assert largest_difference(state(updates.state.model), state(whole)) == 0
