"""An epoch has every example once; examples of like length come together; shares are a partition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from capaboost_vit.training.loader import epoch_order, share_of

LENGTHS = np.random.default_rng(0).integers(1, 200, 5000)


def order(count=1000, *, batch_size=8, seed=3, epoch=2, lengths=None):
    return epoch_order(count, batch_size=batch_size, seed=seed, epoch=epoch, lengths=lengths)


def flat(updates):
    return np.concatenate(updates).tolist() if updates else []


def test_without_lengths_it_is_numpys_permutation_cut_into_updates():
    expected = np.random.default_rng([3, 2]).permutation(21).tolist()
    assert [update.tolist() for update in order(21)] == [expected[:8], expected[8:16], expected[16:]]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["plain", "grouped"])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 399, 400, 401, 1203])
def test_every_example_comes_once_and_only_the_last_update_is_smaller(count, lengths):
    updates = order(count, lengths=lengths)
    assert sorted(flat(updates)) == list(range(count))
    assert [len(update) for update in updates] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["plain", "grouped"])
def test_the_order_depends_on_seed_and_epoch_only(lengths):
    first = flat(order(lengths=lengths))
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert flat(order(lengths=lengths)) == first
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert flat(order(lengths=lengths, seed=4)) != first != flat(order(lengths=lengths, epoch=3))


@pytest.mark.parametrize("count", [400, 401, 1203, 37])
def test_grouping_is_that_of_a_naive_loop(count):
    """Within each 50 updates of the permutation: sorted by length, cut, and the updates in another order."""
    plain, grouped = order(count), order(count, lengths=LENGTHS)
    rest = 1 if count % 8 else 0
    whole = len(plain) - rest
    for start in range(0, whole, 50):
        stop = min(start + 50, whole)
        examples = sorted(flat(plain[start:stop]), key=lambda index: LENGTHS[index])  # sorted() is stable
        expected = [examples[i : i + 8] for i in range(0, len(examples), 8)]
        found = [update.tolist() for update in grouped[start:stop]]
        assert sorted(found) == sorted(expected)
        if stop - start > 5:
            assert found != expected  # the short ones do not come first
    if rest:
        assert grouped[-1].tolist() == plain[-1].tolist()


def test_grouping_saves_most_of_the_padding():
    def padded(updates):
        return sum(len(update) * LENGTHS[update].max() for update in updates)

    tokens = LENGTHS.sum()
    plain, grouped = (padded(order(5000, lengths=lengths)) - tokens for lengths in (None, LENGTHS))
    assert grouped < plain / 10


def test_equal_lengths_leave_the_examples_of_an_update_together():
    plain, grouped = order(80), order(80, lengths=np.full(80, 7))
    assert sorted(map(tuple, plain)) == sorted(map(tuple, grouped))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("accumulation", [1, 2, 3, 10])
def test_shares_are_a_partition_of_the_update_and_never_empty(size, world_size, accumulation):
    update = np.arange(100, 100 + size)
    found = []
    for rank in range(world_size):
        parts = share_of(update, accumulation=accumulation, rank=rank, world_size=world_size)
        assert len(parts) == min(accumulation, math.ceil(size / world_size))  # alike in all
        assert all(parts)
        own = [index for part in parts for index, counts in part if counts]
        assert own == update[rank::world_size].tolist()
        assert all(part == [(100, False)] for part in parts if not part[0][1])
        found += own
    assert sorted(found) == update.tolist()


def test_the_batches_of_a_share_differ_by_one_example_at_most():
    sizes = [len(part) for part in share_of(np.arange(11), accumulation=3, rank=0, world_size=1)]
    assert sizes == [4, 4, 3]
