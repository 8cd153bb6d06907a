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
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import capaboost_vit
from capaboost_vit import run
from capaboost_vit.inference import evaluate_adapter, merge_adapter
from capaboost_vit.run import train
from capaboost_vit.training.config import TrainConfig
from capaboost_vit.vision.data import Split

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
FILES = {"adapter.safetensors", "config.yaml", "learning_curve.png", "result.json", "summary.csv", "tensorboard"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Weights of a tiny plain ViT."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **SMALL)
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
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
            "model_kwargs": SMALL,
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


@pytest.fixture(scope="module")
def finished(base, pictures, tmp_path_factory):
    """(folder, what train returned) of one run of twelve epochs."""
    output = tmp_path_factory.mktemp("runs") / "done"
    config = TrainConfig(
        model="vit_tiny_capaboost_lora",
        model_kwargs=SMALL,
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


def tensors(folder):
    return load_file(Path(folder) / "adapter.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def accuracy_by_hand(model, pictures, names, labels):
    """Right answers, one picture at a time, with timm's own transform."""
    transform = timm.data.create_transform(**timm.data.resolve_data_config({"img_size": 16}, model=model))
    model.eval()
    with torch.no_grad():
        answers = [model(transform(Image.open(name).convert("RGB"))[None]).argmax().item() for name in names]
    return sum(answer == label for answer, label in zip(answers, labels, strict=True))


# what a run leaves


def test_a_run_leaves_its_files_and_nothing_half_written(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == FILES


def test_the_result_is_what_train_returned_and_the_model_has_learned(finished):
    folder, result = finished
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    assert result["test_accuracy"] == 100 * result["test_right"] / result["test_total"]
    assert result["test_total"] == 6
    assert result["test_right"] >= 5
    assert result["data"]["classes"] == 3
    assert {name: part["images"] for name, part in result["data"]["splits"].items()} == {
        "train": 48,
        "val": 6,
        "test": 6,
    }
    assert result["images_per_second"] > 0
    assert result["machine"]["versions"]["timm"] == timm.__version__


def test_the_counts_of_the_result_are_those_of_the_model_and_the_file(finished, base):
    folder, result = finished
    model = capaboost_vit.create_from_adapter(folder / "adapter.safetensors", initial_checkpoint=base)
    counts = result["parameters"]
    assert counts["branches"] == 2 * 8 * (16 + 16)  # q and v: rank 8, each (8, 16) and (16, 8)
    assert counts["trained"] == counts["branches"] + 3 * 16 + 3
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert result["adapter_bytes"] == (folder / "adapter.safetensors").stat().st_size


def test_the_table_the_points_and_the_result_tell_the_same(finished):
    folder, result = finished
    with open(folder / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["val_accuracy"]) == result["val_accuracy"]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in ("train_loss", "train_accuracy", "val_accuracy"):
        points = events.Scalars(f"epoch/{name}")
        assert [point.step for point in points] == list(range(1, 13))
        assert [point.value for point in points] == pytest.approx([float(row[name]) for row in rows], rel=1e-5)
    assert [point.step for point in events.Scalars("train/lr")] == list(range(2, 37, 2))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_the_adapter_file_knows_the_classes_and_the_input(finished):
    header = capaboost_vit.read_header(finished[0] / "adapter.safetensors")
    assert header["class_names"] == ["blue", "green", "red"]
    assert header["input"]["input_size"] == [3, 16, 16]


def test_the_stored_configuration_is_the_runs(finished):
    folder, result = finished
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    stored["scale"] = tuple(stored["scale"])
    assert dataclasses.asdict(TrainConfig(**stored)) == result["config"]


def test_the_picture_is_one(finished):
    with Image.open(finished[0] / "learning_curve.png") as image:
        assert image.size == (1080, 432)


# the same and another run


@pytest.mark.parametrize("options", [{}, {"no_aug": False, "scale": (0.5, 1.0)}], ids=["plain", "augmented"])
def test_a_run_is_bitwise_repeatable_whatever_the_workers_and_the_random_state(configure, tmp_path, options):
    results = []
    for name, workers in (("a", 0), ("b", 2), ("c", 0)):
        torch.manual_seed(ord(name))
        train(configure(output=str(tmp_path / name), workers=workers, epochs=1, drop_path=0.4, **options))
        results.append(tensors(tmp_path / name))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_another_seed_is_another_run_on_the_same_masks(configure, tmp_path):
    for name, options in (("a", {}), ("b", {"seed": 1}), ("c", {"method": {"mask_seed": 1}})):
        train(configure(output=str(tmp_path / name), epochs=1, **options))
    first, seed, masks = (tensors(tmp_path / name) for name in "abc")
    mask_names = [name for name in first if name.endswith("mask")]
    assert mask_names
    assert not torch.equal(first["head.weight"], seed["head.weight"])
    assert all(torch.equal(first[name], seed[name]) for name in mask_names)
    assert not any(torch.equal(first[name], masks[name]) for name in mask_names)


def test_gradient_checkpointing_changes_memory_not_the_result(configure, tmp_path):
    for name, flag in (("a", False), ("b", True)):
        train(configure(output=str(tmp_path / name), grad_checkpointing=flag, drop_path=0.0))
    first, second = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-6) for name in first)


# splits


def test_the_test_split_is_read_once_after_all_training(configure, monkeypatch):
    opened, evaluated = [], []
    image, evaluate = Split.image, run.evaluate
    monkeypatch.setattr(Split, "image", lambda self, i: opened.append(self.names[i]) or image(self, i))
    monkeypatch.setattr(run, "evaluate", lambda *args, **kwargs: evaluated.append(1) or evaluate(*args, **kwargs))
    config = configure(epochs=3)
    train(config)
    names = run.open_data(config.data).split("test").names
    assert evaluated == [1]
    assert tuple(opened[-6:]) == names
    assert not set(opened[:-6]) & set(names)


def test_without_a_test_split_its_accuracy_is_null_and_it_is_said(configure, pictures, tmp_path, capsys):
    folder = tmp_path / "data"
    for part in ("train", "val"):
        (folder / part).mkdir(parents=True)
        for name in ("blue", "red"):
            (folder / part / name).symlink_to(pictures / name)
    result = train(configure(data=str(folder), epochs=1))
    assert result["test_accuracy"] is None
    assert json.loads((tmp_path / "a run" / "result.json").read_text())["test_accuracy"] is None
    assert "test_right" not in result
    assert "no split 'test'" in capsys.readouterr().err


@pytest.mark.parametrize("val_split", [None, "val"])
def test_without_validation_there_is_no_such_column(configure, pictures, tmp_path, val_split):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train").symlink_to(pictures)
    data = str(folder) if val_split else str(pictures)
    result = train(configure(data=data, val_split=val_split, epochs=1))
    assert result["val_accuracy"] is None
    assert "val" not in result["data"]["splits"]
    assert "val_accuracy" not in (tmp_path / "a run" / "summary.csv").read_text()


# the folder


def test_a_finished_run_is_not_overwritten(configure, tmp_path):
    train(configure(epochs=1))
    before = {path: path.read_bytes() for path in (tmp_path / "a run").rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="choose another --output, or pass --overwrite"):
        train(configure(epochs=1, lr=0.5))
    assert {path: path.read_bytes() for path in (tmp_path / "a run").rglob("*") if path.is_file()} == before


def test_overwriting_replaces_the_run_and_leaves_what_is_not_its(configure, tmp_path):
    folder = tmp_path / "a run"
    train(configure(epochs=3))
    (folder / "notes.md").write_text("mine")
    result = train(configure(epochs=1, overwrite=True))
    assert {path.name for path in folder.iterdir()} == FILES | {"notes.md"}
    assert len((folder / "summary.csv").read_text().splitlines()) == 2
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert result["config"]["epochs"] == 1


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"model": "vit_tiny_patch16_225"}, ValueError, "timm has no model 'vit_tiny_patch16_225'"),
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
        ({"initial_checkpoint": "gone.pth"}, FileNotFoundError, "no weights at gone.pth"),
        ({"opt": "adamv"}, ValueError, "--opt adamv: "),
        ({"sched": "plateau"}, ValueError, "--sched plateau follows a metric"),
        ({"device": "gpu"}, ValueError, "--device gpu: "),
        ({"device": "meta:x"}, ValueError, "--device meta:x: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_named_before_anything_is_written(configure, tmp_path, options, error, text):
    with pytest.raises(error, match=text):
        train(configure(**options))
    assert not (tmp_path / "a run").exists()


def test_cuda_where_there_is_none_is_a_clear_mistake(configure):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="--device cuda: "):
        train(configure(device="cuda"))


