"""Interleaved timing: several things in turn, again and again, so that whatever the machine does meets all of them."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch

WHOLE = "whole"  # the name of a call's time from its start to its end

Lap = Callable[[str], None]
Timed = Callable[[Lap], object]
Times = dict[str, dict[str, list[float]]]  # seconds by case and phase, one per round


class Clock(Protocol):
    """Marks instants cheaply; what lies between two of them is asked for later."""

    name: str

    def settle(self) -> None:
        """Waits until nothing is under way."""

    def mark(self) -> Any:
        """An instant."""

    def between(self, start: Any, stop: Any) -> float:
        """Seconds."""


class HostClock:
    """A clock of the host: `time.process_time`, which leaves out what others do on the machine, or a wall clock."""

    def __init__(self, name: str, read: Callable[[], float]) -> None:
        self.name = name
        self.mark = read

    def settle(self) -> None:
        """Nothing is ever under way."""

    def between(self, start: float, stop: float) -> float:
        """Their difference."""
        return stop - start


class CudaClock:
    """CUDA events: they cost nothing between the phases of a step, as they do not wait for the device."""

    name = "CUDA events"

    def settle(self) -> None:
        """Waits for the device."""
        torch.cuda.synchronize()

    def mark(self) -> torch.cuda.Event:
        """An event on the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: torch.cuda.Event, stop: torch.cuda.Event) -> float:
        """Seconds on the device, once it has reached `stop`."""
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1000


def clock_for(device: torch.device, threads: int) -> Clock:
    """CUDA events on a GPU; the process's CPU time for one thread on a CPU; else wall time."""
    if device.type == "cuda":
        return CudaClock()
    if device.type == "cpu" and threads == 1:
        return HostClock("CPU time of the process", time.process_time)
    return HostClock("wall time", time.perf_counter)


@dataclass(frozen=True)
class Timing:
    """What is said about one case's times.

    Args:
        times: seconds, one per round.
        quartiles: their first and third quartile.
        ratio: median over the rounds of the case's time over the reference's in the same round; None: no reference.
        ratio_quartiles: the quartiles of these ratios.
    """

    times: list[float]
    median: float
    quartiles: list[float]
    ratio: float | None = None
    ratio_quartiles: list[float] | None = None


def timing(times: Sequence[float], reference: Sequence[float] | None = None) -> Timing:
    """Median and quartiles of the times, and of their ratios to the reference's, round by round."""
    first, median, third = quartiles(times)
    if reference is None:
        return Timing(list(times), median, [first, third])
    low, ratio, high = quartiles([time / other for time, other in zip(times, reference, strict=True)])
    return Timing(list(times), median, [first, third], ratio, [low, high])


def quartiles(values: Sequence[float]) -> list[float]:
    """The three quartiles of one value or more, the ends included."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


class Budget:
    """Seconds of wall time from now on, None for no end; it ends with the budget that it is `within` at the latest."""

    def __init__(self, seconds: float | None = None, within: Budget | None = None) -> None:
        own = math.inf if seconds is None else time.monotonic() + seconds
        self.end: float = own if within is None else min(own, within.end)

    def left(self) -> float:
        """Seconds that are left, below zero afterwards."""
        return self.end - time.monotonic()


def interleave(
    cases: Mapping[str, Timed],
    *,
    clock: Clock,
    rounds: int,
    warmup: int = 1,
    least: float = 0.0,
    seed: int = 0,
    go_on: Callable[[], bool] = lambda: True,
    progress: Callable[[int], None] = lambda done: None,
) -> Times:
    """Times every case once per round, in an order that is drawn anew for each round.

    Args:
        cases: what to call, by name; a call is given `lap`, and `lap("forward")` ends the phase of that name.
        warmup: rounds that do not count.
        least: seconds that one timing should last; a shorter case is called several times on end (as often as its
            last warm-up says), and the times are those of one call.
        go_on: asked before each round but the first three; false ends it early.
        progress: told the number of rounds that are done, warm-up not counted.

    Returns:
        Seconds by case and phase, one per round; the phase `WHOLE` is the whole call.
    """
    calls = dict.fromkeys(cases, 1)
    for _ in range(warmup):
        for name, case in cases.items():
            seconds = _time(case, clock, 1)[WHOLE]
            calls[name] = min(1000, max(1, math.ceil(least / max(seconds, 1e-9)))) if least else 1
    times: Times = {name: {} for name in cases}
    for i in range(rounds):
        if i >= 3 and not go_on():
            break
        order = list(cases)
        random.Random(f"{seed} {i}").shuffle(order)
        for name in order:
            for phase, seconds in _time(cases[name], clock, calls[name]).items():
                times[name].setdefault(phase, []).append(seconds)
        progress(i + 1)
    return times


def _time(case: Timed, clock: Clock, calls: int) -> dict[str, float]:
    """Seconds of one call, in all and by phase."""
    clock.settle()
    marks = [("", clock.mark())]
    for _ in range(calls):
        case(lambda phase: marks.append((phase, clock.mark())))
    stop = clock.mark()
    seconds = {WHOLE: clock.between(marks[0][1], stop) / calls}
    for (_, start), (phase, end) in pairwise(marks):
        seconds[phase] = seconds.get(phase, 0.0) + clock.between(start, end) / calls
    return seconds
