"""The folder of a study: its manifest, a line per trial, what a trial is known by, and what has become of each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..io.atomic import write_text
from ..training.job import as_dict, run_identity
from ..vision.config import TrainConfig

_ID_DIGITS = 12
# options that say where something lies, not what it is
_PLACES = {"data", "initial_checkpoint"}
# what makes it another trial, besides the options of its run
_IDENTITY = ("suite", "task", "backbone", "stage", "weights")


@dataclass(frozen=True)
class Trial:
    """One line of a study's manifest.

    Args:
        id: hash of all the rest, less where things lie and what they are called.
        method: the label of its row: the name of the method's file.
        backbone: a preset, or the name of a timm model.
        stage: "candidate" trains on a part and never sees the test split; "final" is tested once.
        shots: training images per class; None: all of them.
        weights: SHA-256 of the local file of base weights; None: those that the model's name says.
        config: the options of the run, as `capaboost_vit.training.job.as_dict` gives them.
    """

    id: str
    suite: str
    task: str
    group: str
    classes: int | None
    notes: tuple[str, ...]
    method: str
    backbone: str
    stage: Literal["candidate", "final"]
    seed: int
    shots: int | None
    weights: str | None
    config: dict[str, Any]

    def key(self) -> str:
        """What it is known by whatever its id, which an older release may have given."""
        return key_of(self.config, vars(self))

    def title(self) -> str:
        """How people are told of it."""
        shots = "" if self.shots is None else f", {self.shots} shots"
        stage = "" if self.stage == "final" else ", candidate"
        return f"{self.method} on {self.task}, seed {self.seed}{shots}{stage}"


def make_trial(config: TrainConfig, **fields: Any) -> Trial:
    """A trial of a run's configuration, with the id that follows from all of it; `fields` are the others of Trial."""
    options = {name: value for name, value in as_dict(config).items() if name != "output"}
    trial = Trial(id="", seed=config.seed, shots=config.shots, config=options, **fields)
    return dataclasses.replace(trial, id=trial.key()[:_ID_DIGITS])


def key_of(config: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """SHA-256 of what makes a trial another one: of its run's options and of the `fields` that Trial has too.

    It is that of canonical JSON, in which 8 and 8.0 are the same.
    """
    identity = {name: fields[name] for name in _IDENTITY} | {"options": identifying_options(config)}
    same = json.loads(json.dumps(identity), parse_float=_number)
    return hashlib.sha256(json.dumps(same, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def identifying_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that make it another one, wherever its data lie, each with its default where it lacks."""
    return {name: value for name, value in run_identity(dict(config), TrainConfig).items() if name not in _PLACES}


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


class Study:
    """A study's folder.

    `manifest.jsonl` is only ever appended to; of lines with the same id the last one counts, and a line that was torn
    by a crash counts for nothing. `trials/ID/` is the run folder of a trial, which is finished when its result.json is
    there; `trials/ID.failed.json` says why one was given up; `leases/` says who has which; `choices.json` is what
    was chosen on val.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = self.path / "manifest.jsonl"
        self.leases = self.path / "leases"
        self.choices = self.path / "choices.json"

    def trials(self) -> dict[str, Trial]:
        """All trials by id, in the order in which they are run.

        Raises:
            FileNotFoundError: there is no study.
        """
        try:
            text = self.manifest.read_text("utf-8")
        except FileNotFoundError:
            raise FileNotFoundError(f"no study in {self.path}: it has no manifest.jsonl") from None
        fields = [field.name for field in dataclasses.fields(Trial)]
        trials: dict[str, Trial] = {}
        for line in text.split("\n"):
            with suppress(ValueError, KeyError, TypeError):  # an empty line, or one that was torn
                values = json.loads(line)
                trial = Trial(**{name: values[name] for name in fields} | {"notes": tuple(values["notes"])})
                trials[trial.id] = trial
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
        """Whether it has its result."""
        return (self.run_folder(trial) / "result.json").exists()

    def result(self, trial: Trial) -> dict[str, Any] | None:
        """What a finished trial has left, or None. Raises ValueError if it is damaged."""
        path = self.run_folder(trial) / "result.json"
        try:
            result: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): remove {path.parent}, and it is run again") from error
        return result

    def failure(self, trial: Trial) -> dict[str, Any] | None:
        """Why a trial was given up, or None."""
        try:
            failure: dict[str, Any] = json.loads(self._note(trial, "failed").read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            return {"error": "unknown: the file that said it is damaged", "attempts": 0}
        return failure

    def give_up(self, trial: Trial, error: str, attempts: int) -> None:
        """Notes that nobody should begin this trial again."""
        write_text(self._note(trial, "failed"), json.dumps({"error": error, "attempts": attempts}) + "\n")

    def forgive(self, trial: Trial) -> None:
        """Lets workers begin a trial again that was given up."""
        with suppress(FileNotFoundError):
            self._note(trial, "failed").rename(self._note(trial, "forgiven"))

    def forgiven(self, trial: Trial) -> int:
        """How many attempts of a trial no longer count, as it was given up once and begun again."""
        try:
            return int(json.loads(self._note(trial, "forgiven").read_text("utf-8"))["attempts"])
        except FileNotFoundError:
            return 0

    def open_trials(self) -> list[Trial]:
        """Those that are neither finished nor given up."""
        return [t for t in self.trials().values() if not self.finished(t) and not self._note(t, "failed").exists()]

    def _note(self, trial: Trial, what: str) -> Path:
        return self.path / "trials" / f"{trial.id}.{what}.json"


def run_config(study: Study, trial: Trial) -> TrainConfig:
    """The configuration with which a worker runs a trial, from the start or from where another one has left it."""
    return TrainConfig(**{**trial.config, "output": str(study.run_folder(trial)), "resume": True})