def test_a_run_that_diverges_stops_and_leaves_no_result(configure, tmp_path):
    with pytest.raises(FloatingPointError, match="try a smaller --lr"):
        train(configure(opt="sgd", lr=1e30, warmup_epochs=0, epochs=4))
    assert {path.name for path in (tmp_path / "a run").iterdir()} <= {"config.yaml", "summary.csv", "tensorboard"}


def test_random_base_weights_are_warned_of(configure, capsys):
    train(configure(initial_checkpoint=None, epochs=1))
    assert "the base weights are random: say --pretrained" in capsys.readouterr().err


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
    result = train(configure(**{"epochs": 1, **options}))
    assert math.isfinite(json.loads((tmp_path / "a run" / "result.json").read_text())["test_accuracy"])
    if not options.get("amp"):  # evaluate_adapter computes in full precision
        assert evaluate_adapter(tmp_path / "a run") == (result["test_right"], result["test_total"])


# evaluation


def test_the_stored_adapter_has_the_accuracy_of_the_result_by_hand_too(finished, base, pictures):
    folder, result = finished
    model = capaboost_vit.create_from_adapter(folder / "adapter.safetensors", initial_checkpoint=base)
    split = run.open_data(str(pictures)).split("test")
    assert accuracy_by_hand(model, pictures, split.names, split.labels) == result["test_right"]


