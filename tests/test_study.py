"""docs/study.md says what its raw results say, and its picture is drawn from them."""

from __future__ import annotations

import json
import runpy
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "study"
TEXT = (FOLDER.parent / "study.md").read_text()


def cells(name):
    """Test accuracies of the finished final trials in a raw file, by (task, method, rescale, rate)."""
    found = defaultdict(list)
    for trial in json.loads((FOLDER / name).read_text())["trials"]:
        if (trial["stage"], trial["state"]) == ("final", "finished"):
            options = trial["options"]
            key = (trial["task"], trial["method"], options["method"].get("rescale"), options["lr"])
            found[key].append(trial["test_accuracy"])
    return found


@pytest.mark.parametrize("name", ["results.json", "rates.json"])
def test_every_mean_of_the_raw_results_stands_in_the_text(name):
    found = cells(name)
    assert len(found) > 7
    for (task, method, rescale, _), values in found.items():
        cell = f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"
        words = f", rescale {rescale} |" if rescale else "|"
        mine = [row for row in TEXT.splitlines() if row.startswith(f"| `{method}`") and words in row]
        assert any(cell in row for row in mine), (task, method, cell)


def test_the_capacities_in_the_text_are_those_measured():
    ranks = json.loads((FOLDER / "capacity.json").read_text())["ranks"]
    for name in ranks["8"]:
        held = [f"{100 * statistics.fmean(kinds[name]['full']):.1f}" for kinds in ranks.values()]
        assert any(all(h in line for h in held) for line in TEXT.splitlines() if line.startswith("|")), (name, held)


def test_the_picture_of_the_rates_is_drawn_from_the_raw_results(tmp_path, monkeypatch, capsys):
    files = [str(FOLDER / name) for name in ("results.json", "rates.json")]
    monkeypatch.setattr(sys, "argv", ["rates.py", *files, "--output", str(tmp_path / "rates.png")])
    runpy.run_path(str(FOLDER / "rates.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert (tmp_path / "rates.png").stat().st_size > 10_000
    row = next(line for line in said if line.startswith("| capaboost_lora_sign_d4 | 0.006 |"))
    size = 2.0  # sqrt(E[C^2]) of four sign masks
    assert row.split(" | ")[2] == f"{0.006 * size:.4f}"
