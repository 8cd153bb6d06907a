"""docs/study.md and its details say what their raw results say, and the picture is drawn from them."""

from __future__ import annotations

import json
import runpy
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from capaboost_vit.study.page.grid import bootstrap

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "study"
TEXT = "\n".join((FOLDER.parent / name).read_text() for name in ("study.md", "study_details.md"))
TASKS = ("eurosat", "cifar100", "caltech101")
CHOSEN = ("results.json", "remedies.json")  # where rates were chosen on val; seeds 0 to 4 of each method


def read(name, part="trials"):
    return json.loads((FOLDER / name).read_text())[part]


TRIALS = [trial for name in (*CHOSEN, "rates.json") for trial in read(name)]


def reference_of(method):
    """What a method is compared with: the plain method of its place and rank."""
    for twin in ("lora_all", "lora_r1"):
        if method == f"capaboost_{twin}":
            return twin
    return "adapter" if "adapter" in method else "lora"


def cells():
    """Test accuracies by seed of all final trials, by (task, method, what is set beside the method's file, rate)."""
    found = defaultdict(dict)
    for trial in TRIALS:
        if trial["stage"] == "final":
            method, rate = trial["options"]["method"], trial["options"]["lr"]
            changed = ""
            if method.get("rescale"):
                changed = f"rescale {method['rescale']}"
            elif method.get("alpha") != method.get("rank"):
                changed = f"alpha {method['alpha']:g}"
            found[trial["task"], trial["method"], changed, rate][trial["seed"]] = trial["test_accuracy"]
    return found


def chosen():
    """Of them those of the protocol, by (task, method): the rate is the one chosen on val."""
    tested, found = cells(), {}
    for name in CHOSEN:
        for key, choice in read(name, "choices").items():
            task, method, _ = key.split(" | ")
            found[task, method] = tested[task, method, "", choice["options"]["lr"]]
    return found


def rows(method):
    """The lines of the document's tables on a method."""
    return [row for row in TEXT.splitlines() if row.startswith(f"| `{method}`")]


def spread(values):
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def difference(ones, others, weights):
    """Mean and interval of the seeds' differences, averaged over tasks, as the document writes them."""
    pairs = [[one[seed] - other[seed] for seed in one] for one, other in zip(ones, others, strict=True)]
    low, high = bootstrap(pairs, weights)
    mean = sum(weight * statistics.fmean(pair) for weight, pair in zip(weights, pairs, strict=True))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def test_no_trial_stands_in_two_files_or_is_not_finished():
    assert len({trial["id"] for trial in TRIALS}) == len(TRIALS) > 200
    assert {trial["state"] for trial in TRIALS} == {"finished"}


def test_every_mean_of_the_raw_results_stands_in_the_text():
    for (task, method, changed, _), seeds in cells().items():
        words = f", {changed} |" if changed else "|"
        mine = [row for row in rows(method) if words in row]
        assert any(spread(seeds.values()) in row for row in mine), (task, method, spread(seeds.values()))


def test_every_method_of_the_protocol_has_its_seeds_and_its_score_on_val_stands_in_the_text():
    found = chosen()
    for name in CHOSEN:
        for key, choice in read(name, "choices").items():
            task, method, _ = key.split(" | ")
            assert sorted(found[task, method]) == list(range(5))
            assert any(f", {choice['score']:.1f}" in row for row in rows(method)), (task, method, choice["score"])


def test_a_rate_was_chosen_among_as_many_candidates_as_that_of_the_method_it_is_compared_with_in_its_file():
    for name in CHOSEN:
        tried = defaultdict(set)
        for trial in read(name):
            if trial["stage"] == "candidate":
                assert trial["test_accuracy"] is None
                tried[trial["task"], trial["method"]].add((trial["options"]["lr"], trial["seed"]))
        for task, method in tried:
            twin = (task, reference_of(method))
            if method not in {"head", "full"} and twin in tried:
                assert len(tried[task, method]) == len(tried[twin]), (task, method)


def test_every_difference_and_its_interval_stand_in_the_text():
    found = chosen()
    text = " ".join(TEXT.split())
    for method in dict.fromkeys(method for _, method in found):
        reference = reference_of(method)
        mine = [task for task in TASKS if (task, method) in found and method != reference]
        averages = [{task: 1.0} for task in mine]
        if len(mine) == len(TASKS):  # of tasks, and of groups: specialised, natural
            averages += [dict.fromkeys(TASKS, 1 / 3), dict(zip(TASKS, (1 / 2, 1 / 4, 1 / 4), strict=True))]
        for weights in averages:
            ones, others = ([found[task, name] for task in weights] for name in (method, reference))
            assert difference(ones, others, list(weights.values())) in text, (method, weights)


def test_the_differences_of_adapters_at_one_rate_are_those_of_the_raw_results():
    tested = cells()
    table = TEXT.partition("| method, minus the plain adapter at the same rate |")[2].partition("\n\n")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(lines) >= 7
    for line in lines:
        method, *differences, mean = (cell.strip(" `") for cell in line.strip("|").split("|"))
        ones, others = [], []
        for task, told in zip(TASKS, differences, strict=True):
            if told:
                rate = float(told.rpartition(", ")[2])
                one, other = (tested[task, name, "", rate] for name in (method, "adapter"))
                assert len(one.keys() & other.keys()) >= 3
                ones.append({seed: one[seed] for seed in one.keys() & other.keys()})
                others.append({seed: other[seed] for seed in one.keys() & other.keys()})
                assert told == f"{difference(ones[-1:], others[-1:], [1.0])}, {told.rpartition(', ')[2]}"
        if len(ones) == len(TASKS):
            assert mean == f"**{difference(ones, others, [1 / 3] * 3)}**"
    for (task, method, changed, rate), one in tested.items():
        other = tested.get((task, "adapter", changed, rate), {})
        if reference_of(method) == "adapter" != method and one.keys() <= other.keys():  # none of them is left out
            told = difference([one], [{seed: other[seed] for seed in one}], [1.0])
            assert any(f"{told}, {rate * 1000:g}e-3" in line for line in lines if f"`{method}`" in line), (task, method)


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
