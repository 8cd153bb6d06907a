"""What is not as at the start is listed, old -> new, and refused; what does not matter is let through."""

from __future__ import annotations

import json
import shutil

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from capaboost_vit import run as run_module
from capaboost_vit.run import train
from capaboost_vit.training import job
from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.job import run_identity
from capaboost_vit.vision.config import TrainConfig

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with pictures, base weights, and a run that was stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("material")
    for label in ("blue", "red"):
        (folder / "pictures" / label).mkdir(parents=True)
        for i in range(10):
            colour = (10 * i, 20, 200) if label == "blue" else (200, 20, 10 * i)
            Image.new("RGB", (16, 16), colour).save(folder / "pictures" / label / f"{i}.png")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **SMALL)
    save_file(model.state_dict(), folder / "base.safetensors")
    train(configure(folder))
    shutil.copytree(folder / "run", folder / "finished")
    (folder / "run" / "result.json").unlink()
    return folder


def configure(folder, **options):
    values = {
        "model": "vit_tiny_capaboost_lora",
        "model_kwargs": SMALL,
        "initial_checkpoint": str(folder / "base.safetensors"),
        "data": str(folder / "pictures"),
        "output": str(folder / "run"),
        "img_size": 16,
        "epochs": 2,
        "batch_size": 8,
    }
    return TrainConfig(**{**values, **options})


