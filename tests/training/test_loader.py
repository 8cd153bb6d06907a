"""Loaders, whatever the examples are: each once, in an order of (seed, epoch), shared by processes, begun anywhere."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from capaboost_vit.training.loader import EvalLoader, TrainLoader


class Numbers:
    """Examples that are their own index, and -1 where they only stand in."""

    def __init__(self, count):
        self.count, self.closed = count, 0

    def __len__(self):
        return self.count

    def batches(self, parts, *, epoch=0):
        return ([index if counts else -1 for index, counts in part] for part in parts)

    def close(self):
        self.closed += 1


def updates_of(count=53, *, batch_size=8, seed=0, **options):
    return TrainLoader(Numbers(count), batch_size=batch_size, seed=seed, **options)


def order(loader, epoch):
    return [index for update in loader.epoch(epoch) for batch in update.batches for index in batch]


@pytest.mark.parametrize("lengths", [None, np.arange(53) % 7], ids=["plain", "grouped"])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 53])
def test_every_epoch_has_every_example_once_and_only_the_last_update_is_smaller(count, lengths):
    loader = updates_of(count, lengths=None if lengths is None else lengths[:count])
    for epoch in range(3):
        updates = list(loader.epoch(epoch))
        assert len(updates) == len(loader) == math.ceil(count / 8)
        assert [update.size for update in updates] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
        assert sorted(order(loader, epoch)) == list(range(count))


def test_the_order_is_another_one_in_each_epoch_and_depends_on_seed_and_epoch_only():
    straight = order(updates_of(seed=3), 2)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    other = updates_of(seed=3)
    orders = [order(other, epoch) for epoch in (5, 0, 1)]  # what was drawn before does not matter
    assert order(other, 2) == straight
    assert order(updates_of(seed=3, batch_size=7), 2) == straight
    assert order(updates_of(seed=3, accumulation=3), 2) == straight
    assert len({tuple(found) for found in [*orders, straight, list(range(53)), order(updates_of(seed=4), 2)]}) == 6


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (1, 3), (2, 1), (2, 8), (3, 2), (5, 20), (10, 1)])
def test_the_batches_of_all_processes_are_the_update_each_example_once(world_size, accumulation):
    for count in (1, 9, 19, 53):
        shares = [
            list(updates_of(count, accumulation=accumulation, rank=rank, world_size=world_size).epoch(2))
            for rank in range(world_size)
        ]
        for step, update in enumerate(updates_of(count).epoch(2)):
            parts = [share[step] for share in shares]
            assert {part.size for part in parts} == {update.size}
            assert sorted(index for part in parts for index in part.indices) == sorted(update.indices)
            assert max(len(part.indices) for part in parts) - min(len(part.indices) for part in parts) <= 1
            for part in parts:
                sizes = [len(batch) for batch in part.batches]
                assert max(sizes) - min(sizes) <= 1
                given = [index for batch in part.batches for index in batch]
                assert given in (part.indices, [*part.indices, -1])
            # as many in all: they wait for each other
            assert {len(part.batches) for part in parts} == {min(accumulation, max(len(p.indices) for p in parts))}


def test_an_epoch_that_is_begun_later_is_the_rest_of_it():
    loader = updates_of(accumulation=2)
    whole = list(loader.epoch(3))
    for start in (4, 0, 6, 7):
        assert list(loader.epoch(3, start)) == whole[start:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_an_evaluation_has_every_example_once_in_one_of_the_processes(world_size):
    for count in (1, 2, 7, 8, 53):
        seen = []
        for rank in range(world_size):
            loader = EvalLoader(Numbers(count), batch_size=4, rank=rank, world_size=world_size)
            batches = list(loader)
            assert len(batches) == len(loader) == math.ceil(math.ceil(count / world_size) / 4)  # alike in all
            given = [index for batch in batches for index in batch]
            assert given in (loader.indices, [*loader.indices, -1])
            seen += loader.indices
        assert sorted(seen) == list(range(count))
    assert list(EvalLoader(Numbers(0), batch_size=4)) == []


def test_an_evaluation_may_have_an_order_of_its_own():
    loader = EvalLoader(Numbers(5), batch_size=2, order=[4, 2, 0, 1, 3], rank=1, world_size=2)
    assert list(loader) == list(loader) == [[2, 1], [-1]]
    assert loader.indices == [2, 1]


def test_closing_a_loader_ends_what_reads_its_examples():
    for loader in (updates_of(), EvalLoader(Numbers(3), batch_size=2)):
        loader.close()
        assert loader.examples.closed == 1
