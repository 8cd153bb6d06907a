"""Pickled code is never executed: not in a checkpoint, not in base weights, not in a run folder."""

from __future__ import annotations

import builtins
import io
import pickle
import shutil
import zipfile

import pytest
import torch

from capaboost_vit.run import train
from capaboost_vit.vision.config import TrainConfig

CODE = "open({path!r}, 'w').close()"


class Evaluated:
    """Unpickled, it is evaluated."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (builtins.eval, (CODE.format(path=self.path),))


class Nested:
    """Unpickled, it unpickles the other as torch's storages are."""

    def __init__(self, path):
        self.content = io.BytesIO()
        torch.save(Evaluated(path), self.content)

    def __reduce__(self):
        return (torch.storage._load_from_bytes, (self.content.getvalue(),))


def plain(path, canary, kind=Evaluated):
    path.write_bytes(pickle.dumps({"state_dict": kind(canary)}))


def saved(path, canary, kind=Evaluated):
    torch.save({"head.weight": torch.zeros(2), "state_dict": kind(canary)}, path)


def legacy(path, canary, kind=Evaluated):
    torch.save({"model": kind(canary)}, path, _use_new_zipfile_serialization=False)


def script(path, canary, kind=Evaluated):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(kind(canary)))
        file.writestr("archive/constants.pkl", pickle.dumps(kind(canary)))
        file.writestr("archive/version", "3\n")


ATTACKS = {
    "pickle": plain,
    "torch.save": saved,
    "torch.save of old": legacy,
    "torchscript": script,
    "nested": lambda path, canary: saved(path, canary, Nested),
    "nested pickle": lambda path, canary: plain(path, canary, Nested),
}
NAMES = ["base.pth", "base.bin", "base.pth.tar", "base.safetensors", "base.npz", "base"]


def config(folder, **options):
    return TrainConfig(
        **{
            "model": "vit_tiny_capaboost_lora",
            "model_kwargs": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
            "img_size": 16,
            "data": "digits:0-1",
            "epochs": 1,
            "output": str(folder),
            **options,
        }
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(config(folder))
    return folder


def test_the_attacks_would_work(tmp_path):
    for kind in (Evaluated, Nested):
        canary = tmp_path / kind.__name__
        pickle.loads(pickle.dumps(kind(canary)))
        assert canary.exists() or kind is Nested  # torch reads the nested one with weights_only now
    saved(tmp_path / "file", tmp_path / "canary")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_base_weights_are_never_executed(tmp_path, name, attack):
    ATTACKS[attack](tmp_path / name, tmp_path / "canary")
    with pytest.raises(ValueError, match="cannot read weights from"):
        train(config(tmp_path / "run", initial_checkpoint=str(tmp_path / name)))
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_checkpoint_is_never_executed(tmp_path, finished, attack):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        ATTACKS[attack](path, tmp_path / "canary")
    with pytest.raises(ValueError, match=r"is a pickle .* only .safetensors files are read"):
        train(config(tmp_path / "run", resume=True))
    assert not (tmp_path / "canary").exists()


def test_other_files_among_the_checkpoints_are_not_read(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    for attack, write in ATTACKS.items():
        for name in ("checkpoint.pth", "update-00000099.pth", "last.ckpt"):
            write(tmp_path / "run" / "checkpoints" / f"{attack} {name}", tmp_path / "canary")
    for name in ("checkpoint.pth", "update-00000099.pth", "last.ckpt"):
        saved(tmp_path / "run" / "checkpoints" / name, tmp_path / "canary")
    train(config(tmp_path / "run", resume=True))
    assert not (tmp_path / "canary").exists()
