"""A damaged checkpoint is named and left out, the one before it serves; with none left nothing is begun anew."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from capaboost_vit.io.sealed import write_sealed
from capaboost_vit.run import train
from capaboost_vit.training.checkpoint import FORMAT, CheckpointError, Checkpoints
from capaboost_vit.training.signals import Interrupted
from capaboost_vit.vision.config import TrainConfig


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def cut(path, size):
    content = path.read_bytes()
    path.write_bytes(content[:size] if size >= 0 else content[: len(content) + size])


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def in_tensors(path):
    return 8 + struct.unpack("<Q", path.read_bytes()[:8])[0] + 100


def metadata(path, change):
    """Rewrites the JSON inside, which leaves the container sound."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def other_seal(path):
    def change(values):
        inner = json.loads(values[FORMAT])
        return {FORMAT: json.dumps({**inner, "sha256": "0" * 64})}

    metadata(path, change)


def to_folder(path, *, filled=False):
    path.unlink()
    path.mkdir()
    if filled:
        (path / "file").write_text("x")


def to_pickle(path):
    path.write_bytes(pickle.dumps(Canary(path.parent / "canary")))


DAMAGES = {
    "empty": lambda path: cut(path, 0),
    "one byte": lambda path: cut(path, 1),
    "half": lambda path: cut(path, path.stat().st_size // 2),
    "last byte missing": lambda path: cut(path, -1),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a bit of the length": lambda path: flip(path, 0),
    "a bit of the header": lambda path: flip(path, 400),
    "a bit of the tensors": lambda path: flip(path, in_tensors(path)),
    "the last bit": lambda path: flip(path, -1),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another sha": other_seal,
    "JSON cut": lambda path: metadata(path, lambda values: {FORMAT: values[FORMAT][:-40]}),
    "JSON a list": lambda path: metadata(path, lambda values: {FORMAT: "[]"}),
    "no metadata": lambda path: save_file(load_file(path), path),
    "another format": lambda path: write_sealed(path, "capaboost_vit.adapter", 1, {}, load_file(path)),
    "a later version": lambda path: write_sealed(path, FORMAT, 99, {"state": None}, load_file(path)),
    "sealed, but not a state": lambda path: write_sealed(path, FORMAT, 1, {"state": {"dict": [[1]]}}, {}),
    "sealed, but a list": lambda path: write_sealed(path, FORMAT, 1, {"state": {"list": [1]}}, {}),
    "sealed, but without a part": lambda path: write_sealed(path, FORMAT, 1, {"state": {"dict": []}}, {}),
    "JSON of brackets": lambda path: metadata(path, lambda values: {FORMAT: "[" * 100_000}),
    "a folder": to_folder,
    "a folder with a file": lambda path: to_folder(path, filled=True),
    "a pickle": to_pickle,
    "a header of a terabyte": lambda path: path.write_bytes(struct.pack("<Q", 1 << 40) + path.read_bytes()[8:]),
    "a header of all": lambda path: path.write_bytes(struct.pack("<Q", (1 << 64) - 1) + path.read_bytes()[8:]),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, stop_at):
    """(folder of a run that was stopped with two checkpoints, its options, the folder of the whole run)."""
    folder = tmp_path_factory.mktemp("stopped")
    options = {
        "model": "vit_tiny_capaboost_lora",
        "model_kwargs": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
        "img_size": 16,
        "data": "digits:0-2",
        "epochs": 2,
        "batch_size": 96,
        "lr": 1e-2,
        "log_interval": 1,
        "checkpoint_interval": 1,
    }
    train(TrainConfig(**options, output=str(folder / "whole")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capaboost_vit.run.StopSignals", lambda: stop_at(5))  # one look is in the first evaluation
        with pytest.raises(Interrupted):
            train(TrainConfig(**options, output=str(folder / "stopped")))
    return folder / "stopped", options, folder / "whole"


@pytest.fixture
def broken(stopped, tmp_path):
    """(folder, options): a copy of the stopped run, to be broken."""
    shutil.copytree(stopped[0], tmp_path / "run")
    return tmp_path / "run", {**stopped[1], "output": str(tmp_path / "run"), "resume": True}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_read(broken, damage):
    folder, _ = broken
    older, newest = sorted((folder / "checkpoints").iterdir())
    warnings = []
    DAMAGES[damage](newest)
    state = Checkpoints(folder / "checkpoints").newest(warnings.append)
    assert state["state"]["progress"]["update"] == 4
    if damage != "missing":
        (warning,) = warnings
        assert warning.startswith(f"warning: {newest} is left out, going on from {older.name}: ")
        assert (newest.parent / f"{newest.name}.damaged").exists()
    assert not (folder / "checkpoints" / "canary").exists()


@pytest.mark.parametrize("damage", ["half", "a pickle", "missing"])
def test_the_checkpoint_before_a_damaged_one_serves_to_the_same_bits(lab, broken, stopped, capsys, damage):
    folder, options = broken
    older, newest = sorted((folder / "checkpoints").iterdir())
    assert (older.name, newest.name) == ("update-00000004.safetensors", "update-00000005.safetensors")
    DAMAGES[damage](newest)
    (folder / "checkpoints" / ".update-00000006.safetensors.1.partial").write_bytes(b"left over")
    (folder / ".status.json.1.partial").write_bytes(b"left over")
    train(TrainConfig(**options))
    said = capsys.readouterr().err
    assert "going on after update 4 of 6" in said
    assert ("is left out, going on from update-00000004.safetensors: " in said) == (damage != "missing")
    assert not (folder / "checkpoints" / "canary").exists()
    lab.same(folder, stopped[2])


def test_a_checkpoint_that_may_not_be_read_is_left_out_too(lab, broken, stopped, capsys, monkeypatch):
    _, options = broken
    real = open

    def refusing(path, *args, **kwargs):
        if str(path).endswith("00005.safetensors"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr("capaboost_vit.io.sealed.open", refusing, raising=False)
    train(TrainConfig(**options))
    assert "update-00000005.safetensors is left out, going on from update-00000004" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "missing"])
def test_with_all_damaged_nothing_is_begun_and_nothing_deleted(broken, damage):
    folder, options = broken
    files = sorted((folder / "checkpoints").iterdir())
    for path in files:
        DAMAGES[damage](path)
    before = contents(folder)
    with pytest.raises(
        CheckpointError, match=r"no checkpoint in .* can be read .*: bring one back, or start anew"
    ) as error:
        train(TrainConfig(**options))
    assert files[-1].name in str(error.value)
    assert contents(folder) == before


def contents(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "canary")}


def test_with_all_missing_it_is_said_and_the_table_is_not_thrown_away(broken):
    folder, options = broken
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    before = contents(folder)
    with pytest.raises(CheckpointError, match="holds a run without a checkpoint: replace it with --overwrite"):
        train(TrainConfig(**options))
    assert contents(folder) == before


def test_damaged_files_do_not_stop_later_saves(broken, stopped, lab):
    folder, options = broken
    older = min((folder / "checkpoints").iterdir())
    to_folder(older, filled=True)  # not looked at, and in the way when it is to be removed
    train(TrainConfig(**options))
    lab.same(folder, stopped[2])
