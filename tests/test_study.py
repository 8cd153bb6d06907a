"""docs/study.md says what its raw results say, and its picture is drawn from them."""

from __future__ import annotations

import json
import runpy
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from capaboost_vit.page.paired import bootstrap

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "study"
TEXT = (FOLDER.parent / "study.md").read_text()
TRIALS = [t for n in ("results.json", "rates.json") for t in json.loads((FOLDER / n).read_text())["trials"]]
CHOICES = json.loads((FOLDER / "results.json").read_text())["choices"]
TASKS = ("eurosat", "cifar100", "caltech101")


def cells():
    """Test accuracies by seed of all final trials, by (task, method, rescale, rate)."""
    found = defaultdict(dict)
    for trial in TRIALS:
        if trial["stage"] == "final":
            options = trial["options"]
            key = (trial["task"], trial["method"], options["method"].get("rescale"), options["lr"])
            found[key][trial["seed"]] = trial["test_accuracy"]
    return found


def chosen():
    """Of them those of the protocol, by (task, method): the rate is the one chosen on val."""
    tested, found = cells(), {}
    for key, choice in CHOICES.items():
        task, method, _ = key.split(" | ")
        found[task, method] = tested[task, method, None, choice["options"]["lr"]]
    return found


def rows(method):
    """The lines of the document's tables on a method."""
    return [row for row in TEXT.splitlines() if row.startswith(f"| `{method}`")]


def spread(values):
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def test_no_trial_stands_in_two_files_or_is_not_finished():
    assert len({trial["id"] for trial in TRIALS}) == len(TRIALS) > 200
    assert {trial["state"] for trial in TRIALS} == {"finished"}


def test_every_mean_of_the_raw_results_stands_in_the_text():
    for (task, method, rescale, _), seeds in cells().items():
        words = f", rescale {rescale} |" if rescale else "|"
        mine = [row for row in rows(method) if words in row]
        assert any(spread(seeds.values()) in row for row in mine), (task, method, spread(seeds.values()))


def test_every_method_of_the_protocol_has_five_seeds_a_rate_chosen_on_val_and_the_same_number_of_candidates():
    tried = defaultdict(set)
    for trial in TRIALS:
        if trial["stage"] == "candidate":
            assert trial["test_accuracy"] is None
            tried[trial["task"], trial["method"]].add((trial["options"]["lr"], trial["seed"]))
    for (task, method), seeds in chosen().items():
        assert sorted(seeds) == [0, 1, 2, 3, 4]
        family = "adapter" if "adapter" in method else "lora"
        assert family not in method or len(tried[task, method]) == len(tried[task, family])
        score = CHOICES[f"{task} | {method} | vit_tiny_patch16_224"]["score"]
        assert any(f", {score:.1f}" in row for row in rows(method)), (task, method, score)


def test_every_difference_and_its_interval_stand_in_the_text():
    found = chosen()
    text = " ".join(TEXT.split())
    for method in dict.fromkeys(method for _, method in found):
        reference = "adapter" if "adapter" in method else "lora"
        mine = [task for task in TASKS if (task, method) in found and method != reference]
        averages = [{task: 1.0} for task in mine]
        if len(mine) == len(TASKS):  # of tasks, and of groups: specialised, natural
            averages += [dict.fromkeys(TASKS, 1 / 3), dict(zip(TASKS, (1 / 2, 1 / 4, 1 / 4), strict=True))]
        for weights in averages:
            pairs = [[found[t, method][s] - found[t, reference][s] for s in range(5)] for t in weights]
            low, high = bootstrap(pairs, list(weights.values()))
            mean = sum(weight * statistics.fmean(pair) for weight, pair in zip(weights.values(), pairs, strict=True))
            assert f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" in text, (method, weights)


def test_the_mean_of_the_tasks_is_that_of_each_seed():
    found = chosen()
    complete = [m for m in dict.fromkeys(m for _, m in found) if all((task, m) in found for task in TASKS)]
    assert "lora" in complete
    for method in complete:
        means = [statistics.fmean(found[task, method][seed] for task in TASKS) for seed in range(5)]
        assert any(spread(means) in row for row in rows(method)), method


def test_the_capacities_in_the_text_are_those_measured():
    ranks = json.loads((FOLDER / "capacity.json").read_text())["ranks"]
    for name in ranks["8"]:
        held = [f"{100 * statistics.fmean(kinds[name]['full']):.1f}" for kinds in ranks.values()]
        assert any(all(h in line for h in held) for line in TEXT.splitlines() if line.startswith("|")), (name, held)


def test_the_picture_of_the_rates_is_drawn_from_the_raw_results(tmp_path, monkeypatch, capsys):
    files = [str(FOLDER / name) for name in ("results.json", "rates.json")]
    monkeypatch.setattr(
        sys, "argv", ["rates.py", *files, "--tasks", "eurosat", "caltech101", "--output", str(tmp_path / "rates.png")]
    )
    runpy.run_path(str(FOLDER / "rates.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert (tmp_path / "rates.png").stat().st_size > 10_000
    row = next(line for line in said if line.startswith("| capaboost_lora_sign_d4 | 0.006 |"))
    size = 2.0  # sqrt(E[C^2]) of four sign masks
    assert row.split(" | ")[2] == f"{0.006 * size:.4f}"
