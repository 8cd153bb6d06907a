"""The cases of one workload, made ready and timed in turn."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .cases import PEFT, Case
from .config import Workload
from .models import make_subject
from .timing import WHOLE, Session, clock_for, interleave, time_calls, timing

_LEAST = 0.1  # seconds that one timing lasts at least on a GPU; on a CPU steps are long enough


class Comparison:
    """A workload's subject, and what it takes to time cases on it. Raises ValueError as `make_subject` does."""

    def __init__(self, workload: Workload, session: Session) -> None:
        torch.set_num_threads(workload.threads)
        self.workload, self.session = workload, session
        self.subject = make_subject(workload)
        self.clock = clock_for(self.subject.device, workload.threads)
        self.least = _LEAST if self.subject.device.type == "cuda" else 0.0

    def about(self) -> dict[str, Any]:
        """What a result says of how it was measured."""
        return {**self.subject.about(), "clock": self.clock.name}

    def prepare(self, title: str, cases: Sequence[Case], make: Callable[[Case], Any]) -> dict[str, Any]:
        """What `make` makes of the cases, by name, each called twice, as long as time is left for all their rounds.

        A case whose package is missing or that does not fit into the memory is left out, with its reason.
        """
        ready: dict[str, Any] = {}
        cost = 0.0
        for case in cases:
            if not self.session.has_time(f"{title}, {case.name}", cost):
                continue
            self.session.say(f"{title}: preparing {case.name}")
            try:
                call = make(case)
                call()
                # wall time, whatever the clock
                seconds = time_calls(call, clock_for(self.subject.device, threads=0))[WHOLE]
            except (ImportError, RuntimeError) as error:
                self.session.left_out.append(f"{title}, {case.name}: {str(error).strip().splitlines()[0]}")
                continue
            ready[case.name] = call
            cost += (self.workload.repetitions + self.workload.warmup) * max(seconds, self.least)
        return ready

    def time(
        self,
        title: str,
        calls: dict[str, Any],
        reference: str,
        *,
        rounds: int | None = None,
        least: float | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Times the calls in turn, as the workload says, or in so many rounds, each at least so many seconds long.

        Returns:
            By case: `times`, the timing of each phase over the reference's; `over_peft`; images or tokens a second.
        """
        rounds = rounds or self.workload.repetitions
        times = interleave(
            calls,
            clock=self.clock,
            rounds=rounds,
            warmup=self.workload.warmup,
            least=self.least if least is None else least,
            seed=self.workload.seed,
            go_on=self.session.has_time,
            progress=lambda done: self.session.say(f"{title}: round {done} of {rounds}"),
        )
        gc.collect()
        return {name: self._summary(phases, times[reference], times.get(PEFT)) for name, phases in times.items()}

    def _summary(
        self, phases: dict[str, list[float]], reference: dict[str, list[float]], peft: dict[str, list[float]] | None
    ) -> dict[str, Any]:
        timings = {}
        for phase, seconds in phases.items():
            # the floor updates nothing
            compared = min(reference[phase]) > 0 and phase != "update"
            timings[phase] = timing(seconds, reference[phase] if compared else None)
        summary: dict[str, Any] = {"times": timings}
        if peft and min(peft[WHOLE]) > 0:
            summary["over_peft"] = timing(phases[WHOLE], peft[WHOLE])["ratio"]
        if min(phases[WHOLE]) > 0:
            speed = self.subject.items / timings[WHOLE]["median"]
            summary[f"{self.subject.family.items}_per_second"] = speed
        return summary
