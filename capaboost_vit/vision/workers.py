"""Loader processes that a run can start, stop and be sent signals with."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
_SECONDS_TO_LIVE = 30  # of a loader process after SIGTERM, which the whole group of a run may get


class Workers:
    """A DataLoader over batches of keys that are given anew for each pass.

    The global random state is left alone, and signals to the whole group of a run do not take the processes away.

    Args:
        dataset: its `__getitem__` makes a batch of a list of keys, or returns a ValueError, which is raised in this
            process: what is raised in a loader process loses its text.
        workers: loader processes; 0 loads in this one.
        lasting: they live on between passes, until `close`.
    """

    def __init__(self, dataset: Dataset[Any], *, workers: int, lasting: bool) -> None:
        self.keys: list[list[Any]] = []  # a DataLoader takes its sampler once, while each pass has other keys
        self.loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=None,
            sampler=self.keys,
            num_workers=workers,
            worker_init_fn=_start_worker,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0 and lasting,
            generator=torch.Generator(),  # or each pass would take a number from the global random state
        )
        self.running: Iterator[Any] = iter(())

    def batches(self, keys: Sequence[list[Any]]) -> Iterator[Any]:
        """One pass: a batch for each list of keys. Raises the ValueError that stands for a batch."""
        if not keys:
            return  # without starting a process
        self.keys[:] = keys
        self.running = self._begin()
        for batch in self.running:
            if isinstance(batch, ValueError):
                raise batch
            yield batch

    def close(self) -> None:
        """Ends the processes; left to the garbage collector, the message to end may not reach them in time."""
        getattr(self.running, "_shutdown_workers", lambda: None)()

    def _begin(self) -> Iterator[Any]:
        """Starts the processes, if any; signals wait until these have said what they do with them."""
        if not hasattr(signal, "pthread_sigmask"):
            return iter(self.loader)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return iter(self.loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """Signals to the whole group of a run must not take away the images that it needs to come to a stop."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_TO_LIVE))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
