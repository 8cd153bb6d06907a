"""One run writes to a folder at a time; a run that was killed is in nobody's way."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from capaboost_vit import run as run_module
from capaboost_vit.run import train
from capaboost_vit.vision.config import TrainConfig

OPTIONS = {"method__dropout": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_second_process_is_refused_and_the_first_goes_on(lab, tmp_path, flag):
    output = tmp_path / "run"
    first = lab.start(output, **OPTIONS)
    assert first.until(lambda: 3 in first.updates)
    first.signal(signal.SIGSTOP)  # it lives long enough
    second = lab.start(output, flag, **OPTIONS)
    assert second.wait() == 2
    lines = second.said.splitlines()
    assert len(lines) == 1
    assert f"belongs to another run that is going on (process {first.pid} on " in lines[0]
    assert first.poll() is None
    first.signal(signal.SIGCONT)
    assert first.wait() == 0
    lab.same(output, lab.reference(**OPTIONS))


def test_the_process_that_resumes_is_the_one_that_is_named_and_its_state_is_running(lab, tmp_path):
    output = tmp_path / "run"
    first = lab.start(output, checkpoint_interval=100, **OPTIONS)
    assert first.until(lambda: 0 in first.updates)
    first.kill()
    second = lab.start(output, "--resume", checkpoint_interval=1, epochs=2, pause=0.2, **OPTIONS)
    assert second.until(lambda: "going on after" in second.said)
    # written, slowly, after that was said; the first one may have been killed before it wrote its own
    assert second.until(lambda: (output / "status.json").exists() and lab.status(output)["pid"] == second.pid)
    third = lab.start(output, "--resume", **OPTIONS)
    assert third.wait() == 2
    assert f"process {second.pid} on " in third.said
    assert lab.status(output)["status"] == "running"
    assert lab.status(output)["pid"] == second.pid


def test_the_loader_processes_of_a_killed_run_do_not_hold_the_folder(lab, tmp_path):
    output = tmp_path / "run"
    first = lab.start(output, workers=2, epochs=50, **OPTIONS)
    assert first.until(lambda: 6 in first.updates)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    assert len(children) >= 2
    first.kill()
    second = lab.start(output, "--resume", workers=2, epochs=50, **OPTIONS)
    assert second.until(lambda: "going on after" in second.said, 4), second.said
    assert all(Path("/proc", child).exists() for child in children)  # still alive while the second one works


def test_a_run_that_came_and_went_while_another_was_being_built_is_not_replaced(tmp_path, monkeypatch):
    config = TrainConfig(
        model="vit_tiny_capaboost_lora",
        model_kwargs={"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
        img_size=16,
        data="digits:0-1",
        epochs=1,
        output=str(tmp_path / "run"),
    )
    build = run_module.build_job

    def slowly(*arguments):
        monkeypatch.undo()
        thread = threading.Thread(target=train, args=(config,))  # outside the main thread it takes no signals
        thread.start()
        thread.join()
        return build(*arguments)

    monkeypatch.setattr(run_module, "build_job", slowly)
    with pytest.raises(FileExistsError, match="add --resume to go on with it"):
        train(config)
    assert (tmp_path / "run" / "result.json").exists()


def test_a_lock_of_a_process_that_is_gone_is_taken_over(lab, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / ".lock").write_text(f"{os.getpid()} on this host\n")
    lab.run(output, max_steps=1, **OPTIONS)
