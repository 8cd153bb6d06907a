"""report.json: what a study publishes of its trials, and what another study reuses of it (`--known`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..io.atomic import write_text
from ..io.json import read_object
from ..training.config import EARLIER
from ..training.job import as_dict
from ..vision.config import TrainConfig
from .manifest import Study
from .outcomes import Outcome, Outcomes
from .trial import Trial, identifying_options, key_of

# what a report says of a finished trial, as result.json has it
_NUMBERS = (
    *("val_accuracy", "test_accuracy", "test_right", "test_total", "epochs", "updates"),
    *("train_seconds", "images_per_second", "memory_mb", "parameters"),
)


def report_json(outcomes: Outcomes) -> str:
    """All trials, candidates too, a line each, and what was chosen of them; nothing in it says where files lay.

    `options` are those of `capaboost train` that are not at their defaults, or not as in earlier releases; `weights` is
    the SHA-256 of the base weights' file; accuracies are in per cent, and null where nobody asked for them. A damaged
    result stops nothing.
    """
    lines = ",\n".join(json.dumps(_line(outcome)) for outcome in outcomes.trials)
    return f'{{"trials": [\n{lines}\n],\n"choices": {json.dumps(outcomes.choices)}}}\n'


def _line(outcome: Outcome) -> dict[str, Any]:
    """What report.json holds of a trial: what makes it another one, and its numbers; nothing of where files lie."""
    trial, result, defaults = outcome.trial, outcome.result, {**as_dict(TrainConfig()), **EARLIER}
    names = ("id", "suite", "task", "group", "method", "backbone", "stage", "seed", "shots", "weights")
    line = {name: getattr(trial, name) for name in names}
    options = {
        name: value
        for name, value in identifying_options(trial.config).items()
        if name not in ("seed", "shots") and value != defaults.get(name)
    }
    line |= {"state": outcome.state, "options": options}
    if result is not None:
        line |= {name: result[name] for name in _NUMBERS if name in result}
        line["device"] = result.get("machine", {}).get("device")
    return line


def reuse_results(study: Study, trials: Iterable[Trial], reports: Iterable[str | Path]) -> dict[str, int]:
    """Gives trials that nobody has begun the results that reports hold of them; returns how many came from each.

    A report is the `report.json` of `capaboost study report`. A result is that of a trial if suite, task, backbone,
    stage, weights and all options that decide about a run are the same; **the data cannot be compared**, only the name
    of the task. What was taken says so (`taken_from` in its result.json), and has no curves, pictures or adapter file.
    The first report that knows a trial counts.

    Raises:
        FileNotFoundError, ValueError: a file that is not there, or that is no such report.
    """
    published = {str(report): _finished(Path(report)) for report in reports}
    taken = dict.fromkeys(published, 0)
    for trial in trials:
        if study.run_folder(trial).exists() or study.failure(trial) is not None:
            continue
        key = trial.key()
        report = next((report for report, lines in published.items() if key in lines), None)
        if report is not None:
            folder = study.run_folder(trial)
            folder.mkdir(parents=True)
            result = _result(trial, published[report][key], Path(report).name)
            write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
            taken[report] += 1
    return taken


def _finished(report: Path) -> dict[str, dict[str, Any]]:
    """The lines of a report's finished trials, by what makes a trial another one."""
    try:
        lines = read_object(report, {"trials": list})["trials"]
        return {
            key_of({**line["options"], "seed": line["seed"], "shots": line["shots"]}, line): line
            for line in lines
            if line["state"] == "finished"
        }
    except FileNotFoundError:
        raise FileNotFoundError(f"--known {report}: there is no such file") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--known {report}: this is no report.json of capaboost study report ({error!r})") from error


def _result(trial: Trial, line: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What result.json holds, as far as a report knows it."""
    method = dict(trial.config["method"])
    return {
        **{name: line[name] for name in _NUMBERS if name in line},
        "method": [{"method": method.pop("name"), **method}],
        "config": trial.config,
        "machine": {"device": line.get("device")},
        "taken_from": source,
    }
