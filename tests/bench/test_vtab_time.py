"""The time of VTAB-1k: its arithmetic by hand, rounds of the real loop under a clock that counts, tasks run in full."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from capaboost_vit.bench import vtab_task, vtab_time
from capaboost_vit.bench.loop import Laps, Repeated, build_run, loop_clock, settings
from capaboost_vit.bench.loop_config import LoopWorkload, VtabTimeConfig
from capaboost_vit.bench.report import table_of, write_result
from capaboost_vit.bench.timing import Budget
from capaboost_vit.bench.vtab_time import extrapolate, goals_of, measure_vtab_time, summarise, update_sizes
from capaboost_vit.cli import main
from capaboost_vit.study.suites.vtab1k import TASKS, Vtab
from capaboost_vit.vision.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
CPU = torch.device("cpu")


class Counting:
    """A clock on which one second passes between any two marks."""

    name = "counting"

    def __init__(self):
        self.now = 0.0

    def settle(self):
        pass

    def mark(self):
        self.now += 1
        return self.now

    def between(self, start, stop):
        return stop - start


@pytest.fixture
def configure(tmp_path):
    def make(**options):
        values = {
            "model": "vit_tiny_capaboost_lora",
            "model_kwargs": TINY,
            "img_size": 16,
            "device": "cpu",
            "batch_size": 8,
            "train_images": 20,
            "validation_batch_size": 4,
            "updates": 1,
            "test_batches": 2,
            "repetitions": 2,
            "output": str(tmp_path / "results" / "time.json"),
        }
        return VtabTimeConfig(**{**values, **options})

    return make


@pytest.fixture
def two_tasks(monkeypatch):
    tasks = (Vtab("first", 3, 9), Vtab("second", 5, 14))
    monkeypatch.setattr(vtab_time, "TASKS", tasks)
    return tasks


def measure(config, **options):
    return measure_vtab_time(config, command="capaboost bench vtab-time", say=lambda text: None, **options)


@pytest.mark.parametrize(
    ("images", "sizes"), [(1000, [64] * 15 + [40]), (1024, [64] * 16), (40, [40])], ids=lambda value: str(value)[:12]
)
def test_an_epoch_ends_with_what_is_left_of_it(images, sizes):
    assert update_sizes(VtabTimeConfig(train_images=images)) == sizes


# the arithmetic


def entry(median, low, high):
    return {"median": median, "quartiles": [low, high]}


def test_extrapolation_by_hand():
    measured = {
        "updates": {"64": entry(2.0, 1.0, 4.0), "40": entry(1.0, 1.0, 2.0)},
        "test_batch": entry(4.0, 2.0, 5.0),
        "checkpoint": entry(0.5, 0.5, 1.0),
        "starts": [{"building": 7.0, "starting": 9.0}, {"building": 1.0, "starting": 2.0}],
    }
    config = VtabTimeConfig(epochs=3, train_images=168, validation_batch_size=10)  # 64, 64 and 40
    tasks = [Vtab("a", 2, 30), Vtab("b", 2, 20), Vtab("c", 2, 10)]
    found = extrapolate(measured, tasks, config)
    assert found["parts"] == {
        "training": 3 * 3 * (2 + 2 + 1),
        "test": 60 * 4 / 10,
        "checkpoints": 3 * 3 * 0.5,
        "building": 7 + 2 * 1,
        "starting": 9 + 2 * 2,
    }
    assert found["total"] == 45 + 24 + 4.5 + 9 + 13
    assert found["quartiles"] == [27 + 12 + 4.5 + 9 + 13, 90 + 30 + 9 + 9 + 13]


def laps(updates, evaluations, checkpoints):
    found = Laps(Counting())
    found.updates, found.evaluations, found.checkpoints = updates, evaluations, checkpoints
    return found


def test_what_a_start_takes_beyond_the_medians():
    first = laps([(8, 50.0), (4, 5.0), (8, 2.0), (4, 1.0), (8, 4.0), (4, 1.0)], [20.0, 6.0, 6.0], [1.0, 3.0])
    second = laps([(8, 2.5), (4, 1.0), (8, 3.0), (4, 1.0), (8, 3.0), (4, 1.0)], [6.0, 8.0, 4.0], [1.0, 1.0])
    found = summarise([(5.0, first), (1.0, second)], per_round=2, warmup=1, batches=2)
    assert {size: (one["median"], one["times"]) for size, one in found["updates"].items()} == {
        "8": (3.0, [2.0, 4.0, 3.0, 3.0]),
        "4": (1.0, [1.0, 1.0, 1.0, 1.0]),
    }
    assert (found["test_batch"]["median"], found["test_batch"]["times"]) == (3.0, [3.0, 3.0, 4.0, 2.0])
    assert found["checkpoint"]["median"] == 1.0
    # (50 - 3) + (5 - 1) and 20 - 2 * 3; the second start is quicker than the medians, which counts as nothing
    assert found["starts"] == [{"building": 5.0, "starting": 65.0}, {"building": 1.0, "starting": 0.0}]


def test_the_whole_of_vtab_when_everything_takes_a_second(configure, monkeypatch):
    monkeypatch.setattr(vtab_time, "loop_clock", lambda device, threads: Counting())
    config = configure(batch_size=64, train_images=1000, validation_batch_size=16)
    result = measure(config)
    assert {size: one["times"] for size, one in result["measured"]["updates"].items()} == {
        "64": [1.0] * 4,
        "40": [1.0] * 4,
    }
    assert result["time"]["parts"] == {
        "training": 30_400,  # 19 tasks, 100 epochs, 16 updates
        "test": 387_904 / 2 / 16,  # two batches of 16 in one second
        "checkpoints": 1_900,
        "building": 19,
        "starting": 0,
    }
    assert result["time"]["total"] == sum(result["time"]["parts"].values())
    assert result["time"]["quartiles"] == [result["time"]["total"]] * 2
    table = table_of(result)
    assert "Extrapolated, not run" in table
    assert re.search(r"^training +30,400 updates +8\.44 ", table, re.MULTILINE)
    assert "The goal of ten minutes is one for a GPU; this is a CPU." in table


def test_the_goal_is_answered_for_its_own_workload_alone():
    config = dataclasses.asdict(VtabTimeConfig())
    tasks = [task._asdict() for task in TASKS]
    right = {"config": config, "tasks": tasks, "device": "cuda", "full": {}, "time": {"total": 600.0}}
    (goal,) = goals_of(right)
    assert (goal.measure, goal.bound, goal.value, goal.met) == (
        "GPU: whole VTAB-1k, ViT-B/16, one seed (minutes), extrapolated",
        "<= 10",
        10.0,
        True,
    )
    (goal,) = goals_of({**right, "full": {"dtd": {}}, "time": {"total": 601.0}})
    assert (goal.measure, goal.met) == ("GPU: whole VTAB-1k, ViT-B/16, one seed (minutes)", False)
    assert goals_of({**right, "config": {**config, "img_size": 224}})
    for change in ({"model": "vit_small_capaboost_lora"}, {"img_size": 96}, {"epochs": 10}, {"batch_size": 128}):
        assert goals_of({**right, "config": {**config, **change}}) == []
    for change in ({"device": "cpu"}, {"time": None}, {"tasks": tasks[:18]}):
        assert goals_of({**right, **change}) == []


# the loop


def test_options_and_defaults_are_those_of_training():
    train = TrainConfig()
    for field in dataclasses.fields(LoopWorkload):
        if field.name != "budget":
            assert getattr(LoopWorkload(), field.name) == getattr(train, field.name), field.name
    for name in ("epochs", "validation_batch_size", "num_classes"):
        assert getattr(VtabTimeConfig(), name) == getattr(train, name)
    config = LoopWorkload(method={"rank": 4}, seed=3, amp=True, grad_accum_steps=2)
    made = settings(config, epochs=7)
    assert (made.method, made.seed, made.amp, made.grad_accum_steps, made.epochs) == ({"rank": 4}, 3, True, 2, 7)


def test_a_run_is_on_noise_of_the_asked_sizes(configure):
    run = build_run(
        settings(configure(), batch_size=8, validation_batch_size=4), CPU, classes=7, images=20, test_images=8
    )
    updates = list(run.train.epoch(0))
    assert [update.size for update in updates] == [8, 8, 4]
    (images, labels) = updates[0].batches[0]
    assert (images.dtype, images.shape) == (torch.uint8, (8, 3, 16, 16))
    assert len({image.sum().item() for image in images}) == 8
    assert 0 <= labels.min() <= labels.max() < 7
    assert run.state.model.num_classes == 7
    for count in (3, 8, 21):
        assert sum(len(labels) for _, labels in Repeated(run.test, count)) == count


def test_the_clock_of_one_cpu_thread_leaves_out_what_others_do():
    assert loop_clock(CPU, 1).name == "CPU time of the process"
    assert loop_clock(CPU, 2).name == loop_clock(torch.device("cuda"), 1).name == "wall time"


def test_no_time_left_is_said(configure):
    result = measure(configure(), budget=Budget(0))
    assert (result["measured"], result["time"], result["goals"]) == (None, None, [])
    assert "- start 2 of 2: no time left" in table_of(result)


@pytest.mark.slow
def test_heads_of_one_size_share_what_is_compiled(configure, monkeypatch):
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    task = vtab_task.train_task
    graphs = []

    def counted(*args, **kwargs):
        found = task(*args, **kwargs)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        return found

    monkeypatch.setattr(vtab_time, "train_task", counted)
    measure(configure(compile=True, num_classes=397))
    assert graphs[0] == graphs[1] > 0
    assert resets == []
    torch._dynamo.reset()


# in full


def test_every_task_has_all_its_updates_and_its_whole_test(configure, two_tasks):
    config = configure(full=True, epochs=4)
    result = measure(config)
    assert list(result["full"]) == ["first", "second"]
    for task in two_tasks:
        found = result["full"][task.name]
        assert (found["updates"], found["test_images"]) == (4 * 3, task.test_images)
        parts = sum(found[name] for name in ("building", "training", "checkpoints", "test"))
        assert found["total"] == pytest.approx(parts)
        assert all(value > 0 for value in found.values())
    assert result["time"]["total"] == sum(found["total"] for found in result["full"].values())
    assert "Run in full" in table_of(result)
    written = write_result(result, config.output)
    folder = Path(config.output).parent
    assert {path.name for path in folder.iterdir()} == {"time", "time.json", "time.md"}
    assert written == [folder / "time.json", folder / "time.md"]  # and no picture


def test_a_finished_task_is_not_run_again(configure, two_tasks, monkeypatch):
    config = configure(full=True, epochs=2)
    build = vtab_task.build_run
    built = []

    def failing(*args, **kwargs):
        built.append(kwargs["classes"])
        if len(built) == 2:
            raise RuntimeError("the power is gone")
        return build(*args, **kwargs)

    monkeypatch.setattr(vtab_task, "build_run", failing)
    with pytest.raises(RuntimeError, match="the power is gone"):
        measure(config)
    before = json.loads((Path(config.output).with_suffix("") / "first.json").read_text())
    result = measure(config)
    assert built == [3, 5, 5]
    assert result["full"]["first"] == {name: value for name, value in before.items() if name != "of"}
    again = measure(dataclasses.replace(config, tasks=("second",), updates=7))
    assert built == [3, 5, 5]
    assert again["full"] == {"second": result["full"]["second"]}


def test_a_task_that_was_measured_otherwise_is_refused_before_any_is_run(configure, two_tasks, monkeypatch):
    measure(configure(full=True, epochs=2, tasks=("second",)))
    monkeypatch.setattr(vtab_task, "build_run", None)
    with pytest.raises(
        ValueError, match=r"second\.json was measured otherwise \(batch_size, epochs\): move .*time away"
    ):
        measure(configure(full=True, epochs=3, batch_size=10))


def test_a_budget_leaves_whole_tasks_for_the_next_call(configure, two_tasks):
    config = configure(full=True, epochs=2)
    result = measure(dataclasses.replace(config, budget=0))
    assert (result["full"], result["time"]) == ({}, None)
    assert result["left_out"] == ["first: no time left", "second: no time left"]
    assert "- second: no time left" in table_of(result)
    assert measure(config)["left_out"] == []


# the commands


@pytest.mark.parametrize("name", ["epochs", "starts", "warmup", "updates", "threads"])
def test_a_number_below_one_is_refused(configure, name):
    with pytest.raises(ValueError, match=f"--{name} must be at least 1, got 0"):
        configure(**{name: 0})


def test_the_command_prints_the_table_and_writes_the_result(configure, tmp_path, capsys, two_tasks):
    config = configure(repetitions=1, starts=1)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({name: getattr(config, name) for name in ("model", "model_kwargs", "img_size")}))
    flags = ["--batch-size", "8", "--train-images", "20", "--updates", "1", "--repetitions", "1", "--starts", "1"]
    output = ["--device", "cpu", "--output", config.output]
    assert main(["bench", "vtab-time", "--config", str(path), *flags, *output]) == 0
    said = capsys.readouterr().out
    assert "2 tasks of VTAB-1k, 100 epochs of 20 images" in " ".join(said.split())
    assert f"written: {config.output}, " in said
    result = json.loads(Path(config.output).read_text())
    assert result["kind"] == "vtab-time"
    assert result["config"]["batch_size"] == 8


@pytest.mark.slow
def test_it_runs_where_only_torch_and_timm_are(configure, tmp_path):
    absent = ("jsonargparse", "rich", "matplotlib", "wrapt", "tensorboard", "datasets", "fvcore", "sklearn")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import runpy; sys.argv[0] = 'bench'; "
    code += "runpy.run_module('capaboost_vit.bench', run_name='__main__')"
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**dataclasses.asdict(configure()), "tasks": ["kitti"]}))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "vtab-time", str(tmp_path / "tiny.yaml"), "--set", "full=true"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "kitti" in done.stdout
    assert "no picture" not in done.stdout
