"""One process against several: the arithmetic of the efficiency, and two real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from capaboost_vit.bench import processes as module
from capaboost_vit.bench.loop import build_run, read_all, settings
from capaboost_vit.bench.loop_config import ProcessesConfig
from capaboost_vit.bench.processes import Case, cases_of, measure_processes, torchrun
from capaboost_vit.bench.report import table_of
from capaboost_vit.bench.timing import Budget
from capaboost_vit.bench.worker import work
from capaboost_vit.training.distributed import ProcessGroup

TINY = {
    "model": "vit_tiny_capaboost_lora",
    "model_kwargs": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "img_size": 16,
    "device": "cpu",
    "batch_size": 6,
}
ALONE, EACH, ALL = Case(1, 6), Case(2, 12), Case(2, 6)


class Launches:
    """In the place of torchrun: seconds per update by case and round, after two of warm-up."""

    def __init__(self, seconds):
        self.seconds, self.asked, self.seen = seconds, [], []

    def __call__(self, options, processes, timeout):
        case = Case(processes, options["train"]["batch_size"])
        self.asked.append(options)
        self.seen.append(case)
        middle = self.seconds[case][self.seen.count(case) - 1]
        seconds = [100.0, 100.0, middle, middle / 2, 2 * middle]
        busy = [second / 4 for second in seconds]
        return {"device": "cpu", "seconds": seconds, "cpu_seconds": busy, "trained_bytes": 4000}


def measure(launch, budget=None, **options):
    config = ProcessesConfig(**{**TINY, "updates": 3, "warmup": 2, **options})
    return measure_processes(config, command="bench", say=lambda text: None, launch=launch, budget=budget)


def test_a_number_of_processes_is_measured_with_as_many_images_each_and_in_all():
    assert cases_of((1, 2, 4), 8) == [Case(1, 8), Case(2, 16), Case(2, 8), Case(4, 32), Case(4, 8)]
    assert cases_of((2,), 8)[0] == Case(1, 8)


def test_efficiency_by_hand():
    launch = Launches({ALONE: [3.0, 2.0, 2.0], EACH: [4.0, 4.0, 2.0], ALL: [1.5, 2.0, 4.0]})
    result = measure(launch)
    assert launch.seen == [ALONE, EACH, ALL] * 3
    one, each, whole = result["cases"]
    # images per second: 2, 3, 3 alone; 3, 3, 6 with six images each; 4, 3, 1.5 with six in all
    assert one["images_per_second"] == each["images_per_second"] == whole["images_per_second"] == 3.0
    assert (one["efficiency"], one["efficiency_quartiles"]) == (1.0, [1.0, 1.0])
    # of the ratios 3/4, 3/6, 6/6 and 4/4, 3/6, 1.5/6
    assert (each["efficiency"], each["efficiency_quartiles"]) == (0.75, [0.625, 0.875])
    assert (whole["efficiency"], whole["efficiency_quartiles"]) == (0.5, [0.375, 0.75])
    assert (one["reduced_bytes"], each["reduced_bytes"]) == (0, 4000)
    assert (each["per_process"], whole["per_process"]) == (6, 3)
    assert (each["update"]["median"], each["cpu_seconds"]) == (4.0, 1.0)
    assert re.search(r"^2 +6 +12 +4000\.0 +1000\.0 +3\.0 +0\.750 +0\.125 +4\.0$", table_of(result), re.MULTILINE)


def test_all_launches_have_the_same_options_and_threads():
    launch = Launches({ALONE: [1.0], EACH: [1.0], ALL: [1.0], Case(3, 18): [1.0], Case(3, 6): [1.0]})
    result = measure(launch, repetitions=1, processes=(3, 1), threads=5)
    assert {options["threads"] for options in launch.asked} == {result["threads"]} == {5}
    assert {options["train"]["max_steps"] for options in launch.asked} == {5}
    assert [case["processes"] for case in result["cases"]] == [1, 3, 3]
    assert json.loads(json.dumps(result))["kind"] == "processes"


def test_the_cores_are_divided_among_the_most_processes(monkeypatch):
    monkeypatch.setattr(module.os, "cpu_count", lambda: 16)
    seconds = {Case(n, size): [1.0] for n in (1, 4) for size in (6, 6 * n)}
    assert measure(Launches(seconds), repetitions=1, processes=(4,))["threads"] == 4


def test_more_processes_than_gpus_are_left_out(monkeypatch):
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 1)
    counts = module._counts(ProcessesConfig(), torch.device("cuda"))
    assert counts == ((1,), ["2 processes: GPUs here: 1"])
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 8)
    assert module._counts(ProcessesConfig(), torch.device("cuda")) == ((1, 2, 8), [])


def test_no_time_left_is_said():
    result = measure(Launches({}), budget=Budget(0), repetitions=1)
    assert result["cases"] == []
    assert "- round 1, 2 processes, updates of 12: no time left" in table_of(result)


@pytest.mark.parametrize("options", [{"processes": (0,)}, {"threads": 0}, {"updates": 0}])
def test_a_number_below_one_is_refused(options):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        ProcessesConfig(**options)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Traceback\n  x\nValueError: no model\nChildFailedError: \n", "ValueError: no model"),
        ("[rank1]: Traceback\n[rank1]: torch.OutOfMemoryError: CUDA out\n", "torch.OutOfMemoryError: CUDA out"),
        ("Killed\n", "Killed"),
    ],
)
def test_the_first_error_is_the_reason(said, reason):
    assert module._reason(said) == reason


def test_all_images_are_read_before_the_first_update():
    config = settings(ProcessesConfig(**TINY), batch_size=6)
    run = build_run(config, torch.device("cpu"), classes=3, images=20, world=ProcessGroup(1, 2))
    read_all(run.train)
    assert run.train.cache.filled == {*range(20)}


def options_of(**more):
    train = {**TINY, "max_steps": 4, "method": {}, **more}
    return {"train": train, "classes": 3, "threads": 1}


def test_the_worker_alone_writes_every_update(tmp_path):
    work(options_of(), tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text())
    assert len(found["seconds"]) == len(found["cpu_seconds"]) == 4
    assert min(found["seconds"] + found["cpu_seconds"]) > 0


@pytest.mark.slow
def test_two_real_processes():
    found = torchrun(options_of(), 2, 120)
    run = build_run(settings(ProcessesConfig(**TINY), batch_size=6), torch.device("cpu"), classes=3, images=6)
    trained = sum(p.numel() for p in run.state.model.parameters() if p.requires_grad)
    assert len(found["seconds"]) == 4
    assert found["trained_bytes"] == 4 * trained


@pytest.mark.slow
def test_a_failure_is_told_by_its_first_error():
    with pytest.raises(ChildProcessError, match="2 processes failed with 1: ValueError: timm has no model 'vit_tinny'"):
        torchrun(options_of(model="vit_tinny"), 2, 120)


def test_a_launch_that_takes_too_long_is_ended(monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(module.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(ChildProcessError, match=r"2 processes have not ended after 0\.1 s"):
        torchrun(options_of(), 2, 0.1)
    assert started[0].poll() is not None


REDUCED = """
import sys
import torch.distributed as dist
from capaboost_vit.bench.loop import build_run, settings
from capaboost_vit.bench.loop_config import ProcessesConfig
from capaboost_vit.training.distributed import ProcessGroup, parallel
import torch

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
config = settings(ProcessesConfig(**eval(sys.argv[2])), batch_size=6)
run = build_run(config, torch.device("cpu"), classes=3, images=6)
model = parallel(run.state.model, ProcessGroup(0, 2), torch.device("cpu"))
sizes = []

def reduce(state, bucket):
    sizes.append(bucket.buffer().nbytes)
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future

model.register_comm_hook(None, reduce)
model(torch.randn(2, 3, 16, 16)).sum().backward()
print(sum(sizes), sum(p.nbytes for p in run.state.trained()))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_what_is_reduced_are_the_gradients_of_the_trained_parameters(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", REDUCED, str(tmp_path), repr(TINY)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    reduced, trained = map(int, done.stdout.split())
    assert reduced == trained > 0