@pytest.mark.parametrize(("split", "total"), [("test", 6), ("val", 6), ("train", 48)])
@pytest.mark.parametrize("batch_size", [4, 256])
def test_every_split_can_be_evaluated_in_any_batches(finished, split, total, batch_size):
    folder, result = finished
    right, counted = evaluate_adapter(folder, split=split, batch_size=batch_size, device="cpu")
    assert counted == total
    if split == "test":
        assert right == result["test_right"]
    if split == "val":
        assert 100 * right / counted == result["val_accuracy"]


def test_an_adapter_file_alone_needs_data_and_base_weights(finished, base, pictures, tmp_path):
    folder, result = finished
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "adapter.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"alone\.safetensors is not in a run folder: say --data"):
        evaluate_adapter(alone, initial_checkpoint=str(base))
    found = evaluate_adapter(alone, data=str(pictures), initial_checkpoint=str(base))
    assert found == (result["test_right"], 6)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"split": "tset"}, ValueError, "has no split 'tset'; it has: train, val, test"),
        ({"data": "digits"}, ValueError, "digits has 10 classes, the adapter 3"),
        ({"data": "nowhere"}, FileNotFoundError, "no data at 'nowhere'"),
        ({"initial_checkpoint": "gone.pth"}, FileNotFoundError, "no weights at gone.pth"),
        ({"device": "gpu"}, ValueError, "--device gpu: "),
    ],
)
def test_an_evaluation_that_cannot_be_is_named(finished, options, error, text):
    with pytest.raises(error, match=text):
        evaluate_adapter(finished[0], **options)


@pytest.mark.parametrize("verb", [evaluate_adapter, lambda path: merge_adapter(path, path / "out.safetensors")])
def test_a_folder_without_an_adapter_is_named(tmp_path, verb):
    with pytest.raises(FileNotFoundError, match=r"no adapter file at .*adapter\.safetensors"):
        verb(tmp_path)


def test_an_adapter_of_random_base_weights_cannot_be_evaluated(configure, tmp_path):
    train(configure(initial_checkpoint=None, epochs=1))
    with pytest.raises(ValueError, match="were random, and nobody kept them: train with --pretrained"):
        evaluate_adapter(tmp_path / "a run")


# merging


def test_a_merged_run_is_a_plain_timm_checkpoint_of_the_same_accuracy(finished, base, pictures, tmp_path):
    folder, result = finished
    path = merge_adapter(folder, tmp_path / "new folder" / "merged.safetensors")
    plain = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=3, **SMALL)
    plain.load_state_dict(load_file(path), strict=True)
    split = run.open_data(str(pictures)).split("test")
    assert accuracy_by_hand(plain, pictures, split.names, split.labels) == result["test_right"]
    adapted = capaboost_vit.create_from_adapter(folder / "adapter.safetensors", initial_checkpoint=base)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert (plain.eval()(images) - adapted(images)).abs().max() < 1e-5
    original = load_file(base)
    changed = {name for name in original if not torch.equal(original[name], load_file(path)[name])}
    assert changed == {"blocks.0.attn.qkv.weight"}


def test_merging_overwrites_nothing(finished, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.safetensors exists: choose another --output"):
        merge_adapter(finished[0], path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("method", ["adapter", "prefix", "prompt"])
def test_what_no_weight_can_express_is_not_merged(configure, tmp_path, method):
    train(configure(model=f"vit_tiny_capaboost_{method}", epochs=1))
    with pytest.raises(ValueError, match="only low-rank updates of linear weights can be merged; 1 places carry"):
        merge_adapter(tmp_path / "a run", tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()


@pytest.mark.parametrize("method", ["head", "full"])
def test_a_run_without_branches_merges_into_what_was_trained(configure, tmp_path, method):
    train(configure(model="vit_tiny_patch16_224", method={"name": method}, epochs=1))
    merged = load_file(merge_adapter(tmp_path / "a run", tmp_path / "merged.safetensors"))
    stored = tensors(tmp_path / "a run")
    assert all(torch.equal(merged[name], stored[name]) for name in stored)
    timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=3, **SMALL).load_state_dict(merged)
