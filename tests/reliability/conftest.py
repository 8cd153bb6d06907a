"""Runs as real processes that can be killed, and what it means that two runs came to the same."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from capaboost_vit import run as run_module
from capaboost_vit.io.sealed import read_sealed
from capaboost_vit.training import checkpoint
from capaboost_vit.training.signals import Interrupted

OPTIONS = {
    "model": "vit_tiny_capaboost_lora",
    "model-kwargs": "{patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2}",
    "img-size": 16,
    "data": "digits:0-4",  # 452 training images: 8 updates an epoch
    "no-aug": "false",
    "aa": "rand-m5",
    "drop-path": 0.2,
    "epochs": 2,
    "lr": 1e-2,
    "checkpoint-interval": 3,
    "log-interval": 1,
}
TIMED = {"train_seconds", "memory_mb", "images_per_second", "examples_per_second", "finished"}


class Run:
    """One process of a run, in a process group of its own."""

    def __init__(self, process, output):
        self.process, self.output = process, Path(output)
        self.pid, self.poll = process.pid, process.poll
        self.signal = process.send_signal

    @property
    def code(self):
        """The exit code, once it has been waited for."""
        return self.process.returncode

    def wait(self, seconds=200):
        """The exit code at the end."""
        return self.process.wait(seconds)

    def until(self, condition, seconds=200):
        """Waits for a condition or the end of the process; whether the condition came true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            if self.poll() is not None:
                return bool(condition())
            time.sleep(0.002)
        return False

    def kill(self):
        """kill -9 of the process alone: its loader processes stay behind, as orphans."""
        self.process.kill()
        return self.wait()

    @property
    def said(self):
        """All that it wrote to stdout and stderr."""
        return self.process.stdout + self.process.stderr

    @property
    def updates(self):
        """The updates at which there are checkpoints."""
        return updates(self.output)


class Lab:
    """Starts runs in ready interpreters."""

    def __init__(self, folder, ready):
        self.folder, self.ready, self.references = folder, ready, {}

    def start(self, output, *flags, pause=None, file_size=None, ranks=1, pictures=True, **options):
        """Starts a run in a folder; options are those of `capaboost train`, with _ for - and __ for a dot.

        With a `task` among them it is `capaboost train-text`.
        """
        argv = [*self.arguments(output, **options), *flags]
        return self.start_argv(argv, output, pause=pause, file_size=file_size, ranks=ranks, pictures=pictures)

    def status(self, folder):
        """What status.json says."""
        return status(Path(folder))

    def state_of(self, path):
        """What a checkpoint holds."""
        return state_of(path)

    def newest_state(self, folder):
        """What the newest checkpoint holds."""
        return newest_state(folder)

    def arguments(self, output, **options):
        """What follows `capaboost`."""
        if "task" in options:
            return ["train-text", *words(options), "--output", str(output)]
        return ["train", *words({**OPTIONS, **options}), "--output", str(output)]

    def start_argv(self, argv, output, *, pause=None, **options):
        """Starts `capaboost ARGV`, which works in the folder `output`."""
        env = {**os.environ, "CAPABOOST_SAVE_PAUSE": "" if pause is None else str(pause)}
        return Run(self.ready.start(["capaboost", *argv], env=env, **options), output)

    def run(self, output, *flags, code=0, **options):
        """Runs to the end, which must have that exit code."""
        run = self.start(output, *flags, **options)
        assert run.wait() == code, run.said
        return run

    def reference(self, **options):
        """The folder of an uninterrupted run with these options."""
        key = json.dumps(options, sort_keys=True)
        if key not in self.references:
            self.references[key] = self.folder / f"reference {len(self.references)}"
            self.run(self.references[key], **options)
        return self.references[key]

    def strike(self, run, kind, rng, seconds):
        """Kills a run at an instant of that kind; False if it ended before."""
        before = set(run.updates)
        if kind == "any":
            run.until(lambda: False, rng.uniform(0, seconds))
        elif kind == "training":
            run.until(lambda: "parameters trained" in run.said)
            run.until(lambda: False, rng.uniform(0, seconds / 2))
        elif kind == "saving":
            run.until(lambda: bool(list(run.output.rglob(".*.partial"))))
            run.until(lambda: False, rng.uniform(0, 0.1))
        else:
            run.until(lambda: bool(set(run.updates) - before))
        if run.poll() is not None:
            return False
        run.kill()
        return True

    def kill_and_resume(self, folder, rng, kills, **options):
        """Kills runs so many times, each chain of them in a folder of its own; what was done, for the reader."""
        start = time.monotonic()
        reference = self.reference(**{**options, **({"workers": 0} if "workers" in options else {})})
        seconds = min(max(1.0, time.monotonic() - start), 4.0)
        history, chain = [], 0
        while kills > 0:
            output, chain = folder / f"chain {chain}", chain + 1
            while True:
                kind = rng.choice(["any", "training", "saving", "renamed"]) if kills > 0 else "none"
                pause = rng.choice([0.02, 0.1]) if kind in ("saving", "renamed") else None
                run = self.start(output, "--resume", pause=pause, **options)
                if kind != "none" and self.strike(run, kind, rng, seconds):
                    kills -= 1
                    history.append(f"{chain}: {kind} with {run.updates}, pause {pause}")
                    print(history[-1])
                    continue
                assert run.wait() == 0, run.said
                break
            self.same(output, reference, pictures=options.get("pictures", True))
        return history

    def same(self, folder, reference, *, pictures=True):
        """Asserts that a finished run has the bits of another one, whatever came in between."""
        assert_same(Path(folder), Path(reference), pictures)


