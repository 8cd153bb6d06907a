"""The cases of one workload, made ready and timed in turn."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .cases import PEFT, Case
from .config import Workload
from .models import Subject, make_subject
from .timing import WHOLE, Session, clock_for, quartiles, ratios, time_calls

Row = dict[str, Any]  # of a table, by column

_SHORT = {"forward": "fwd ms", "backward": "bwd ms"}
_LEAST = 0.1  # seconds that one timing lasts at least on a GPU; on a CPU steps are long enough


class Comparison:
    """A workload's subject, and what it takes to time cases on it. Raises ValueError as `make_subject` does."""

    def __init__(self, workload: Workload, session: Session) -> None:
        torch.set_num_threads(workload.threads)
        self.workload, self.session = workload, session
        self.subject = make_subject(workload)
        self.clock = clock_for(self.subject.device, workload.threads)
        self.least = _LEAST if self.subject.device.type == "cuda" else 0.0

    def prepare(self, title: str, cases: Sequence[Case], make: Callable[[Case, Subject, Any], Any]) -> dict[str, Any]:
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
                call = make(case, self.subject, self.workload)
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
    ) -> dict[str, Row]:
        """Times the calls in turn, as the workload says, or in so many rounds, each at least so many seconds long.

        Returns:
            By case, its row of a table: medians of the times, of their ratios to the reference's and to PEFT's in the
            same round, half the distance of these ratios' quartiles, images or tokens a second; and all `times`.
        """
        times = self.session.interleave(
            title,
            calls,
            clock=self.clock,
            rounds=rounds or self.workload.repetitions,
            warmup=self.workload.warmup,
            least=self.least if least is None else least,
            seed=self.workload.seed,
        )
        gc.collect()
        rows: dict[str, Row] = {}
        for name, phases in times.items():
            median = quartiles(phases[WHOLE])[1]
            low, ratio, high = ratios(phases, times[reference])
            row = rows[name] = {"case": name, "ms": 1000 * median, f"/ {reference}": ratio, "+-": (high - low) / 2}
            if PEFT in times:
                row["/ peft"] = ratios(phases, times[PEFT])[1]
            row[f"{self.subject.family.items}/s"] = self.subject.items / max(median, 1e-9)
            row |= {title: 1000 * quartiles(phases[p])[1] for p, title in _SHORT.items() if p in phases}
            row["times"] = phases
        return rows