@pytest.fixture
def place(material, tmp_path, monkeypatch):
    """A copy of it, at the same relative paths, which are those that the run knows."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(material, "m")
    return tmp_path / "m"


def resume(place, material, **options):
    """Resumes the run of the copy; paths of data and weights are, if not given, those of the start."""
    values = {"output": str(place / "run"), "resume": True, **options}
    return train(configure(material, **values))


def contents(folder):
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"lr": 0.5}, ["lr: 0.001 -> 0.5"]),
        ({"seed": 1}, ["seed: 0 -> 1"]),
        ({"batch_size": 4}, ["batch_size: 8 -> 4"]),
        ({"method": {"rank": 2}}, ["method.rank: null -> 2"]),
        ({"method": {"name": "lora"}}, ['method.name: null -> "lora"']),
        ({"model_kwargs": {**SMALL, "num_heads": 4}}, ["model_kwargs.num_heads: 2 -> 4"]),
        ({"epochs": 3, "drop_path": 0.0}, ["epochs: 2 -> 3", "drop_path: 0.1 -> 0.0"]),
        ({"no_aug": False, "opt": "sgd"}, ["no_aug: true -> false", 'opt: "adamw" -> "sgd"']),
        ({"data": "digits:0-1"}, ["data: ", "data.splits.train.sha256: "]),
        ({"num_classes": 5}, ["num_classes: null -> 5"]),
    ],
    ids=str,
)
def test_another_option_is_named_and_refused(place, material, options, texts):
    before = contents(place)
    with pytest.raises(
        ValueError, match=r"was started otherwise .*: take that back, or add --allow-config-change"
    ) as error:
        resume(place, material, **options)
    assert all(text in str(error.value) for text in texts), str(error.value)
    assert contents(place) == before


def test_a_run_of_a_release_with_fewer_options_goes_on(material, tmp_path, monkeypatch):
    def older(config, kind):
        return {
            name: value
            for name, value in run_identity(config, kind).items()
            if name not in ("compile_mode", "channels_last")
        }

    options = {"output": str(tmp_path / "run")}
    with monkeypatch.context() as patch:
        patch.setattr(job, "run_identity", older)
        train(configure(material, **options))
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(ValueError, match="channels_last: false -> true"):
        train(configure(material, **options, resume=True, channels_last=True))
    train(configure(material, **options, resume=True))


def test_other_data_at_the_same_path_are_named_and_refused(place, material):
    picture = material / "pictures" / "red" / "3.png"
    content = picture.read_bytes()
    try:
        Image.new("RGB", (16, 16), (1, 2, 3)).save(picture)
        with pytest.raises(ValueError, match=r"data\.splits\.\w+\.sha256: \"\w+\" -> \"\w+\""):
            resume(place, material)
    finally:
        picture.write_bytes(content)


def test_other_base_weights_at_the_same_path_are_named_and_refused(place, material):
    path = material / "base.safetensors"
    content = path.read_bytes()
    try:
        weights = load_file(path)
        save_file({**weights, "norm.weight": weights["norm.weight"] + 0.01}, path)
        with pytest.raises(ValueError, match=r"started otherwise \(base.*: .* -> "):
            resume(place, material)
    finally:
        path.write_bytes(content)


def test_another_number_of_processes_is_named_and_refused(place, material, monkeypatch):
    build = run_module.build_job
    monkeypatch.setattr(run_module, "build_job", lambda config, _, device: build(config, ProcessGroup(0, 2), device))
    with pytest.raises(ValueError, match="processes: 1 -> 2"):
        resume(place, material)


def test_free_options_and_another_place_come_to_the_same(place, material):
    whole = place / "whole"
    train(configure(material, output=str(whole), epochs=2))
    moved = place / "moved away"
    shutil.move(place / "run", moved)
    newest = max((moved / "checkpoints").iterdir())
    newest.unlink()  # or there is nothing left to train
    resume(place, material, output=str(moved), workers=2, checkpoint_interval=1)
    for name in ("adapter.safetensors", "summary.csv"):
        assert (moved / name).read_bytes() == (whole / name).read_bytes()


def test_a_change_that_is_allowed_takes_effect(lab, place, material, capsys):
    newest = max((place / "run" / "checkpoints").iterdir())
    newest.unlink()
    resume(place, material, lr=0.0123, sched="none", warmup_epochs=0, weight_decay=0.5, allow_config_change=True)
    assert "going on after update" in capsys.readouterr().err
    group = lab.newest_state(place / "run")["optimizer"]["param_groups"][0]
    assert group["lr"] == 0.0123
    assert {g["weight_decay"] for g in lab.newest_state(place / "run")["optimizer"]["param_groups"]} == {0.5, 0.0}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"epochs": 1},
            "4 updates are done, and --epochs 1 is only 2: ask for more, or start anew in another --output",
        ),
        ({"max_steps": 3}, "4 updates are done, and --max-steps 3 is only 3"),
        ({"batch_size": 16, "epochs": 9}, "the number of updates in an epoch cannot change in a run: it was 2 and is"),
        ({"train_split": "mixed(train)[:8]", "epochs": 9}, "the number of updates in an epoch cannot change in a run"),
        ({"opt": "sgd", "epochs": 9}, "--opt cannot change in a run: it was adamw and is now sgd"),
        ({"select": "best", "epochs": 9}, "--select best: the best model so far, of epoch 1, was not kept"),
        ({"lr": 0.5}, "is finished and has nothing left to train with other options: ask for more --epochs"),
        ({"epochs": 9, "patience": 1}, "is finished and has nothing left to train with other options"),
        ({"seed": 3}, "is finished and has nothing left to train"),
    ],
    ids=str,
)
def test_what_cannot_go_on_is_refused_though_a_change_is_allowed_and_nothing_is_written(
    place, material, options, text, done
):
    before = contents(done)
    with pytest.raises(ValueError, match=r"updates|--opt|--select|finished") as error:
        train(configure(material, output=str(done), resume=True, allow_config_change=True, **options))
    assert text in str(error.value)
    assert contents(done) == before


@pytest.fixture
def done(material, tmp_path):
    """A finished run of two epochs, of which the first was the best on val."""
    shutil.copytree(material / "finished", tmp_path / "done")
    return tmp_path / "done"


def test_a_finished_run_that_is_asked_for_more_goes_on_and_says_what_that_means(material, done, capsys):
    options = {"output": str(done), "resume": True, "allow_config_change": True}
    result = train(configure(material, **options, epochs=3, val_split="train[:4]", model_ema=True))
    log = capsys.readouterr().err
    assert "going on after update 4 of 6" in log
    assert "warning: the run was finished before: the test split is used once more" in log
    assert "warning: the val split is another one: what was best on the one before counts no more" in log
    assert (result["updates"], result["epochs"], result["best_epoch"]) == (6, 3, 3)


def test_averages_that_begin_later_begin_at_the_weights_of_then(lab, material, done):
    options = {"output": str(done), "resume": True, "allow_config_change": True}
    before = lab.newest_state(done)["model"]
    train(configure(material, **options, epochs=3, lr=1e-12, model_ema=True))
    averages = lab.newest_state(done)["averages"]
    assert all(torch.allclose(averages[name], before[name], atol=1e-6) for name in averages)


def test_a_best_model_that_is_no_longer_asked_for_is_not_what_is_kept(material, tmp_path):
    options = {"output": str(tmp_path / "run"), "lr": 0.1}
    train(configure(material, **options, select="best"))
    best = load_file(tmp_path / "run" / "adapter.safetensors")
    train(configure(material, **options, epochs=3, resume=True, allow_config_change=True))
    last = load_file(tmp_path / "run" / "adapter.safetensors")
    assert any(not torch.equal(best[name], last[name]) for name in best)


def test_resuming_nothing_starts_and_says_so(place, material, capsys):
    resume(place, material, output=str(place / "new"))
    assert f"no checkpoint in {place / 'new'}: starting fresh" in capsys.readouterr().err
    assert (place / "new" / "result.json").exists()


def test_resuming_a_finished_run_touches_nothing(place, material):
    result = train(configure(material, output=str(place / "done")))
    before = contents(place / "done")
    found = resume(place, material, output=str(place / "done"))
    assert found == json.loads(json.dumps(result))
    assert contents(place / "done") == before
    with pytest.raises(ValueError, match=r"started otherwise \(lr: 0.001 -> 0.5\)"):
        resume(place, material, output=str(place / "done"), lr=0.5)
    assert contents(place / "done") == before


@pytest.mark.parametrize("name", ["adapter.safetensors", "summary.csv", "learning_curve.png"])
def test_a_folder_with_another_file_and_no_checkpoint_is_not_emptied(place, material, name):
    folder = place / "mine"
    folder.mkdir()
    (folder / name).write_bytes(b"mine")
    for options in ({"resume": True}, {"resume": False}):
        with pytest.raises((ValueError, FileExistsError), match="--overwrite"):
            resume(place, material, output=str(folder), **options)
        assert (folder / name).read_bytes() == b"mine"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"config": 1}', "[" * 100_000], ids=lambda content: content[:9]
)
def test_a_result_that_is_none_is_named(place, material, content):
    (place / "run" / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result\.json"):
        resume(place, material)
    assert (place / "run" / "result.json").read_text() == content