@pytest.fixture(scope="session")
def lab(tmp_path_factory, ready):
    return Lab(tmp_path_factory.mktemp("lab"), ready)


def words(options):
    """Options as they are typed; of those that are given twice the last one."""
    flags = [name.replace("__", ".") if "__" in name else name.replace("_", "-") for name in options]
    values = dict(zip(flags, options.values(), strict=True))
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


class StopAt:
    """Stands in for StopSignals: a signal comes when it has been looked at so often."""

    def __init__(self, looks):
        self.looks = looks

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def number(self):
        self.looks -= 1
        return signal.SIGTERM if self.looks < 0 else 0


@pytest.fixture(scope="session")
def stop_at():
    """What stands in for StopSignals."""
    return StopAt


@pytest.fixture
def in_pieces(monkeypatch):
    """Runs to the end, stopped at each look at the signals in turn; how often it was stopped in what."""

    def run_in_pieces(configure):
        """The configuration may depend on how often the run was stopped."""
        stops = {"update": 0, "evaluating": 0, "front": 0}
        looks = more = 0
        while True:
            with monkeypatch.context() as patch:
                patch.setattr(run_module, "StopSignals", lambda looks=looks + more: StopAt(looks))
                try:
                    run_module.train(configure(sum(stops.values())))
                    return stops
                except Interrupted as stopped:
                    kind = next((kind for kind in ("evaluating", "front") if kind in str(stopped)), "update")
                    stops[kind] += 1
                    # each batch of an evaluation, and then past it; the one batch of a front each time
                    more = {"update": 0, "evaluating": more + 1, "front": 1}[kind]

    return run_in_pieces


def updates(folder):
    return [int(path.stem.split("-")[1]) for path in checkpoint.Checkpoints(Path(folder) / "checkpoints").files()]


def state_of(path):
    header, tensors = read_sealed(path, checkpoint.FORMAT, (checkpoint.VERSION,), error=checkpoint.CheckpointError)
    return checkpoint.unpack(header["state"], tensors)["state"]


def newest_state(folder):
    """What the newest checkpoint holds of model, optimizer, averages and progress, less the seconds."""
    state = state_of(checkpoint.Checkpoints(Path(folder) / "checkpoints").files()[-1])
    del state["progress"]["seconds"]
    return state


def equal(first, second):
    """Whether two trees are the same, bit for bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return type(first) is type(second) and first == second


def points(folder):
    """(scalars by tag, tags of images, tags of texts) of TensorBoard, nothing dropped by the reader."""
    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0}, purge_orphaned_data=False).Reload()
    tags = events.Tags()
    scalars = {
        tag: sorted((e.step, e.value) for e in events.Scalars(tag))  # the reader's order is that of file names
        for tag in tags["scalars"]
        if not tag.startswith("speed/")
    }
    pictures = {tag: [e.step for e in events.Images(tag)] for tag in tags["images"]}
    return scalars, pictures, {tag: [e.step for e in events.Tensors(tag)] for tag in tags["tensors"]}


def assert_same(folder, reference, pictures):
    drawings = [path.name for path in reference.glob("*.png")]
    assert ("learning_curve.png" in drawings) == pictures
    for name in ("adapter.safetensors", "summary.csv", *drawings):
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), name
    assert equal(newest_state(folder), newest_state(reference))
    found, expected = points(folder), points(reference)
    for tag, values in expected[0].items():
        assert found[0].get(tag) == values, tag
    assert found == expected
    drawn = {f"figures/{Path(name).stem}" for name in drawings}
    results = [json.loads((path / "result.json").read_text()) for path in (folder, reference)]
    for result in results:
        free = ("output", "workers", "cache", "data_dir")
        result["config"] = {n: v for n, v in result["config"].items() if n not in free}
        texts = "dapt_data" in result["config"]
        if not texts:
            drawn |= {"images/first_batch", *(["figures/confusion_matrix"] if pictures else [])}
        assert drawn <= found[1].keys()
        for name in TIMED:
            result.pop(name, None)
    assert results[0] == results[1]
    assert status(folder)["status"] == "finished"
    assert_whole(folder)


def assert_whole(folder):
    """Nothing half written lies about."""
    assert not list(folder.rglob(".*.partial"))


def status(folder):
    return json.loads((folder / "status.json").read_text())
