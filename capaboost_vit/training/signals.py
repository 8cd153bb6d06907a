"""Signal handling: a run that is asked to stop ends after the update at hand, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))


class Interrupted(Exception):
    """The run was asked to stop and has saved what it knows.

    `exit_code` is what the process should end with: 130 after SIGINT (Ctrl-C), 143 after SIGTERM and SIGUSR1.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
        self.exit_code = 130 if number == signal.SIGINT else 143


class StopSignals:
    """Signal handler: notes SIGINT, SIGTERM and SIGUSR1 while its block runs; a second signal changes nothing.

    Outside the main thread, where Python takes no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
