"""The folder of a study: its manifest, a line per trial, and what has become of each."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..io.atomic import write_text
from ..io.json import read_object
from ..io.printable import printable
from ..training.config import EARLIER
from ..vision.config import TrainConfig
from .result import check_result
from .trial import Trial, parse_trial

_DIVERGED = ("NotFinite", "FloatingPointError")  # how the error of a run that diverged begins
_SHOWN = 3  # lines left out that are named, each with its reason


class Study:
    """A study's folder.

    `manifest.jsonl` is only ever appended to; of lines with the same id the last one counts, and one that is no trial,
    as it was torn by a crash or edited, is left out, aloud. `trials/ID/` is the run folder of a trial, which is
    finished when its result.json is there; `trials/ID.failed.json` says why one was given up; `leases/` says who has
    which; `choices.json` is what was chosen on val.

    Attributes:
        left_out: the lines that were left out when the manifest was last read, each with its number and the reason.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = self.path / "manifest.jsonl"
        self.leases = self.path / "leases"
        self.choices = self.path / "choices.json"
        self.left_out: list[str] = []
        self.parsed: dict[bytes, Trial | str] = {}  # by line, as the manifest is read often: the trial, or the reason
        self.checked: dict[str, tuple[int, int, int]] = {}  # by trial the `stat` of a result.json that is good

    def trials(self) -> dict[str, Trial]:
        """All trials by id, in the order in which they are run.

        Raises:
            FileNotFoundError: there is no study.
        """
        try:
            lines = self.manifest.read_bytes().split(b"\n")
        except FileNotFoundError:
            raise FileNotFoundError(f"no study in {self.path}: it has no manifest.jsonl") from None
        trials: dict[str, Trial] = {}
        left_out = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if line not in self.parsed:
                try:
                    self.parsed[line] = parse_trial(line)
                except ValueError as error:
                    self.parsed[line] = printable(str(error))
            trial = self.parsed[line]
            if isinstance(trial, Trial):
                trials[trial.id] = trial
            else:
                left_out.append(f"line {number}: {trial}")
        if left_out != self.left_out:
            self.left_out = left_out
            lines_shown = [*left_out[:_SHOWN], *(["..."] if left_out[_SHOWN:] else [])]
            for text in [*lines_shown, f"lines left out, as they are no trials: {len(left_out)}"]:
                print(f"warning: {self.manifest}, {text}", file=sys.stderr)
        return trials

    def add(self, trials: Iterable[Trial]) -> tuple[list[Trial], int]:
        """Writes down what the manifest lacks; returns the trials with the ids that they have, and how many are new.

        A trial that is there already, if perhaps by an older release that lacked some options, keeps its id.
        """
        earlier = self.trials() if self.manifest.exists() else {}
        ids = {trial.key(): trial.id for trial in earlier.values()}
        kept = [dataclasses.replace(trial, id=ids.get(trial.key(), trial.id)) for trial in trials]
        # new, or said with other places and names
        changed = [trial for trial in kept if earlier.get(trial.id) != trial]
        if changed:
            self.path.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(dataclasses.asdict(trial)) + "\n" for trial in changed)
            with open(self.manifest, "ab") as file:
                # a newline first ends a line that was torn; all of it in one write, as others may append too
                file.write((b"\n" if file.tell() else b"") + lines.encode())
                file.flush()
                os.fsync(file.fileno())
        return kept, sum(trial.id not in earlier for trial in kept)

    def run_folder(self, trial: Trial) -> Path:
        """Where a trial is run."""
        return self.path / "trials" / trial.id

    def finished(self, trial: Trial) -> bool:
        """Whether it has its result; a damaged one is none."""
        try:
            status = os.stat(self.run_folder(trial) / "result.json")
            signature = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self.checked.get(trial.id) != signature:
                self.result(trial)
                self.checked[trial.id] = signature
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return False
        return True

    def result(self, trial: Trial) -> dict[str, Any] | None:
        """What a finished trial has left, or None. Raises ValueError if it is damaged, or not that of the trial."""
        path = self.run_folder(trial) / "result.json"
        try:
            result = read_object(path)
            check_result(result, trial)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(printable(f"{path} is damaged ({error}): a worker runs the trial again")) from error
        return result

    def damage(self, trial: Trial) -> str | None:
        """What is wrong with its result; None where there is none, or a good one."""
        try:
            self.result(trial)
        except ValueError as error:
            return str(error)
        return None

    def set_aside(self, trial: Trial) -> None:
        """Gives the run folder another name, so that the trial can be run again from the start."""
        folder = self.run_folder(trial)
        folder.rename(folder.with_name(f"{trial.id}.damaged.{time.time_ns()}"))

    def failure(self, trial: Trial) -> dict[str, Any] | None:
        """Why a trial was given up (`error`), after how many `attempts`; or None."""
        try:
            return read_object(self._note(trial, "failed"), {"error": str, "attempts": int})
        except FileNotFoundError:
            return None
        except ValueError as error:
            return {"error": f"unknown: {self._note(trial, 'failed')} is damaged ({error})", "attempts": 0}

    def diverged(self, trial: Trial) -> bool:
        """Whether a trial was given up as its loss or a gradient was not finite: a rate that is too high."""
        failure = self.failure(trial)
        return failure is not None and failure["error"].startswith(_DIVERGED)

    def give_up(self, trial: Trial, error: str, attempts: int) -> None:
        """Notes that nobody should begin this trial again."""
        write_text(self._note(trial, "failed"), json.dumps({"error": error, "attempts": attempts}) + "\n")

    def forgive(self, trial: Trial) -> None:
        """Lets workers begin a trial again that was given up."""
        with suppress(FileNotFoundError):
            self._note(trial, "failed").rename(self._note(trial, "forgiven"))

    def forgiven(self, trial: Trial) -> int:
        """How many attempts of a trial no longer count, as it was given up once and begun again."""
        note = self._note(trial, "forgiven")
        try:
            return max(0, int(read_object(note, {"attempts": int})["attempts"]))
        except FileNotFoundError:
            return 0
        except ValueError as error:
            print(printable(f"warning: {note} is damaged ({error}): it forgives nothing"), file=sys.stderr)
            return 0

    def open_trials(self) -> list[Trial]:
        """Those that are neither finished nor given up."""
        return [t for t in self.trials().values() if not self.finished(t) and self.failure(t) is None]

    def _note(self, trial: Trial, what: str) -> Path:
        return self.path / "trials" / f"{trial.id}.{what}.json"


def run_config(study: Study, trial: Trial) -> TrainConfig:
    """The configuration with which a worker runs a trial, from the start or from where another one has left it."""
    return TrainConfig(**{**EARLIER, **trial.config, "output": str(study.run_folder(trial)), "resume": True})
