"""The table of finished runs: means and spreads by hand, nothing averaged over what is missing."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest

from capaboost_vit.study.runs import collect, markdown, method_name, table, write_report

LORA = [{"method": "lora", "rank": 8, "alpha": 8.0, "num_branches": 2, "density": None, "pattern": "random"}]
GLUE = ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte"]
METRICS = {"cola": ["matthews"], "mrpc": ["accuracy", "f1"], "qqp": ["accuracy", "f1"], "stsb": ["pearson", "spearman"]}


@pytest.fixture
def write(tmp_path):
    """Writes the result of a run into a folder below `tmp_path`; options are those of its configuration."""

    def write(where, scores, *, task="rte", method=LORA, trained=1000, sha="x", **options):
        folder = tmp_path / where
        folder.mkdir(parents=True)
        config = {
            "model": "hub/roberta-base",
            "task": task,
            "dapt_data": None,
            "data": "hub",
            "seed": 0,
            "output": str(folder),
            "lr": 1e-3,
        }
        config |= options
        found = {f"test_{name}": value for name, value in scores.items()}
        found |= {"val_accuracy": 99.0, "config": config, "method": method, "train_seconds": 1.0}
        found |= {"parameters": {"trained": trained, "total": 5000}}
        found["data"] = {"spec": config["data"], "splits": {"train": {"examples": 5, "sha256": sha}}}
        if task is None:
            del config["task"], config["dapt_data"]
        (folder / "result.json").write_text(json.dumps(found))

    return write


def lines(tmp_path):
    head, rows = table(collect([tmp_path]))
    return [dict(zip(head, row, strict=True)) for row in rows]


def glue(write, where, *, leave_out=(), shift=0.0, **options):
    """Runs of all tasks; the scores of the 11 numbers are 50, 51, ..., 60, and the sum of their shifts."""
    number = 50
    for task in GLUE:
        scores = {}
        for name in METRICS.get(task, ["accuracy"]):
            scores[name] = number + shift
            number += 1
        if task not in leave_out:
            write(f"{where}/{task}", {**scores, "right": 3, "total": 5}, task=task, **options)


# cells


def test_a_cell_is_mean_and_standard_deviation_over_the_seeds(write, tmp_path):
    scores = [71.5, 70.0, 74.25]
    for seed, value in enumerate(scores):
        write(f"a/{seed}", {"accuracy": value, "right": 1, "total": 2}, seed=seed)
    (line,) = lines(tmp_path)
    mean = sum(scores) / 3
    spread = (sum((value - mean) ** 2 for value in scores) / 2) ** 0.5
    assert line == {
        "method": "capaboost-lora r8 d2 random",
        "trained": "1,000",
        "rte": f"{mean:.2f} ± {spread:.2f} (3)",
    }


def test_two_metrics_stand_behind_each_other(write, tmp_path):
    for seed, (accuracy, f1) in enumerate([(80.0, 90.0), (82.0, 91.0)]):
        write(f"{seed}", {"f1": f1, "accuracy": accuracy}, task="mrpc", seed=seed)
    (line,) = lines(tmp_path)
    assert line["mrpc"] == f"81.00/90.50 ± {statistics.stdev([80, 82]):.2f}/{statistics.stdev([90, 91]):.2f} (2)"


def test_one_run_has_no_spread_and_none_is_a_dash(write, tmp_path):
    write("a", {"accuracy": 61.125}, task="rte")
    write("b", {"matthews": 0.0}, task="cola", method=[{"method": "head"}], trained=7)
    first, second = lines(tmp_path)
    assert list(first) == ["method", "trained", "cola", "rte"]
    assert (first["cola"], first["rte"]) == ("-", "61.12")
    assert (second["method"], second["cola"], second["rte"]) == ("head", "0.00", "-")


def test_other_scores_of_a_task_are_not_in_its_cell(write, tmp_path):
    write(
        "a",
        {"accuracy": 80.0, "mismatched_accuracy": 10.0, "right": 8, "total": 10, "mismatched_right": 1},
        task="mnli",
    )
    scores = {"exact_match": 60.0, "f1": 70.0, "has_answer_f1": 1.0, "no_answer_exact_match": 2.0}
    write("b", scores, task="squad_v2")
    (line,) = lines(tmp_path)
    assert (line["mnli"], line["squad_v2"]) == ("80.00", "60.00/70.00")


def test_numbers_of_trained_parameters_that_differ_are_a_range(write, tmp_path):
    for task, trained in (("rte", 1538), ("mnli", 2307), ("stsb", 769)):
        write(task, dict.fromkeys(METRICS.get(task, ["accuracy"]), 50.0), task=task, trained=trained)
    assert lines(tmp_path)[0]["trained"] == "769 to 2,307"


# rows and columns


def test_columns_come_in_the_order_of_glue_then_of_the_other_tasks_then_by_name(write, tmp_path):
    for task in ("imdb", "squad", "rte", "cola", "chemprot"):
        names = {"cola": ["matthews"], "squad": ["exact_match", "f1"], "chemprot": ["micro_f1"], "imdb": ["macro_f1"]}
        write(task, dict.fromkeys(names.get(task, ["accuracy"]), 1.0), task=task)
    for data in ("digits:5-9", "/some/where/eurosat"):
        write(data.replace("/", "_"), {"accuracy": 2.0}, task=None, data=data)
    head, _ = table(collect([tmp_path]))
    assert head[2:] == ["cola", "rte", "squad", "chemprot", "imdb", "digits:5-9", "eurosat"]


def test_data_of_ones_own_are_not_averaged_with_others(write, tmp_path):
    data = [("/a/opinions", "a"), ("/a/letters", "b"), ("/b/opinions", "a"), ("/c/opinions", "c")]
    for i, (spec, sha) in enumerate(data):
        scores = {"accuracy": 10.0 * i, "macro_f1": 5.0}
        write(str(i), scores, task="classification", data=spec, seed=i, sha=sha)
    first, second = lines(tmp_path)
    assert list(first)[2:] == ["letters", "opinions"]
    assert (first["letters"], first["opinions"]) == ("10.00/5.00", "10.00/5.00 ± 14.14/0.00 (2)")
    assert (second["method"], second["opinions"]) == ("capaboost-lora r8 d2 random (2)", "30.00/5.00")


def test_models_have_a_column_where_there_are_several(write, tmp_path):
    write("a", {"accuracy": 1.0})
    write("b", {"accuracy": 2.0}, model="/local/roberta-base", seed=1)
    write("c", {"accuracy": 3.0}, model="bert-base")
    first, second, third = lines(tmp_path)
    assert [line["model"] for line in (first, second, third)] == ["roberta-base", "roberta-base", "bert-base"]
    assert [line["method"].endswith("(2)") for line in (first, second, third)] == [False, True, False]


def test_runs_that_differ_in_more_than_the_seed_are_numbered(write, tmp_path):
    write("a/1", {"accuracy": 1.0}, seed=1)
    write("a/2", {"accuracy": 3.0}, seed=2, device="cuda", output="elsewhere")
    write("b/1", {"accuracy": 5.0}, seed=1, lr=0.5)
    write("c/1", {"matthews": 7.0}, task="cola", lr=0.5)
    first, second = lines(tmp_path)
    assert (first["method"], first["rte"]) == ("capaboost-lora r8 d2 random", "2.00 ± 1.41 (2)")
    assert (second["method"], second["rte"]) == ("capaboost-lora r8 d2 random (2)", "5.00")
    assert (first["cola"], second["cola"]) == ("7.00", "-")  # each task counts its settings from one


# the average


def test_the_average_is_that_of_eleven_numbers(write, tmp_path):
    glue(write, "a")
    (line,) = lines(tmp_path)
    assert line["average of 11"] == f"{sum(range(50, 61)) / 11:.2f}" == "55.00"


def test_the_average_is_that_of_the_means_over_the_seeds(write, tmp_path):
    glue(write, "a/1", seed=1)
    glue(write, "a/2", seed=2, shift=3.0, leave_out=["rte"])
    (line,) = lines(tmp_path)
    assert line["average of 11"] == f"{(sum(range(50, 60)) + 10 * 1.5 + 60) / 11:.2f}"


@pytest.mark.parametrize("task", GLUE)
def test_there_is_no_average_where_a_task_is_missing(write, tmp_path, task):
    glue(write, "a", method=[{"method": "head"}])
    glue(write, "b", leave_out=[task])
    head, lora = lines(tmp_path)
    assert (head["average of 11"], lora["average of 11"]) == ("55.00", "-")


def test_a_table_that_lacks_a_task_has_no_average(write, tmp_path):
    glue(write, "a", leave_out=["qnli"])
    assert "average of 11" not in lines(tmp_path)[0]


# names


@pytest.mark.parametrize(
    ("methods", "name"),
    [
        (LORA, "capaboost-lora r8 d2 random"),
        ([{**LORA[0], "num_branches": 4, "pattern": "sign"}], "capaboost-lora r8 d4 sign"),
        ([{**LORA[0], "num_branches": 1, "density": 1.0}], "lora r8"),
        ([{**LORA[0], "num_branches": 1, "density": 1.0, "dropout": 0.1}], "lora r8 dropout 0.1"),
        ([{**LORA[0], "rescale": "norm"}], "capaboost-lora r8 d2 random rescaled by norm"),
        ([{**LORA[0], "num_branches": 1}], "capaboost-lora r8 d1"),  # masked, but not tied
        ([{**LORA[0], "num_branches": 1, "density": 0.25}], "capaboost-lora r8 d1 s0.25"),
        ([{**LORA[0], "density": 1.0}], "capaboost-lora r8 d2 s1"),  # tied, but not masked
        ([{**LORA[0], "density": 0.5}], "capaboost-lora r8 d2 random"),
        ([{**LORA[0], "pattern": "sign", "coefficients": "rank"}], "capaboost-lora r8 d2"),  # the default
        ([{**LORA[0], "density": 1.0, "coefficients": "rank"}], "capaboost-lora r8 d2 coefficients by rank s1"),
        ([{**LORA[0], "num_branches": 1, "pattern": "sign", "share_blocks": 4}], "capaboost-lora r8 d1 sign g4"),
        (
            [{"method": "adapter", "bottleneck": 64, "num_branches": 2, "pattern": "random"}],
            "capaboost-adapter w64 d2 random",
        ),
        (
            [{"method": "prefix", "prefix_length": 64, "bottleneck": 512, "num_branches": 2, "pattern": "2:4"}],
            "capaboost-prefix w512 p64 d2 2:4",
        ),
        (
            [{"method": "prefix", "prefix_length": 10, "bottleneck": None, "num_branches": 1, "pattern": "random"}],
            "prefix p10",
        ),
        ([{"method": "prompt", "prompt_length": 5, "num_branches": 1, "pattern": "random"}], "prompt p5"),
        ([{"method": "unipelt", "parts": ["lora", "prefix", "adapter"], "rank": 8, "num_branches": 1}], "unipelt"),
        (
            [{"method": "unipelt", "parts": ["lora", "prefix", "adapter", "prompt"], "num_branches": 1}],
            "unipelt-prompt",
        ),
        ([{"method": "unipelt", "parts": ["ia3", "adapter"], "num_branches": 1}], "unipelt-ia3-no-lora-no-prefix"),
        (
            [{"method": "unipelt", "parts": ["lora", "prefix", "adapter"], "num_branches": 2, "pattern": "random"}],
            "capaboost-unipelt d2",
        ),
        ([{"method": "ia3"}], "ia3"),
        ([{"method": "head"}], "head"),
        ([*LORA, {"method": "bitfit"}], "capaboost-lora r8 d2 random + bitfit"),
        ([], "none"),
    ],
    ids=str,
)
def test_a_method_is_called_what_people_call_it(methods, name):
    assert method_name(methods) == name


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ({"name": "lora", "rank": 2, "num_branches": 3, "pattern": "sign"}, "capaboost-lora r2 d3 sign"),
        ({"name": "prefix", "prefix_length": 3, "bottleneck": 6, "shared": True}, "capaboost-prefix w6 p3 d2"),
        ({"name": "unipelt", "prefix_bottleneck": 8, "parts": ["lora", "prefix"]}, "unipelt-no-adapter"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_real_run_is_called_what_was_trained_also_after_folding(finished_text, method, name):
    folder, found = finished_text("opinions", method=method, epochs=1)
    (run,) = collect([folder])
    assert (run.model, run.method, run.task, run.seed) == ("bert", name, "opinions", 0)
    assert run.scores == {"accuracy": found["test_accuracy"], "macro_f1": found["test_macro_f1"]}
    assert (run.trained, run.folder) == (found["parameters"]["trained"], folder)


def test_a_run_on_images_is_a_run_too(finished):
    folder, found = finished
    (run,) = collect([folder])
    assert (run.model, run.method) == ("vit_tiny_capaboost_lora", "capaboost-lora r8 d2")
    assert run.scores == {"accuracy": found["test_accuracy"]}


# what is collected, and written


def test_scores_of_tags_and_numbers_are_named_in_their_column(finished, tmp_path):
    result = json.loads((finished[0] / "result.json").read_text())
    result = {name: value for name, value in result.items() if not name.startswith("test")}
    result |= {"test": {"task": "regression"}, "test_r2": 0.94, "test_mae": 5.92}
    (tmp_path / "result.json").write_text(json.dumps(result))
    head, rows = table(collect([tmp_path]))
    assert (head[-1], rows[0][-1]) == (f"{Path(result['config']['data']).name} (r2/mae)", "0.94/5.92")


def test_stages_and_runs_without_a_test_score_are_left_out(write, tmp_path):
    write("run", {"accuracy": 1.0})
    write("run/dapt", {"accuracy": 2.0}, task="mlm")
    write("run/tapt", {"accuracy": 3.0}, task="mlm")
    write("other", {"accuracy": None}, task="sst2")
    assert [run.folder.name for run in collect([tmp_path])] == ["run"]


def test_what_cannot_be_collected_is_named(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder at .*nowhere"):
        collect([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no finished run \(result.json\) in .*empty"):
        collect([tmp_path / "empty"])
    write("a", {"accuracy": 1.0})
    path = tmp_path / "a" / "result.json"
    for content in ("", "[]", "{}", '{"config": 3}', path.read_text()[:-9], path.read_text().replace("1.0", '"x"', 1)):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"result\.json is not the result of a run \("):
            collect([tmp_path])


def test_a_table_is_written_as_its_suffix_says(write, tmp_path):
    write("a", {"accuracy": 61.0, "f1": 70.0}, task="mrpc")
    runs = collect([tmp_path])
    head, rows = table(runs)
    text = write_report(runs, tmp_path / "new folder" / "r.md").read_text()
    assert text == markdown(head, rows)
    assert text.splitlines() == [
        "| method | trained | mrpc |",
        "| --- | --- | --- |",
        "| capaboost-lora r8 d2 random | 1,000 | 61.00/70.00 |",
    ]
    with open(write_report(runs, tmp_path / "r.csv"), newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [head, *rows]
    (found,) = json.loads(write_report(runs, tmp_path / "r.json").read_text())
    assert found["scores"] == {"accuracy": 61.0, "f1": 70.0}
    assert (found["method"], found["task"], found["seed"], found["trained"]) == (
        "capaboost-lora r8 d2 random",
        "mrpc",
        0,
        1000,
    )
    assert found["folder"] == str(tmp_path / "a")
    with pytest.raises(ValueError, match=r"--output .*r\.txt: name a \.md, \.csv or \.json file"):
        write_report(runs, tmp_path / "r.txt")


def test_masks_that_follow_the_seed_as_in_a_study_make_no_other_row_and_others_do(write, tmp_path):
    for seed in (0, 1):
        write(f"study{seed}", {"accuracy": 50.0 + seed}, seed=seed, method=LORA, **{"lr": 1.0})
        path = tmp_path / f"study{seed}" / "result.json"
        content = json.loads(path.read_text())
        content["config"]["method"] = {"name": "lora", "mask_seed": seed}
        path.write_text(json.dumps(content))
    assert [line["rte"] for line in lines(tmp_path)] == ["50.50 ± 0.71 (2)"]
    content["config"]["method"]["mask_seed"] = 7
    path.write_text(json.dumps(content))
    assert len(lines(tmp_path)) == 2
