"""Times, ratios and orders are right by a clock that the test turns itself."""

from __future__ import annotations

import pytest
import torch

from capaboost_vit.bench.timing import WHOLE, Session, clock_for, quartiles, ratios


class Hands:
    """A clock that moves only when it is told to."""

    name = "hands"

    def __init__(self):
        self.now = 0.0

    def settle(self):
        pass

    def mark(self):
        return self.now

    def between(self, start, stop):
        return stop - start


@pytest.fixture
def clock():
    return Hands()


def lasting(clock, *seconds, log=None, name=None):
    """A case whose calls last so long, one after the other, and the last one from then on."""
    left = list(seconds)

    def call(lap):
        if log is not None:
            log.append(name)
        clock.now += left.pop(0) if len(left) > 1 else left[0]

    return call


def test_times_are_those_of_the_rounds_without_the_warm_up(clock):
    times = Session().interleave("", {"a": lasting(clock, 9, 1, 2, 3)}, clock=clock, rounds=3, warmup=1)
    assert times == {"a": {WHOLE: [1, 2, 3]}}


def test_phases_add_up_to_the_whole(clock):
    def call(lap):
        clock.now += 1
        lap("forward")
        clock.now += 2
        lap("backward")
        clock.now += 0.5

    times = Session().interleave("", {"a": call}, clock=clock, rounds=2)
    assert times["a"] == {WHOLE: [3.5, 3.5], "forward": [1, 1], "backward": [2, 2]}


def test_every_case_is_called_once_per_round_in_an_order_that_changes_and_follows_the_seed(clock):
    def orders(seed):
        log = []
        cases = {name: lasting(clock, 1, log=log, name=name) for name in "abc"}
        Session().interleave("", cases, clock=clock, rounds=8, warmup=1, seed=seed)
        return ["".join(log[i : i + 3]) for i in range(3, len(log), 3)]

    found = orders(0)
    assert len(found) == 8
    assert all(sorted(order) == ["a", "b", "c"] for order in found)
    assert len(set(found)) > 2
    assert orders(0) == found != orders(1)


def test_a_short_case_is_called_several_times_and_the_time_is_that_of_one_call(clock):
    log = []
    cases = {"short": lasting(clock, 0.25, log=log, name="short"), "long": lasting(clock, 3, log=log, name="long")}
    times = Session().interleave("", cases, clock=clock, rounds=2, warmup=1, least=1.0)
    assert times == {"short": {WHOLE: [0.25, 0.25]}, "long": {WHOLE: [3, 3]}}
    assert log.count("short") == 1 + 2 * 4
    assert log.count("long") == 1 + 2


def test_three_rounds_are_run_whatever_the_time(clock):
    done = []
    times = Session(budget=0, say=done.append).interleave("x", {"a": lasting(clock, 1)}, clock=clock, rounds=9)
    assert times["a"][WHOLE] == [1, 1, 1]
    assert done == [f"x: round {i} of 9" for i in (1, 2, 3)]


def test_the_ratio_is_the_median_of_the_ratios_of_each_round_not_the_ratio_of_medians():
    # ratios 2, 3, 1/2; the medians' ratio would be 4 / 8
    assert ratios({WHOLE: [2, 30, 4]}, {WHOLE: [1, 10, 8]}) == [1.25, 2, 2.5]
    assert ratios({"forward": [5]}, {"forward": [2]}, "forward") == [2.5] * 3
    assert quartiles([1, 2, 3, 4, 5]) == [2, 3, 4]


def test_rounds_of_different_number_have_no_ratio():
    with pytest.raises(ValueError, match="shorter"):
        ratios({WHOLE: [1, 2, 3]}, {WHOLE: [1, 2]})


def test_the_clock_of_one_thread_counts_only_this_process():
    assert clock_for(torch.device("cpu"), 1).name == "CPU time of the process"
    assert clock_for(torch.device("cpu"), 2).name == "wall time"
    assert clock_for(torch.device("cuda"), 1).name == "CUDA events"


def test_what_there_is_no_time_for_is_left_out():
    assert Session().has_time("a", 1e9)
    session = Session(budget=100)
    assert session.has_time("b", 99)
    assert not session.has_time("c", 101)
    assert not session.has_time(seconds=101)
    assert session.left_out == ["c: no time left"]


@pytest.mark.gpu
def test_cuda_events_see_the_work_of_the_device():
    a = torch.randn(4096, 4096, device="cuda")

    def products(count):
        def call(lap):
            for _ in range(count):
                a @ a
            lap("products")

        return call

    times = Session().interleave(
        "", {"one": products(2), "many": products(20)}, clock=clock_for(a.device, 1), rounds=3, warmup=2
    )
    assert ratios(times["many"], times["one"])[1] > 3
    assert times["one"]["products"][0] <= times["one"][WHOLE][0]
