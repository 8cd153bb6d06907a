"""Screening scores, chosen rates and the test of docs/study2.md, from the report.json of each size.

    python docs/study2/analysis.py docs/study2/r1.json docs/study2/r4.json

Prints Markdown. What is missing is counted, and nothing is averaged over it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

REFERENCE, CONTROLS = "lora", ("capaboost_lora", "gates", "loraplus", "rank_dropout")
SCREENED = (0.006, 0.012)  # rates
GOING_ON = 4
DRAWS = 10_000


def read_trials(files: list[str]) -> pd.DataFrame:
    """A line for each finished trial: size (the name of its file), method, task, stage, rate, seed and accuracies."""
    lines = [
        {"size": Path(file).stem, "lr": trial["options"]["lr"], **trial}
        for file in files
        for trial in json.loads(Path(file).read_text())["trials"]
        if trial["state"] == "finished"
    ]
    names = ["size", "method", "task", "stage", "lr", "seed", "val_accuracy", "test_accuracy"]
    return pd.DataFrame(lines).reindex(columns=names)


def rate_means(trials: pd.DataFrame, rates: tuple[float, ...] | None = None) -> pd.DataFrame:
    """Mean accuracy on val over all tasks, by (size, method) and rate; NaN where a task is missing."""
    candidates = trials[(trials.stage == "candidate") & (trials.seed == 0)]
    if rates is not None:
        candidates = candidates[candidates.lr.isin(rates)]
    cells = candidates.pivot_table(index=["size", "method"], columns=["lr", "task"], values="val_accuracy")
    tasks = candidates.task.unique()
    by_rate = {rate: cells[rate].reindex(columns=tasks) for rate in sorted(candidates.lr.unique())}
    return pd.DataFrame({rate: cell.mean(axis=1).where(cell.notna().all(axis=1)) for rate, cell in by_rate.items()})


def screening(trials: pd.DataFrame) -> pd.DataFrame:
    """The best rate's mean minus plain LoRA's at the same size, and the mean of that over the sizes of a method."""
    means = rate_means(trials, SCREENED)
    best = means.max(axis=1).where(means.notna().sum(axis=1) == len(SCREENED)).unstack("size")
    scores = best - best.loc[REFERENCE]
    scores["score"] = scores.mean(axis=1)
    return scores.sort_values("score", ascending=False)


def differences(finals: pd.DataFrame, method: str, reference: str = REFERENCE) -> pd.DataFrame:
    """Test accuracy minus the reference's, paired: a row for each (size, task), a column for each seed."""
    cells = finals.pivot_table(index=["size", "task"], columns=["method", "seed"], values="test_accuracy")
    return (cells[method] - cells[reference]).dropna(axis=1)


def bootstrap(cells: pd.DataFrame, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Means under a paired hierarchical bootstrap: tasks with replacement, seeds within each, all sizes alike."""
    tasks = [group.to_numpy().mean(0) for _, group in cells.groupby("task")]  # over sizes, by seed
    values = np.stack(tasks)
    random = np.random.RandomState(seed)
    drawn = values[random.randint(len(values), size=(draws, len(values)))]  # (draws, tasks, seeds)
    picked = random.randint(values.shape[1], size=drawn.shape)
    return np.take_along_axis(drawn, picked, axis=2).mean(axis=(1, 2))


def interval(means: np.ndarray) -> str:
    low, high = np.percentile(means, [2.5, 97.5])
    return f"[{low:+.2f}, {high:+.2f}]"


def describe(trials: pd.DataFrame) -> Iterator[str]:
    """The tables, as Markdown."""
    candidates = trials[trials.stage == "candidate"]
    if len(candidates):
        scores = screening(trials)
        yield f"## Screening: points above plain LoRA on val\n\n{markdown(scores.round(2))}"
        going_on = scores.drop(index=[REFERENCE, *CONTROLS], errors="ignore").score.dropna()[:GOING_ON]
        yield f"Going on: {', '.join(going_on.index) or 'nobody yet'}."
        yield f"## Rates: mean accuracy on val\n\n{markdown(rate_means(trials).round(2))}"
    finals = trials[trials.stage == "final"]
    if not len(finals):
        return
    rows = {}
    for method in finals.method.unique():
        if method != REFERENCE:
            cells = differences(finals, method)
            means = bootstrap(cells)
            sizes = {size: f"{cells.loc[size].to_numpy().mean():+.2f}" for size in cells.index.unique("size")}
            rows[method] = {"both sizes": f"{cells.to_numpy().mean():+.2f} {interval(means)}", **sizes}
            # Holm's correction is over the two-sided p of these
            rows[method] |= {"p": 2 * min((means <= 0).mean(), (means >= 0).mean()), "seeds": cells.shape[1]}
    yield f"## Finals: test accuracy minus plain LoRA's\n\n{markdown(pd.DataFrame(rows).T)}"
    by_task = finals.pivot_table(index=["size", "method"], columns="task", values="test_accuracy")
    yield f"## Finals: mean test accuracy\n\n{markdown(by_task.round(2))}"


def markdown(table: pd.DataFrame) -> str:
    flat = table.reset_index()
    rows = [flat.columns, ["---"] * len(flat.columns), *flat.astype(object).where(flat.notna(), "").to_numpy()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("reports", nargs="+", help="report.json of a size, named after it")
    print("\n\n".join(describe(read_trials(parser.parse_args().reports))))


if __name__ == "__main__":
    main()
