"""A disk that is full or read-only: one clear line, the checkpoint before is intact, and the run can go on."""

from __future__ import annotations

import subprocess

import pytest

from capaboost_vit.run import train
from capaboost_vit.vision.config import TrainConfig

OPTIONS = {"method__dropout": 0.1}


def line(run):
    """The one line of the error."""
    lines = [line for line in run.said.splitlines() if "error" in line.lower() or "Traceback" in line]
    assert len(lines) == 1, run.said
    assert "Exception" not in run.said
    return lines[0]


@pytest.fixture(scope="module")
def checkpoint_size(lab):
    reference = lab.reference(**OPTIONS)
    return max(path.stat().st_size for path in (reference / "checkpoints").iterdir())


def test_a_file_too_large_in_a_save_leaves_the_checkpoint_before(lab, tmp_path, checkpoint_size):
    output = tmp_path / "run"
    stopped = lab.start(output, file_size=checkpoint_size - 4000, log_interval=100, **OPTIONS)
    assert stopped.wait() == 2, stopped.said
    said = line(stopped)
    assert said.startswith("capaboost train: error: cannot write the checkpoint ")
    assert "is intact: make room, then add --resume to go on" in said
    assert not list(output.rglob(".*.partial"))
    updates = stopped.updates
    assert updates
    done = lab.run(output, "--resume", log_interval=100, **OPTIONS)
    assert f"going on after update {updates[-1]} of 16" in done.said
    lab.same(output, lab.reference(log_interval=100, **OPTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("size", range(2000, 150_000, 24_000))
def test_wherever_the_limit_strikes_it_is_one_line_and_the_run_can_go_on(lab, tmp_path, size):
    output = tmp_path / "run"
    stopped = lab.start(output, file_size=size, **OPTIONS)  # TensorBoard's file is the largest: its thread too
    if stopped.wait() == 0:
        assert size > 80_000
    else:
        assert stopped.code == 2, stopped.said
        assert "cannot write" in line(stopped) or "File too large" in line(stopped)
        assert not list(output.rglob(".*.partial"))
        assert not (output / "result.json").exists()
    lab.run(output, "--resume", **OPTIONS)
    lab.same(output, lab.reference(**OPTIONS))


@pytest.fixture
def small_disk(tmp_path):
    """Makes a disk in memory of so many bytes."""
    mounted = []

    def make(size):
        folder = tmp_path / f"disk {len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=20)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a disk in memory needs the right to mount one")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


def test_too_little_room_is_refused_before_training(lab, small_disk):
    disk = small_disk(10_000_000)
    run = lab.run(disk / "run", code=2, **OPTIONS)
    assert "MB are free, the run needs" in line(run)
    assert {path.name for path in (disk / "run").iterdir()} == {".lock"}


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 40_960])
def test_a_disk_that_fills_up_while_it_trains(lab, small_disk, left):
    disk = small_disk(70_000_000)
    output = disk / "run"
    run = lab.start(output, pause=0.05, **OPTIONS)
    assert run.until(lambda: 3 in run.updates)
    fill(disk, left)
    code = run.wait()
    (disk / "filling").unlink()
    if code != 0:
        assert code == 2, run.said
        line(run)
        assert not list(output.rglob(".*.partial"))
        assert run.updates
    lab.run(output, "--resume", **OPTIONS)
    lab.same(output, lab.reference(**OPTIONS))


def fill(disk, left):
    """Leaves so many bytes free."""
    with open(disk / "filling", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - left))


@pytest.mark.parametrize("where", ["run", "run/below"])
def test_a_file_in_the_place_of_the_folder_is_refused_before_training(tmp_path, where):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OSError, match=r"cannot write to .*: choose another --output"):
        train(TrainConfig(**tiny(), output=str(tmp_path / where)))
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_that_takes_no_file_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").mkdir()  # as root one may write wherever chmod forbids it
    with pytest.raises(OSError, match=r"cannot write to .*: choose another --output"):
        train(TrainConfig(**tiny(), output=str(tmp_path / "run")))


def tiny():
    return {
        "model": "vit_tiny_capaboost_lora",
        "model_kwargs": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
        "img_size": 16,
        "data": "digits:0-1",
        "epochs": 1,
    }
