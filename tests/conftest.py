"""No network in tests; real data only where it is; one thread, as CI runs several workers on few cores."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from capaboost_vit.run import train
from capaboost_vit.training.checkpoint import Checkpoints
from capaboost_vit.vision.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # for `pairs`, `ready` and `texts`
TINY_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


class _NoNetwork(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":  # stand-ins of servers
            raise RuntimeError(f"a test tried to reach the network: {address}")
        return super().connect(address)


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    real = socket.socket
    socket.socket = _NoNetwork
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    socket.socket = real


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Before the first fixture: what fixtures train is then what a run of one thread trains, to the bit."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _as_if_alone():
    """A test without a seed of its own must not fail once in a hundred runs (drop path may drop every image)."""
    torch.set_num_threads(1)  # some tests set it
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def ready(tmp_path_factory):
    """Starts commands in ready interpreters, see `ready`."""
    from ready import Ready

    with Ready(tmp_path_factory.mktemp("ready")) as interpreters:
        yield interpreters


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("CAPABOOST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set CAPABOOST_DATA")
    return folder


@pytest.fixture(scope="session")
def vit_tiny_weights(real_data) -> Path:
    return real_data / "vit_tiny_patch16_224_augreg_in21k_ft_in1k" / "model.safetensors"


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Weights of a tiny plain ViT."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **TINY_VIT)
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three classes of 20 pictures: a folder of class folders, 48 / 6 / 6."""
    folder = tmp_path_factory.mktemp("my pictures")
    for label, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir()
        for i in range(20):
            colour = [10 * (i % 5), 8 * (i % 7), 9 * (i % 3)]
            colour[label] += 120
            Image.new("RGB", (20, 18), tuple(colour)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def configure(base, pictures, tmp_path):
    def make(**options):
        values = {
            "model": "vit_tiny_capaboost_lora",
            "model_kwargs": TINY_VIT,
            "initial_checkpoint": str(base),
            "data": str(pictures),
            "output": str(tmp_path / "a run"),
            "img_size": 16,
            "epochs": 2,
            "batch_size": 16,
            "lr": 1e-2,
        }
        return TrainConfig(**{**values, **options})

    return make


@pytest.fixture(scope="session")
def finished(base, pictures, tmp_path_factory):
    """(folder, what train returned) of one run of twelve epochs."""
    output = tmp_path_factory.mktemp("runs") / "done"
    config = TrainConfig(
        model="vit_tiny_capaboost_lora",
        model_kwargs=TINY_VIT,
        initial_checkpoint=str(base),
        data=str(pictures),
        output=str(output),
        img_size=16,
        epochs=12,
        batch_size=16,
        lr=2e-2,
        log_interval=2,
    )
    return output, train(config)


@pytest.fixture
def traced(monkeypatch):
    """torch.compile makes its graphs as ever, but leaves them to eager kernels: inductor takes ten seconds a model."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def _leave_out_pictures(patch):
    from ready import DRAWING

    for name in DRAWING:
        patch.setattr(name, lambda *_: None)


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs draw nothing, which takes most of the time of a small one."""
    _leave_out_pictures(monkeypatch)


@pytest.fixture
def killed_behind():
    """Within `killed_behind(update)` a run dies right behind that checkpoint: nothing is written, as behind kill -9."""

    class Killed(BaseException):
        pass

    @contextlib.contextmanager
    def killed_behind(last):
        save = Checkpoints.save

        def save_and_die(self, update, tree):
            save(self, update, tree)
            if update == last:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_and_die)
            with pytest.raises(Killed):
                yield

    return killed_behind


@pytest.fixture(scope="session")
def text_material(tmp_path_factory):
    """A folder with two tiny encoders and the texts of all kinds of tasks, see `texts`."""
    import texts

    return texts.write_all(tmp_path_factory.mktemp("my texts"))


@pytest.fixture(scope="session")
def finished_text(text_material, tmp_path_factory):
    """By kind and options, (folder, what train returned) of one run on texts, without pictures."""
    import texts

    folder, found = tmp_path_factory.mktemp("text runs"), {}

    def get(kind, **options):
        key = (kind, str(options))
        if key not in found:
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
                _leave_out_pictures(patch)
                output = folder / f"{kind} {len(found)}"
                found[key] = output, train(texts.configure(text_material, kind, output, **options))
        return found[key]

    return get


# files whose tests take more than 15 CPU-seconds together, the longest first: no long one is left alone at the end
LONGEST = ["study/test_study_command", "study/test_quickstart", "bench/test_speed", "reliability/test_kill"]
LONGEST += ["reliability/test_signals", "reliability/test_text", "reliability/test_torchrun", "test_tutorial"]
LONGEST += ["reliability/test_every_update", "reliability/test_disk", "test_cli", "test_configs", "test_text_run"]
LONGEST += ["methods/test_every_method", "bench/test_processes", "bench/test_script", "nlu/test_text_capabilities"]
LONGEST += ["nlu/test_questions_real", "vision/test_adapter_files", "training/test_whole_runs", "core/test_inject"]
LONGEST += ["training/test_processes", "reliability/test_damaged", "test_run", "core/test_devices"]


def pytest_collection_modifyitems(items):
    places = {f"{ROOT / 'tests' / name}.py": place for place, name in enumerate(LONGEST)}
    if gone := [path for path in places if not Path(path).is_file()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names files that are gone: {', '.join(gone)}")
    items.sort(key=lambda item: places.get(str(item.path), len(places)))
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
