"""Screening scores, chosen rates and the test of docs/study2.md, from the report.json of each size.

    python docs/study2/analysis.py docs/study2/r1.json docs/study2/r4.json

Prints Markdown. What is missing is counted, and nothing is averaged over it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from capaboost_vit import training

RENDERED = ("location", "orientation", "count", "distance")
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
        yield f"## A rate for each set: mean accuracy on val\n\n{markdown(rate_per_task(trials).round(2))}"
    finals = trials[trials.stage == "final"]
    if not len(finals):
        return
    rows = {}
    for method in finals.method.unique():
        if method != REFERENCE:
            cells = differences(finals, method)
            rendered = cells.index.get_level_values("task").isin(RENDERED)
            parts = {size: cells.loc[[size]] for size in cells.index.unique("size")}
            parts |= {"rendered": cells[rendered], "photographic": cells[~rendered]}
            means = bootstrap(cells)
            rows[method] = {"both sizes": mean_and_interval(cells)}
            rows[method] |= {name: mean_and_interval(part) for name, part in parts.items() if len(part)}
            # Holm's correction is over the two-sided p of these
            rows[method] |= {"p": 2 * min((means <= 0).mean(), (means >= 0).mean()), "seeds": cells.shape[1]}
    yield f"## Finals: test accuracy minus plain LoRA's\n\n{markdown(pd.DataFrame(rows).T)}"
    yield f"## Finals: test accuracy, mean and standard deviation over the seeds\n\n{markdown(by_set(finals))}"


def by_set(finals: pd.DataFrame) -> pd.DataFrame:
    """A row for each task: accuracies of each size and method, and the mean over sizes of what they differ by."""
    cells = finals.pivot_table(
        index="task",
        columns=["size", "method"],
        values="test_accuracy",
        aggfunc=lambda values: f"{values.mean():.1f} ± {values.std():.1f}",
    )
    cells.columns = [f"{method}, {size}" for size, method in cells.columns]
    for method in finals.method.unique():
        if method != REFERENCE:
            cells[f"{method} minus {REFERENCE}"] = [
                f"{found.to_numpy().mean():+.1f}" for _, found in differences(finals, method).groupby("task")
            ]
    return cells


def rate_per_task(trials: pd.DataFrame) -> pd.DataFrame:
    """Mean over the tasks of each one's best accuracy on val, of methods with every rate; beside the one rate's."""
    candidates = trials[(trials.stage == "candidate") & (trials.seed == 0)]
    cells = candidates.pivot_table(index=["size", "method", "task"], columns="lr", values="val_accuracy")
    best = cells.max(axis=1).where(cells.notna().all(axis=1)).groupby(["size", "method"])
    means = best.mean().where(best.count() == candidates.task.nunique()).dropna()
    return pd.DataFrame({"one rate": rate_means(trials).max(axis=1), "a rate for each set": means}).dropna()


def mean_and_interval(cells: pd.DataFrame) -> str:
    return f"{cells.to_numpy().mean():+.2f} {interval(bootstrap(cells))}"


def draw(trials: pd.DataFrame, output: str) -> None:
    """Left: mean accuracy on val over the rate, a size each; right: differences of the finals by set."""
    finals = trials[trials.stage == "final"]
    compared = [REFERENCE, *(name for name in finals.method.unique() if name != REFERENCE)]
    means, sizes = rate_means(trials), sorted(trials["size"].unique())
    with matplotlib.style.context(Path(training.__file__).parent / "figures.mplstyle"):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        *over_rates, by_set = figure.subplots(1, len(sizes) + 1, width_ratios=[*[1] * len(sizes), 1.5])
        for axes, size in zip(over_rates, sizes, strict=True):
            axes.sharey(over_rates[0])
            for number, name in enumerate(compared):
                line = means.loc[(size, name)].dropna()
                axes.plot(1e3 * line.index, line, marker="os^v"[number], label=name)
            axes.set(title=f"{size}: one rate for all sets", xlabel="learning rate (1e-3)")
            axes.set_xticks(1e3 * line.index)
        over_rates[0].set_ylabel("accuracy on val, mean of the sets (%)")
        over_rates[0].legend()
        cells = differences(finals, compared[1])
        order = cells.groupby("task").mean().mean(axis=1).sort_values()
        for place, task in enumerate(order.index):
            for number, size in enumerate(sizes):
                label = f"{size}, by seed" if place == 0 else None
                values = cells.loc[(size, task)]
                height = [place + 0.15 - 0.3 * number] * len(values)
                by_set.plot(values, height, "os"[number], markerfacecolor="none", color=f"C{number + 2}", label=label)
            by_set.plot(order[task], place, "|", color="black", markersize=16, label="mean" if place == 0 else None)
        by_set.axvline(0, color="black", linewidth=0.8)
        by_set.set_yticks(range(len(order)), order.index)
        by_set.set(title=f"{compared[1]} minus {REFERENCE}", xlabel="test accuracy (points)")
        by_set.legend(loc="center left")
        figure.savefig(output, dpi=110)


def markdown(table: pd.DataFrame) -> str:
    flat = table.reset_index()
    rows = [flat.columns, ["---"] * len(flat.columns), *flat.astype(object).where(flat.notna(), "").to_numpy()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("reports", nargs="+", help="report.json of a size, named after it")
    parser.add_argument("--picture", help="a .png of the rates and of the finals")
    arguments = parser.parse_args()
    trials = read_trials(arguments.reports)
    print("\n\n".join(describe(trials)))
    if arguments.picture:
        draw(trials, arguments.picture)


if __name__ == "__main__":
    main()
