"""Rate, method and rank for one data set: candidates are trials of a study, in rounds of successive halving on val."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shlex
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.atomic import write_text
from ..io.options import flag, suggest
from ..io.sources import short_name
from ..methods import METHODS, make_method
from ..methods.method import SIZES, MaskedMethod, Method
from ..methods.recorded_masks import PLAIN_OPTIONS
from ..training.job import as_dict
from ..vision.config import TrainConfig
from ..vision.data import open_configured
from ..vision.registry import parse_name
from .config import TuneConfig
from .manifest import Study
from .selection import Candidate
from .trial import make_trial, refused_task

_KEPT = 3  # one candidate of so many goes on, for so many times the updates
_OF_CANDIDATES = {"output", "method", "lr", "seed"}  # options that no command shares with the others


@dataclass(frozen=True)
class Row:
    """A candidate with its trials of the longest round that it was in, and what they came to."""

    candidate: Candidate
    score: float
    spread: float | None
    parameters: int
    seconds: float
    length: int


def tune(config: TuneConfig, options: dict[str, Any], compute: Callable[[Study], None]) -> list[Row]:
    """The candidates, those of the last round first, the best of each round before the others.

    Every candidate is trained for a ninth of the epochs (or `max_steps`), the best third of them for a third, and the
    best third of these for all, each from the start; they are told apart by their mean score on val. What is finished
    is not computed again; the test split has no part in it.

    Args:
        options: of `capaboost train`, for all candidates, by name.
        compute: runs the trials that are open in the study.

    Raises:
        ValueError: no val split; an unknown method; trials that failed.
    """
    base = _base(options)
    study = Study(config.output)
    left, rows = list(_points(config, base)), dict[str, Row]()
    for number, length in enumerate(lengths := _lengths(base)):
        unit = "update" if base.max_steps else "epoch"
        each = f"{length} {unit}{'s' if length > 1 else ''} each"
        print(f"round {number + 1} of {len(lengths)}: {len(left)} candidates, {each}")
        candidates = [_candidate(point, base, length, config) for point in left]
        kept = iter(study.add(trial for _, trials in candidates for trial in trials)[0])
        candidates = [Candidate(point, [next(kept) for _ in trials]) for point, trials in candidates]
        compute(study)
        measured = sorted((_row(study, candidate, length) for candidate in candidates), key=lambda row: -row.score)
        rows |= {json.dumps(row.candidate.options): row for row in measured}
        left = [row.candidate.options for row in measured[: -(-len(measured) // _KEPT)]]
    ordered = sorted(rows.values(), key=lambda row: (-row.length, -row.score))
    table = [{**vars(row), "candidate": row.candidate.options, "run": _command(row, base)} for row in ordered]
    write_text(study.path / "tune.json", json.dumps(table, indent=1) + "\n")
    return ordered


def command(options: dict[str, Any], row: Row) -> str:
    """What to type to train a candidate with all its epochs, and to test it once."""
    return _command(row, _base(options))


def method_named(name: str, size: int | None) -> Method:
    """`lora` is the plain method, `capaboost-lora` the masked one; `size` is its rank, width or length, if it has one.

    Raises:
        ValueError: no such method.
    """
    short = name.removeprefix("capaboost-")
    names = [*METHODS, *(f"capaboost-{other}" for other, kind in METHODS.items() if issubclass(kind, MaskedMethod))]
    if name not in names:
        raise ValueError(f"--methods: unknown method {name!r}{suggest(name, names)}: choose from {', '.join(names)}")
    kind = METHODS[short]
    plain = PLAIN_OPTIONS if name == short and issubclass(kind, MaskedMethod) else {}
    sized = {option: size for option in SIZES if size is not None and option in kind.__dataclass_fields__}
    return make_method(short, **plain, **sized)


def _base(options: dict[str, Any]) -> TrainConfig:
    """The options that all candidates share, as a run without a method. Raises ValueError where val is missing."""
    model = options.get("model") or TrainConfig.model
    implied = parse_name(model)
    if implied is not None:
        model = "".join((implied[0], *model.partition(".")[1:]))
    places = {name: _anywhere(options[name]) for name in ("data", "initial_checkpoint") if options.get(name)}
    base = TrainConfig(**{**options, **places, "model": model})
    if not base.data:
        raise ValueError("--data is missing: give a folder of class folders, or digits to try it; --help has others")
    images = open_configured(vars(base))
    if images.task != "classification":
        raise ValueError(refused_task(base.data, images.task))
    if base.val_split is None or not images.has(base.val_split):
        raise ValueError(
            f"{base.data} has no split {base.val_split!r} to choose by: say --train-split 'mixed(train)[:80%]' "
            "--val-split 'mixed(train)[80%:]'"
        )
    return base


def _points(config: TuneConfig, base: TrainConfig) -> Iterator[dict[str, Any]]:
    """Every method with every size that it has, at each of the rates: multiples of its usual one, or numbers."""
    for name in config.methods:
        has_size = any(option in METHODS[method_named(name, None).name].__dataclass_fields__ for option in SIZES)
        for size, rate in itertools.product(config.ranks if has_size else (None,), config.rates):
            method = method_named(name, size)
            number = float(f"{method.usual_lr * float(rate[1:]):.3g}" if rate.startswith("x") else rate)
            yield {"name": name, "size": size, "lr": number, "method": method.as_given()}


def _lengths(base: TrainConfig) -> list[int]:
    whole = base.max_steps or base.epochs
    return list(dict.fromkeys(max(1, round(whole / share)) for share in (_KEPT**2, _KEPT, 1)))


def _candidate(point: dict[str, Any], base: TrainConfig, length: int, config: TuneConfig) -> Candidate:
    """The trials of one candidate in a round, one for each seed."""
    weights = None
    if base.initial_checkpoint is not None:
        weights = hashlib.sha256(Path(base.initial_checkpoint).read_bytes()).hexdigest()
    fields = {"suite": "tune", "task": short_name(base.data), "group": "", "classes": base.num_classes, "notes": ()}
    fields |= {"method": _label(point), "backbone": base.model, "stage": "candidate", "weights": weights}
    changed = {"epochs" if base.max_steps is None else "max_steps": length, "lr": point["lr"], "test_split": None}
    return Candidate(
        point,
        [
            make_trial(dataclasses.replace(base, **changed, method=point["method"], seed=seed), **fields)
            for seed in config.seeds
        ],
    )


def _label(point: dict[str, Any]) -> str:
    size = "" if point["size"] is None else f" {point['size']}"
    return f"{point['name']}{size} lr {point['lr']:g}"


def _row(study: Study, candidate: Candidate, length: int) -> Row:
    """What the trials of a candidate came to. Raises ValueError for one that failed, or that nobody has computed."""
    results = []
    for trial in candidate.trials:
        result = study.result(trial) if study.finished(trial) else None
        if result is None:
            if study.diverged(trial):
                return Row(candidate, 0.0, None, 0, 0.0, length)
            failure = study.failure(trial)
            what = f"failed ({failure['error']})" if failure else "is not finished: start workers, then this again"
            raise ValueError(f"{trial.title()} {what}")
        results.append(result)
    scores = [result["val_accuracy"] for result in results]
    return Row(
        candidate,
        statistics.fmean(scores),
        statistics.stdev(scores) if len(scores) > 1 else None,
        results[0]["parameters"]["trained"],
        statistics.fmean(result["train_seconds"] for result in results),
        length,
    )


def _command(row: Row, base: TrainConfig) -> str:
    """`capaboost train` with the options that are not at their defaults, and those of the candidate."""
    point, defaults = row.candidate.options, as_dict(TrainConfig())
    given = {
        name: value for name, value in as_dict(base).items() if name not in _OF_CANDIDATES and value != defaults[name]
    }
    words = ["capaboost", "train", *_words({**given, "lr": point["lr"]}, flag)]
    return shlex.join([*words, *_words(point["method"], lambda name: flag(f"method.{name}"))])


def _words(options: dict[str, Any], named: Callable[[str], str]) -> Iterator[str]:
    for name, value in options.items():
        yield named(name)
        values: Sequence[Any] = value if isinstance(value, list) else [value]
        yield from (item if isinstance(item, str) else json.dumps(item) for item in values)


def _anywhere(place: str) -> str:
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() else place
