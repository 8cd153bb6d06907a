"""Who computes which trial: leases that are taken over when their owner shows no sign of life."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.atomic import write_text
from ..io.json import parse_object
from ..io.printable import printable

_LOST = 75  # exit code of a process whose lease was taken over: EX_TEMPFAIL


class Leases:
    """The leases of a study's trials, one file per generation: `ID.1.json`, `ID.2.json` after a takeover, ...

    A lease is made by linking a whole file to a name that nobody has: of all who try, one succeeds, on any file system
    where links are atomic, and no clock of another machine is read. Its owner counts up `beat` in it. It is stale when
    it was given back, when its process is known to be dead (on this machine), or when its file has not changed for
    `seconds` of the looker's own clock, as that of one that is damaged; then whoever makes the next generation owns the
    trial. A process that was
    thought dead and finds a newer generation ends at once.

    Args:
        folder: where the files are.
        seconds: without a sign of life after which a lease is stale.
    """

    def __init__(self, folder: Path, *, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.seen: dict[str, tuple[bytes, float]] = {}  # newest lease by trial, and since when it is unchanged

    def claim(self, trial: str) -> Lease | None:
        """The lease of a trial that nobody alive has, or None."""
        texts = self.generations(trial)
        if texts and not self._stale(trial, texts[-1]):
            return None
        damage = self.damage(trial)
        lease = Lease(self.folder, trial, generation=len(texts) + 1, seconds=self.seconds)
        if not lease.take():
            return None
        if damage:
            print(f"taken over: {damage}")
        return lease

    def owner(self, trial: str) -> dict[str, Any] | None:
        """What the newest lease of a trial says, unless it is damaged or given back, or its process is known dead."""
        texts = self.generations(trial)
        lease = _parse(texts[-1]) if texts else None
        return lease if isinstance(lease, dict) and _is_held(lease) else None

    def damage(self, trial: str) -> str | None:
        """Why the newest lease of a trial is none, with its file; None if all is well."""
        texts = self.generations(trial)
        lease = _parse(texts[-1]) if texts else None
        return (
            printable(f"{_file(self.folder, trial, len(texts))} is no lease: {lease}")
            if isinstance(lease, str)
            else None
        )

    def attempts(self, trial: str) -> int:
        """How often a trial was begun and not given back in good order: its worker died, or said why it failed."""
        begun = [lease for lease in map(_parse, self.generations(trial)) if isinstance(lease, dict)]
        return sum(not lease.get("released") or "error" in lease for lease in begun)

    def generations(self, trial: str) -> list[bytes]:
        """What is in a trial's leases, the oldest first; of what can be no file, nothing."""
        texts: list[bytes] = []
        # a name that is taken is a generation, whatever stands there: the next one can only be linked behind it
        while os.path.lexists(path := _file(self.folder, trial, len(texts) + 1)):
            try:
                texts.append(path.read_bytes())
            except (FileNotFoundError, IsADirectoryError):
                texts.append(b"")
        return texts

    def _stale(self, trial: str, text: bytes) -> bool:
        lease = _parse(text)
        if isinstance(lease, dict) and not _is_held(lease):
            return True
        now = time.monotonic()
        before, since = self.seen.get(trial, (None, now))
        self.seen[trial] = (text, since if text == before else now)
        return now - self.seen[trial][1] >= self.seconds


@dataclass
class Lease:
    """One generation, owned; as a context it beats until the block ends, and is then given back."""

    folder: Path
    trial: str
    generation: int
    seconds: float
    beat: int = 0
    error: str | None = None  # why the trial failed, said when the lease is given back

    def __post_init__(self) -> None:
        self.path = _file(self.folder, self.trial, self.generation)
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> bool:
        """Makes the file, unless another has made it. Returns whether it is ours."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.partial")
        write_text(partial, self._text())
        try:
            os.link(partial, self.path)  # unlike a rename, it fails where the name is taken
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        return True

    def __enter__(self) -> Lease:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        if not self._lost():
            reason = {} if self.error is None else {"error": self.error}
            write_text(self.path, self._text(released=True, **reason))

    def _lost(self) -> bool:
        """Whether another has taken the trial over."""
        return _file(self.folder, self.trial, self.generation + 1).exists()

    def _beat(self) -> None:
        while not self.done.wait(self.seconds / 4):
            if self._lost():  # this process was stopped for so long that another goes on with its trial
                print(f"the lease {self.path.name} was taken over: ending", flush=True)
                os._exit(_LOST)
            self.beat += 1
            with suppress(OSError):  # a full disk: the next beat may get through
                write_text(self.path, self._text())

    def _text(self, **fields: Any) -> str:
        values = {
            "generation": self.generation,  # no two leases of a trial read alike: `seen` tells them apart by that
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "beat": self.beat,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **fields,
        }
        return json.dumps(values) + "\n"


def _file(folder: Path, trial: str, generation: int) -> Path:
    return folder / f"{trial}.{generation}.json"


# what is read of a lease; the others are for people
_TYPES = {"host": str, "pid": int, "born": str | None}


def _parse(text: bytes) -> dict[str, Any] | str:
    """What a lease says, or why it is none."""
    try:
        return parse_object(text, _TYPES)
    except ValueError as error:
        return str(error)


def _is_held(lease: dict[str, Any]) -> bool:
    """Whether it was not given back, and its process is not known to be dead."""
    return not lease.get("released") and not _dead_here(lease)


def _dead_here(lease: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that is no more; False where that cannot be known."""
    born, here = lease["born"], _born(os.getpid())
    if born is None or here is None or lease["host"] != socket.gethostname():
        return False
    return bool(born.split()[:2] == here.split()[:2] and _born(lease["pid"]) != born)  # numbers mean the same there


def _born(pid: int) -> str | None:
    """Start of the machine, space of process numbers, and when the process began; None if it is no more, or unknown."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if state == "Z" else f"{boot} {os.readlink('/proc/self/ns/pid')} {fields[18]}"
    except (OSError, IndexError):
        return None
