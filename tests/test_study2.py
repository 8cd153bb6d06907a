"""The analysis of docs/study2.md: scores, choices and the bootstrap of made-up trials."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "study2" / "analysis.py"
TASKS = [f"task{i}" for i in range(7)]


@pytest.fixture
def analysis(tmp_path, monkeypatch):
    """The script's names."""
    return runpy.run_path(str(SCRIPT))


def candidate(method, task, lr, accuracy):
    line = {"method": method, "task": task, "stage": "candidate", "seed": 0, "state": "finished"}
    return {**line, "options": {"lr": lr}, "val_accuracy": accuracy, "test_accuracy": None}


def final(method, task, seed, accuracy):
    line = {"method": method, "task": task, "stage": "final", "seed": seed, "state": "finished"}
    return {**line, "options": {"lr": 0.01}, "val_accuracy": None, "test_accuracy": accuracy}


def write(path, trials):
    path.write_text(json.dumps({"trials": trials}))
    return str(path)


def test_a_method_is_screened_by_its_best_rate_over_all_tasks_at_each_size(analysis, tmp_path):
    files = []
    for size, bonus in (("r1", 2.0), ("r4", 1.0)):
        trials = [candidate("lora", t, lr, 50 + (lr == 0.012)) for t in TASKS for lr in (0.006, 0.012)]
        trials += [candidate("better", t, lr, 51 + bonus * (lr == 0.006)) for t in TASKS for lr in (0.006, 0.012)]
        trials += [candidate("better", t, 0.018, 99) for t in TASKS]  # a rate of the next step
        trials += [candidate("unfinished", t, 0.006, 90) for t in TASKS]
        files.append(write(tmp_path / f"{size}.json", trials))
    scores = analysis["screening"](analysis["read_trials"](files))
    assert scores.loc["better"].to_dict() == {"r1": 2.0, "r4": 1.0, "score": 1.5}
    assert scores.loc["lora"].to_dict() == {"r1": 0.0, "r4": 0.0, "score": 0.0}
    assert np.isnan(scores.loc["unfinished", "score"])


def test_the_bootstrap_draws_tasks_and_seeds_and_pairs_both(analysis, tmp_path):
    random = np.random.RandomState(0)
    noise = {(t, s): random.normal(0, 5) for t in TASKS for s in range(5)}
    effect = {task: 1 + 0.5 * i for i, task in enumerate(TASKS)}
    trials = [final("lora", t, s, 60 + noise[t, s]) for t in TASKS for s in range(5)]
    trials += [final("better", t, s, 60 + noise[t, s] + effect[t]) for t in TASKS for s in range(5)]
    trials += [final("better", t, 5, 0.0) for t in TASKS]  # lora has no such seed
    cells = analysis["differences"](analysis["read_trials"]([write(tmp_path / "r1.json", trials)]), "better")
    assert cells.shape == (7, 5)
    means = analysis["bootstrap"](cells)
    # what seeds have in common is paired away, and what is left is the spread of the effects over tasks
    assert means.mean() == pytest.approx(2.5, abs=0.02)
    assert means.std() == pytest.approx(np.std([*effect.values()]) / np.sqrt(7), rel=0.03)


def test_the_script_prints_the_tables_of_all_steps(tmp_path, monkeypatch, capsys):
    trials = [candidate(m, t, lr, 50) for m in ("lora", "share4") for t in TASKS for lr in (0.006, 0.012)]
    trials += [final(m, t, s, 60 + (m == "share4")) for m in ("lora", "share4") for t in TASKS for s in range(5)]
    picture = tmp_path / "finals.png"
    monkeypatch.setattr(sys, "argv", ["analysis.py", write(tmp_path / "r4.json", trials), "--picture", str(picture)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr().out
    assert "Going on: share4." in said
    one = "+1.00 [+1.00, +1.00]"
    assert f"| share4 | {one} | {one} | {one} | 0.0 | 5 |" in said  # both sizes, r4, photographic
    assert picture.stat().st_size > 10_000


def test_the_tables_in_the_text_are_those_of_the_raw_results(monkeypatch, capsys):
    docs = SCRIPT.parent.parent
    files = [str(SCRIPT.parent / name) for name in ("r1.json", "r4.json")]
    monkeypatch.setattr(sys, "argv", ["analysis.py", *files])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) > 60
    text = "\n".join((docs / name).read_text() for name in ("study.md", "study2_details.md"))
    assert [row for row in rows if row not in text] == []
    primary = next(row for row in rows if row.startswith("| share12 | +")).split(" | ")[1]
    mean, _, interval = primary.partition(" ")
    low, high = (f"{float(end):+.1f}" for end in interval.strip("[]").split(", "))
    assert f"**+{float(mean):.1f} points above it, 95 % interval [{low}, {high}]**" in " ".join(text.split())
