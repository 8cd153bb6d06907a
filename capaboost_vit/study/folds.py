"""k-fold cross-validation: each fold an ordinary run, and one table of them."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..io.atomic import write_text
from ..run import train
from ..training.distributed import torchrun_group
from ..training.folder import RunFolder
from ..training.metrics import wilson_interval
from ..training.signals import Interrupted
from ..vision.config import TrainConfig

RECORD = "folds.json"


def train_folds(config: TrainConfig, folds: int) -> str:
    """Trains and tests once for each of `folds` stratified parts of the training split; returns the table.

    Run k lies in `foldK` of the output, is trained on `all_but_fold(train, k/K)` and tested on `fold(train, k/K)`, with
    the seed of the run behind it where that is not 0, so that every image is in one test, and each run can be repeated
    by hand. The val split, if there is one, is the same for all; so is a learning rate that was searched, by the first
    of them, as its val split is in no fold. folds.json has the scores of each, their mean and standard deviation, and
    the accuracy over all images with its Wilson interval.

    Raises:
        ValueError: several processes.
        Interrupted: a signal came; the same command with `resume` goes on.
    """
    if torchrun_group().size > 1:
        raise ValueError("--folds trains one run after the other in one process: leave torchrun out")
    runs = list(_runs(config, folds))
    if not (config.resume or config.overwrite):
        for run in runs:
            RunFolder(Path(run.output)).refuse_if_taken()
    results: list[dict[str, Any]] = []
    for number, run in enumerate(runs, 1):
        print(f"fold {number} of {folds}: {run.output}")
        if run.lr == "auto" and results:
            run = dataclasses.replace(run, lr=results[0]["config"]["lr"])
        try:
            results.append(train(run))
        except Interrupted as stopped:
            what = str(stopped).partition(";")[0]
            raise Interrupted(
                stopped.number, f"{what} in {run.output}; go on with the same command and --resume"
            ) from None
    record = _summary(results)
    write_text(Path(config.output, RECORD), json.dumps(record, indent=2) + "\n")
    return "\n".join([*_table(record), f"written: {Path(config.output, RECORD)}"])


def _runs(config: TrainConfig, folds: int) -> Iterator[TrainConfig]:
    seed = f", {config.seed}" if config.seed else ""
    for number in range(1, folds + 1):
        part = f"fold({config.train_split}, {number}/{folds}{seed})"
        output = str(Path(config.output, f"fold{number}"))
        yield dataclasses.replace(config, train_split=f"all_but_{part}", test_split=part, output=output)


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores of the folds by name, their mean and spread, and the accuracy of all images together."""
    ends = ("_right", "_total", "_low", "_high", "_interval")
    names = [
        name
        for name, value in results[0].items()
        if name.startswith("test_") and isinstance(value, float) and not name.endswith(ends)
    ]
    folds = [
        {name: result[name] for name in (*names, "test_right", "test_total") if name in result} for result in results
    ]
    record: dict[str, Any] = {"lr": [result["config"]["lr"] for result in results], "folds": folds}
    for name in names:
        scores = [fold[name] for fold in folds]
        record[name] = {"mean": statistics.fmean(scores), "standard_deviation": statistics.stdev(scores)}
    if all("test_right" in fold for fold in folds):
        right, total = (sum(fold[f"test_{name}"] for fold in folds) for name in ("right", "total"))
        interval = wilson_interval(right, total)
        record["pooled"] = {"right": right, "total": total, "accuracy": 100 * right / total, "interval": interval}
    return record


def _table(record: dict[str, Any]) -> Iterator[str]:
    names = [name for name in record if name.startswith("test_")]
    yield "  ".join(["fold  ", *(f"{name:>20}" for name in names), f"{'right':>12}"])
    for number, fold in enumerate(record["folds"], 1):
        counts = f"{fold['test_right']} of {fold['test_total']}" if "test_right" in fold else ""
        yield "  ".join([f"{number:<6}", *(f"{fold[name]:>20.2f}" for name in names), f"{counts:>12}"])
    spreads = (f"{record[name]['mean']:.2f} ± {record[name]['standard_deviation']:.2f}" for name in names)
    yield "  ".join(["mean  ", *(f"{spread:>20}" for spread in spreads)])
    if pooled := record.get("pooled"):
        low, high = pooled["interval"]
        yield (
            f"all images: {pooled['accuracy']:.2f} % ({pooled['right']} of {pooled['total']}), "
            f"95 % interval {low:.2f} to {high:.2f}"
        )
