"""A run leaves what it promises, can be repeated, evaluated and merged, and refuses before it writes."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from scored import counted
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import capaboost_vit
from capaboost_vit.run import train
from capaboost_vit.training.job import Job, as_dict
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.data import Split, open_data
from capaboost_vit.vision.job import _warnings
from capaboost_vit.vision.saved import merge_adapter

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
FILES = {"adapter.safetensors", "config.yaml", "result.json", "status.json", "summary.csv", ".lock"}
FILES |= {"README.md", "learning_curve.png", "confusion_matrix.png", "predictions.json", "tensorboard", "checkpoints"}


def tensors(folder):
    return load_file(Path(folder) / "adapter.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# what a run leaves


def test_a_run_leaves_its_files_and_nothing_half_written(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        "update-00000033.safetensors",
        "update-00000036.safetensors",
    ]
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["update"]) == ("finished", 36)


def test_the_result_is_what_train_returned_and_the_model_has_learned(finished):
    folder, found = finished
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(found))
    assert found["test_accuracy"] == 100 * found["test_right"] / found["test_total"]
    assert found["test_total"] == 6
    assert found["test_right"] >= 5
    assert found["data"]["classes"] == 3
    assert {name: part["images"] for name, part in found["data"]["splits"].items()} == {
        "train": 48,
        "val": 6,
        "test": 6,
    }
    assert found["images_per_second"] > 0
    assert found["machine"]["versions"]["timm"] == timm.__version__


def test_the_counts_of_the_result_are_those_of_the_model_and_the_file(finished, base):
    folder, found = finished
    model = capaboost_vit.create_from_adapter(folder / "adapter.safetensors", initial_checkpoint=base)
    counts = found["parameters"]
    assert counts["branches"] == 2 * 8 * (16 + 16 + 1)  # q and v: rank 8, each (8, 16), (16, 8) and 8 coefficients
    assert counts["trained"] == counts["branches"] + 3 * 16 + 3
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert found["adapter_bytes"] == (folder / "adapter.safetensors").stat().st_size


def test_the_table_the_points_and_the_result_tell_the_same(finished):
    folder, found = finished
    with open(folder / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert list(rows[0]) == ["epoch", "update", "train_loss", "train_accuracy", "grad_norm", "val_loss", "val_accuracy"]
    updates = [int(row["update"]) for row in rows]
    assert updates == list(range(3, 37, 3))
    assert float(rows[-1]["val_accuracy"]) == found["val_accuracy"]
    best = max(rows, key=lambda row: float(row["val_accuracy"]))  # the first of equals
    assert (found["best_epoch"], found["best_val_accuracy"]) == (int(best["epoch"]), float(best["val_accuracy"]))
    assert (found["updates"], found["epochs"]) == (36, 12)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in ("train_loss", "train_accuracy", "grad_norm", "val_loss", "val_accuracy"):
        points = events.Scalars(f"epoch/{name}")
        assert [point.step for point in points] == updates
        assert [point.value for point in points] == pytest.approx([float(row[name]) for row in rows], rel=1e-5)
    for name in ("train/loss", "train/lr", "train/grad_norm", "speed/images_per_second"):
        assert [point.step for point in events.Scalars(name)] == list(range(1, 37))
    assert not any("second" in name or "memory" in name for name in rows[0])
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_the_adapter_file_knows_the_classes_and_the_input(finished):
    header = capaboost_vit.read_header(finished[0] / "adapter.safetensors")
    assert header["class_names"] == ["blue", "green", "red"]
    assert header["input"]["input_size"] == [3, 16, 16]


def test_the_stored_configuration_is_the_runs(finished):
    folder, found = finished
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored == found["config"] == as_dict(TrainConfig(**stored))


def test_the_pictures_are_pictures_and_in_tensorboard_too(finished):
    folder, _ = finished
    for name, size in (("learning_curve", (960, 868)), ("confusion_matrix", (672, 545))):
        with Image.open(folder / f"{name}.png") as image:
            assert image.size == size
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    figures = {f"figures/{name}" for name in ("learning_curve", "confusion_matrix", "masks", "spectrum")}
    assert set(events.Tags()["images"]) == figures | {"images/first_batch"}
    assert {event.step for name in figures for event in events.Images(name)} == {36}
    (text,) = events.Tensors("config/text_summary")
    assert b"model: vit_tiny_capaboost_lora" in text.tensor_proto.string_val[0]


# the same and another run


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("options", [{}, {"no_aug": False, "scale": (0.5, 1.0)}], ids=["plain", "augmented"])
def test_a_run_is_bitwise_repeatable_whatever_the_workers_and_the_random_state(configure, tmp_path, options):
    results = []
    for name, workers in (("a", 0), ("b", 2), ("c", 0)):
        torch.manual_seed(ord(name))
        train(configure(output=str(tmp_path / name), workers=workers, epochs=1, drop_path=0.4, **options))
        results.append(tensors(tmp_path / name))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


@pytest.mark.usefixtures("without_pictures")
def test_another_seed_is_another_run_on_the_same_masks(configure, tmp_path):
    for name, options in (("a", {}), ("b", {"seed": 1}), ("c", {"method": {"mask_seed": 1}})):
        train(configure(output=str(tmp_path / name), epochs=1, **options))
    first, seed, masks = (tensors(tmp_path / name) for name in "abc")
    mask_names = [name for name in first if name.endswith("mask")]
    assert mask_names
    assert not torch.equal(first["head.weight"], seed["head.weight"])
    assert all(torch.equal(first[name], seed[name]) for name in mask_names)
    assert not any(torch.equal(first[name], masks[name]) for name in mask_names)


@pytest.mark.usefixtures("without_pictures")
def test_gradient_checkpointing_changes_memory_not_the_result(configure, tmp_path):
    for name, flag in (("a", False), ("b", True)):
        train(configure(output=str(tmp_path / name), grad_checkpointing=flag, drop_path=0.0))
    first, second = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-6) for name in first)


# splits


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("options", [{}, {"select": "best", "patience": 2}], ids=["last", "best"])
def test_the_test_split_is_read_once_after_all_training(configure, monkeypatch, options):
    opened, evaluated = [], []
    image, evaluate = Split.image, Job.evaluate
    monkeypatch.setattr(Split, "image", lambda self, i: opened.append(self.names[i]) or image(self, i))
    monkeypatch.setattr(
        Job, "evaluate", lambda job, part, **more: evaluated.append(part) or evaluate(job, part, **more)
    )
    config = configure(epochs=3, **options)
    train(config)
    names = open_data(config.data).split("test").names
    assert len(evaluated) == 4
    assert evaluated.count(evaluated[-1]) == 1
    assert tuple(opened[-6:]) == names
    assert not set(opened[:-6]) & set(names)


def test_without_a_test_split_its_accuracy_is_null_and_it_is_said(configure, pictures, tmp_path, capsys):
    folder = tmp_path / "data"
    for part in ("train", "val"):
        (folder / part).mkdir(parents=True)
        for name in ("blue", "red"):
            (folder / part / name).symlink_to(pictures / name)
    found = train(configure(data=str(folder), epochs=1))
    assert found["test_accuracy"] is None
    assert json.loads((tmp_path / "a run" / "result.json").read_text())["test_accuracy"] is None
    assert "test_right" not in found
    assert "no test split" in capsys.readouterr().err


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("val_split", [None, "val"])
def test_without_validation_there_is_no_such_column(configure, pictures, tmp_path, val_split):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train").symlink_to(pictures)
    data = str(folder) if val_split else str(pictures)
    found = train(configure(data=data, val_split=val_split, epochs=1))
    assert found["val_accuracy"] is None
    assert "val" not in found["data"]["splits"]
    assert "val_accuracy" not in (tmp_path / "a run" / "summary.csv").read_text()


# the folder


def test_a_finished_run_is_not_overwritten(configure, tmp_path):
    train(configure(epochs=1))
    before = {path: path.read_bytes() for path in (tmp_path / "a run").rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="add --resume to go on with it, choose another --output, or replace it"):
        train(configure(epochs=1, lr=0.5))
    assert {path: path.read_bytes() for path in (tmp_path / "a run").rglob("*") if path.is_file()} == before


def test_overwriting_replaces_the_run_and_leaves_what_is_not_its(configure, tmp_path):
    folder = tmp_path / "a run"
    train(configure(epochs=3))
    (folder / "notes.md").write_text("mine")
    found = train(configure(epochs=1, overwrite=True))
    assert {path.name for path in folder.iterdir()} == FILES | {"notes.md"}
    assert len((folder / "summary.csv").read_text().splitlines()) == 2
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert found["config"]["epochs"] == 1


TINY_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
NO_WEIGHTS = {"model_kwargs": {}, "initial_checkpoint": None}


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"model": "vit_tiny_patch16_225"}, ValueError, "timm has no model 'vit_tiny_patch16_225'"),
        ({"model": "vit_tny_capaboost_lora"}, ValueError, "did you mean vit_tiny_capaboost_lora?"),
        ({"model": "vit_tiny_capaboost_lroa"}, ValueError, "did you mean vit_tiny_capaboost_lora?"),
        (
            {"model": "vit_tiny_capaboost_lora.augreg_in21"},
            ValueError,
            "no weights 'augreg_in21' .did you mean 'augreg_in21k'",
        ),
        (
            {"model": "hf-hub:me/gone", "initial_checkpoint": None},
            FileNotFoundError,
            r"the config.json of hf-hub:me/gone is not in the cache, and the hub cannot be reached",
        ),
        ({"model": "hf_hub:me/gone"}, ValueError, "--model hf_hub:me/gone: say hf-hub:me/gone"),
        (
            {"model": "local-dir:gone"},
            ValueError,
            "--model local-dir:gone: no folder that timm could load a model from",
        ),
        ({"model": "vit_tiny_patch16_224"}, ValueError, "is a plain timm model: say --method.name lora"),
        (
            {"method": {"name": "adapter"}},
            ValueError,
            "--method.name adapter contradicts --model vit_tiny_capaboost_lora: use vit_tiny_patch16_224",
        ),
        ({"method": {"bottleneck": 3}}, TypeError, "has no option 'bottleneck'"),
        ({"method": {"targets": ["querry"]}}, ValueError, "querry"),
        ({"data": "nowhere"}, FileNotFoundError, "no data at 'nowhere'"),
        ({"train_split": "train800"}, ValueError, "has no split 'train800'; it has: train, val, test"),
        ({"val_split": "dev"}, ValueError, "has no split 'dev'; it has: train, val, test"),
        ({"test_split": "tset"}, ValueError, "has no split 'tset'; it has: train, val, test"),
        ({"num_classes": 2}, ValueError, "--num-classes 2 is less than the 3 classes of the data"),
        ({"model_kwargs": {"img_size": 16}}, ValueError, "--model-kwargs img_size: say --img-size"),
        (
            {"model": "test_vit", "method": {"name": "lora"}, "img_size": 33, **NO_WEIGHTS},
            ValueError,
            r"test_vit cannot be trained on inputs of shape \(2, 3, 33, 33\): Input height \(33\) should be divisible "
            r"by patch size \(16\).; leave --img-size 33 out, or take multiples",
        ),
        ({"model_kwargs": {"in_chans": 1, "depth": 1}, "initial_checkpoint": None}, ValueError, "cannot be trained on"),
        (
            {"model_kwargs": {"embed_dim": 7}},
            ValueError,
            "timm cannot build .* with .*embed_dim=7.*: AssertionError: dim",
        ),
        ({"img_size": 0}, ValueError, "--img-size must be at least 1, got 0"),
        ({"crop_pct": 0.0}, ValueError, "--crop-pct must be positive, got 0"),
        ({"interpolation": "cubic"}, ValueError, r"--interpolation must be .* \(did you mean 'bicubic'\?\)"),
        ({"no_aug": False, "aa": "foo"}, ValueError, "timm cannot make a transform with --aa foo: "),
        ({"initial_checkpoint": "gone.pth"}, FileNotFoundError, "no weights at gone.pth"),
        ({"opt": "adamv"}, ValueError, "--opt must be one of .* got .adamv"),
        ({"opt": "adahessian"}, ValueError, "--opt adahessian needs second derivatives"),
        ({"opt": "adafactorbv"}, ValueError, "--opt adafactorbv: a checkpoint cannot hold"),
        ({"sched": "plateau"}, ValueError, "--sched must be .* got .plateau"),
        ({"device": "gpu"}, ValueError, "--device gpu: "),
        ({"device": "meta:x"}, ValueError, "--device meta:x: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_named_before_anything_is_written(configure, tmp_path, monkeypatch, options, error, text):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it tries the hub again and again
    with pytest.raises(error, match=text):
        train(configure(**options))
    assert not (tmp_path / "a run").exists()


def test_a_folder_as_a_model_trains_what_its_architecture_and_weights_train(configure, tmp_path):
    folder = tmp_path / "my model"
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=5, **TINY_VIT)
    timm.models.save_for_hf(model, str(folder), model_args={"img_size": 16, **TINY_VIT}, safe_serialization=True)
    folders = ["a run"]
    own = {"initial_checkpoint": None, "model_kwargs": {}, "img_size": None, "method": {"name": "lora"}}
    for i, name in enumerate((f"local-dir:{folder}", str(folder))):
        folders.append(f"run {i}")
        train(configure(model=name, output=str(tmp_path / folders[-1]), **own))
    typed = {"initial_checkpoint": str(folder / "model.safetensors"), "method": {"name": "lora"}}
    train(configure(model="vit_tiny_patch16_224", **typed))
    expected, *others = (load_file(tmp_path / name / "adapter.safetensors") for name in folders)
    for other in others:
        assert other.keys() == expected.keys()
        assert all(torch.equal(other[name], expected[name]) for name in expected)
    result = json.loads((tmp_path / "run 0" / "result.json").read_text())
    assert counted(tmp_path / "run 0") == (result["test_right"], result["test_total"])
    again = merge_adapter(tmp_path / "run 0", tmp_path / "merged")
    train(configure(model=f"local-dir:{again}", output=str(tmp_path / "again"), **own))
    assert counted(tmp_path / "again")[1] == result["test_total"]
    with pytest.raises(ValueError, match="has weights of its own: leave --initial-checkpoint out"):
        train(configure(model=f"local-dir:{folder}", method={"name": "lora"}, output=str(tmp_path / "other")))


def test_cuda_where_there_is_none_is_a_clear_mistake(configure):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="--device cuda: "):
        train(configure(device="cuda"))


def test_a_run_that_diverges_stops_and_leaves_no_result(configure, tmp_path):
    config = configure(opt="sgd", lr=1e30, warmup_epochs=0, epochs=4)
    with pytest.raises(FloatingPointError, match="try a smaller --lr"):
        train(config)
    folder = tmp_path / "a run"
    assert {path.name for path in folder.iterdir()} - {"summary.csv", ".lock"} == {
        "config.yaml",
        "tensorboard",
        "checkpoints",
        "status.json",
        "bad_batch.json",
    }
    bad = json.loads((folder / "bad_batch.json").read_text())
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "failed"
    assert status["error"] == bad["error"]
    assert (status["update"], len(bad["images"])) == (bad["update"] - 1, 16)
    assert set(bad["images"]) <= set(open_data(config.data).split("train").names)


def test_random_base_weights_are_warned_of(configure, capsys):
    train(configure(initial_checkpoint=None, epochs=1))
    assert "the base weights are random: say --pretrained" in capsys.readouterr().err


def test_augmentation_that_changes_the_answers_of_sprites_is_warned_of(configure):
    config = configure(data="sprites:location", no_aug=False)
    assert _warnings(config, {}) == [
        "crops and flips change the answers of sprites:location, which are those of whole images: say --no-aug true"
    ]
    assert _warnings(dataclasses.replace(config, no_aug=True), {}) == []


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    "options",
    [
        {"model": "vit_tiny_capaboost_adapter"},
        {"model": "vit_tiny_capaboost_prefix"},
        {"model": "vit_tiny_capaboost_prompt"},
        {"model": "vit_tiny_patch16_224", "method": {"name": "head"}},
        {"model": "vit_tiny_patch16_224", "method": {"name": "full"}},
        {"model": "vit_tiny_patch16_224", "method": {"name": "lora", "targets": "mlp_in", "rank": 2}},
        {"amp": True, "smoothing": 0.1, "clip_grad": 1.0, "layer_decay": 0.7, "num_classes": 5},
        {"opt": "sgd", "sched": "step", "aa": "rand-m3", "no_aug": False, "crop_mode": "squash"},
    ],
    ids=str,
)
def test_an_adapter_of_any_run_evaluates_to_its_result(configure, tmp_path, options):
    found = train(configure(**{"epochs": 1, **options}))
    assert math.isfinite(json.loads((tmp_path / "a run" / "result.json").read_text())["test_accuracy"])
    if not options.get("amp"):  # counted computes in full precision
        assert counted(tmp_path / "a run") == (found["test_right"], found["test_total"])


def test_a_run_killed_between_its_result_and_its_status_is_finished_all_the_same(configure, tmp_path):
    config = configure(epochs=1)
    found = train(config)
    status = tmp_path / "a run" / "status.json"
    whole = json.loads(status.read_text())
    status.write_text(json.dumps({**whole, "status": "running"}))
    assert train(dataclasses.replace(config, resume=True)) == found
    assert json.loads(status.read_text())["status"] == "finished"
