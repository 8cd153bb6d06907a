"""Interleaved timing: several things in turn, again and again, so that whatever the machine does meets all of them."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

WHOLE = "whole"  # the name of a call's time from its start to its end

Lap = Callable[[str], None]
Timed = Callable[[Lap], object]
Phases = dict[str, list[float]]  # seconds by phase, one per round


class Session:
    """One measurement under way, for so many seconds from now on (None: without end).

    Attributes:
        say: is told what is going on.
        left_out: what was not measured, with the reason.
    """

    def __init__(self, budget: float | None = None, say: Callable[[str], None] = lambda text: None) -> None:
        self.say = say
        self.start = time.monotonic()
        self.end = math.inf if budget is None else self.start + budget
        self.left_out: list[str] = []

    def has_time(self, title: str | None = None, seconds: float = 0.0) -> bool:
        """Whether more than so many seconds are left; if not, what has this title is left out."""
        has_time = self.end - time.monotonic() > seconds
        if title and not has_time:
            self.left_out.append(f"{title}: no time left")
        return has_time

    def interleave(
        self,
        title: str,
        cases: Mapping[Any, Timed],
        *,
        clock: Clock,
        rounds: int,
        warmup: int = 1,
        least: float = 0.0,
        seed: int = 0,
    ) -> dict[Any, Phases]:
        """Times every case once per round, in an order that is drawn anew for each round.

        Without time left it ends early, but not before the third round.

        Args:
            cases: what to call, by name; a call is given `lap`, and `lap("forward")` ends the phase of that name.
            warmup: rounds that do not count.
            least: seconds that one timing should last; a shorter case is called several times on end (as often as its
                last warm-up says), and the times are those of one call.

        Returns:
            Seconds by case and phase, one per round; the phase `WHOLE` is the whole call.
        """
        calls = dict.fromkeys(cases, 1)
        for _ in range(warmup):
            for name, case in cases.items():
                seconds = time_calls(case, clock)[WHOLE]
                calls[name] = min(1000, max(1, math.ceil(least / max(seconds, 1e-9))))
        times: dict[Any, Phases] = {name: {} for name in cases}
        for i in range(rounds):
            if i >= 3 and not self.has_time():
                break
            order = list(cases)
            random.Random(f"{seed} {i}").shuffle(order)
            for name in order:
                for phase, seconds in time_calls(cases[name], clock, calls[name]).items():
                    times[name].setdefault(phase, []).append(seconds)
            self.say(f"{title}: round {i + 1} of {rounds}")
        return times


@dataclass(frozen=True)
class Clock:
    """Marks instants cheaply; the seconds between two of them are asked for later."""

    name: str
    mark: Callable[[], Any]
    between: Callable[[Any, Any], float] = lambda start, stop: stop - start
    settle: Callable[[], None] = lambda: None  # waits until nothing is under way


def clock_for(device: torch.device, threads: int) -> Clock:
    """CUDA events on a GPU; for one thread of a CPU the process's CPU time, which others do not add to; else wall time.

    Events cost nothing between the phases of a step, as they do not wait for the device.
    """
    if device.type == "cuda":
        return Clock("CUDA events", _event, lambda start, stop: start.elapsed_time(stop) / 1000, torch.cuda.synchronize)
    if device.type == "cpu" and threads == 1:
        return Clock("CPU time of the process", time.process_time)
    return Clock("wall time", time.perf_counter)


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def quartiles(values: Sequence[float]) -> list[float]:
    """The three quartiles of one value or more, the ends included."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def ratios(phases: Phases, reference: Phases, phase: str = WHOLE) -> list[float]:
    """The quartiles of the ratios of two cases' times in the same round; the median is the middle one."""
    pairs = zip(phases[phase], reference[phase], strict=True)
    return quartiles([seconds / max(other, 1e-9) for seconds, other in pairs])


def time_calls(case: Timed, clock: Clock, calls: int = 1) -> dict[str, float]:
    """Seconds of one call of so many on end, in all and by phase."""
    clock.settle()
    marks = [("", clock.mark())]
    for _ in range(calls):
        case(lambda phase: marks.append((phase, clock.mark())))
    stop = clock.mark()
    clock.settle()  # events have a time once the device has reached them
    seconds = {WHOLE: clock.between(marks[0][1], stop) / calls}
    for (_, start), (phase, end) in pairwise(marks):
        seconds[phase] = seconds.get(phase, 0.0) + clock.between(start, end) / calls
    return seconds
