"""Options of a run do what they say from the configuration to the adapter file."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scored import counted
from torch._dynamo.utils import counters

from capaboost_vit.run import train
from capaboost_vit.vision.config import TrainConfig

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes: 30 pictures to train with, 9 for val, 9 for test."""
    folder = tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 10), ("val", 3), ("test", 3)):
        for label, name in enumerate(("blue", "green", "red")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                colour = [10 * (i % 5), 8 * (i % 7), 9 * (i % 3)]
                colour[label] += 90
                Image.new("RGB", (20, 18), tuple(colour)).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture
def run(pictures, tmp_path, monkeypatch):
    """Trains; returns (result, tensors of the adapter, rows of the table)."""
    monkeypatch.setattr("capaboost_vit.training.log.Log.figure", lambda *_: None)  # pictures take most of the time
    monkeypatch.setattr("capaboost_vit.training.result.save_figure", lambda *_: None)

    def start(name="run", **options):
        values = {"model": "vit_tiny_capaboost_lora", "model_kwargs": SMALL, "img_size": 16, "data": str(pictures)}
        values |= {"epochs": 2, "batch_size": 8, "lr": 1e-2, "output": str(tmp_path / name), "device": "cpu"}
        result = train(TrainConfig(**{**values, **options}))
        with open(tmp_path / name / "summary.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return result, load_file(tmp_path / name / "adapter.safetensors"), rows

    return start


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "options",
    [
        {"mixup": 0.8},
        {"cutmix": 1.0, "batch_size": 7},
        {"mixup": 0.2, "cutmix": 1.0, "reprob": 0.5, "smoothing": 0.1, "no_aug": False, "aa": "rand-m5"},
        {"reprob": 1.0, "grad_accum_steps": 3},
    ],
    ids=str,
)
def test_mixed_images_train_to_the_same_bits_and_to_others_than_without(run, options):
    _, first, rows = run("a", **options)
    torch.rand(5)
    _, second, others = run("b", **options)
    assert same(first, second)
    assert rows == others
    plain = {name: value for name, value in options.items() if name not in ("mixup", "cutmix", "reprob")}
    _, unmixed, _ = run("c", **plain)
    assert not same(first, unmixed)
    assert all(tensor.isfinite().all() for tensor in first.values() if tensor.is_floating_point())


def test_the_best_epoch_is_kept_as_a_run_that_ended_there_leaves_it(run):
    steady = {"sched": "none", "warmup_epochs": 0, "lr": 3e-2}
    result, best, rows = run("best", epochs=6, select="best", **steady)
    scores = [float(row["val_accuracy"]) for row in rows]
    assert result["best_val_accuracy"] == max(scores)
    assert result["best_epoch"] == 1 + scores.index(max(scores))
    stopped, shorter, _ = run("stopped", epochs=result["best_epoch"], **steady)
    assert same(best, shorter)
    assert (stopped["test_right"], stopped["val_accuracy"]) == (result["test_right"], max(scores))
    last, longer, _ = run("last", epochs=6, **steady)
    assert same(best, longer) is (result["best_epoch"] == 6)
    assert last["best_epoch"] == result["best_epoch"]


def test_the_average_is_what_is_saved_and_tested(run, tmp_path, pictures):
    result, averaged, _ = run("average", model_ema=True, model_ema_decay=0.5, pretrained=False)
    _, live, _ = run("live")
    assert not same(averaged, live)
    assert {name for name in averaged if name.endswith("mask")} == {name for name in live if name.endswith("mask")}
    assert result["test_total"] == 9


@pytest.mark.parametrize("interval", [1, 3])
def test_the_number_of_checkpoints_does_not_change_a_run(run, interval, tmp_path):
    _, first, rows = run("plain", drop_path=0.3)
    _, second, others = run("often", drop_path=0.3, checkpoint_interval=interval)
    assert same(first, second)
    assert rows == others
    assert len(list((tmp_path / "often" / "checkpoints").iterdir())) == 2


def test_max_steps_ends_in_the_middle_of_an_epoch(run, tmp_path):
    result, _, rows = run(max_steps=6, epochs=100)
    assert [int(row["update"]) for row in rows] == [4, 6]
    assert (result["updates"], result["epochs"]) == (6, 2)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["update"] == 6


@pytest.mark.parametrize("option", [{"patience": 2}, {"select": "best"}])
def test_data_without_val_cannot_choose_by_it(run, pictures, tmp_path, option):
    data = tmp_path / "data"
    for part in ("train", "test"):
        shutil.copytree(pictures / part, data / part)
    with pytest.raises(ValueError, match="has no split 'val', which --patience and each --select but last need"):
        run(data=str(data), **option)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_a_compiled_run_comes_near_the_eager_one_and_its_file_can_be_used(run, traced, method, tmp_path):
    base = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **SMALL)
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    options = {"model": f"vit_tiny_capaboost_{method}", "initial_checkpoint": str(tmp_path / "base.safetensors")}
    options |= {"drop_path": 0.0, "opt": "sgd", "model_ema": True}
    eager, expected, _ = run("eager", **options)
    counters.clear()
    compiled, found, _ = run("compiled", compile=True, **options)
    assert found.keys() == expected.keys()
    assert max((found[name].float() - value.float()).abs().max().item() for name, value in expected.items()) < 1e-4
    assert compiled["test_right"] == eager["test_right"]
    # updates of 8, 8, 8 and 6 images, evaluations of 9: one graph to train with, one to evaluate with
    assert counters["stats"]["unique_graphs"] == 2
    assert counted(tmp_path / "compiled") == (compiled["test_right"], 9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_compiled_model_is_compiled_a_few_times_whatever_the_sizes_of_batches(run, traced):
    counters.clear()
    # updates of 7, 7, 7, 7 and 2 images in two parts each: 4, 3 and 1; evaluations of 2, 2, 2, 2 and 1
    result, _, _ = run(compile=True, epochs=3, batch_size=7, grad_accum_steps=2, validation_batch_size=2)
    assert result["epochs"] == 3
    assert counters["stats"]["unique_graphs"] == 4  # for training and evaluation: any size, and one image


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_mode_of_the_compiler_reaches_it_and_trains(run, monkeypatch):
    modes, compile = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode: modes.append(mode) or compile(model, mode=mode))
    torch._dynamo.reset()
    _, _, rows = run(compile=True, compile_mode="reduce-overhead", drop_path=0.0, epochs=4)
    assert modes == ["reduce-overhead"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_a_compiled_run_on_a_gpu_comes_near_the_eager_one(run, mode):
    options = {"device": "cuda", "drop_path": 0.0, "opt": "sgd"}
    eager, expected, _ = run("eager", **options)
    torch._dynamo.reset()
    compiled, found, _ = run("compiled", compile=True, compile_mode=mode, **options)
    assert max((found[name].float() - value.float()).abs().max().item() for name, value in expected.items()) < 1e-3
    assert compiled["test_total"] == eager["test_total"]


CONVOLUTIONS = {"model": "test_resnet", "model_kwargs": {}, "method": {"name": "full"}, "img_size": 64, "lr": 1e-4}


def test_channels_last_reaches_weights_and_images_and_hardly_changes_the_result(run, monkeypatch):
    _, expected, rows = run("plain", **CONVOLUTIONS)
    formats, forward = set(), torch.nn.Conv2d.forward

    def watched(self, images):
        assert self.weight.is_contiguous(memory_format=torch.channels_last)
        formats.add(images.is_contiguous(memory_format=torch.channels_last))
        return forward(self, images)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    _, found, others = run("last", **CONVOLUTIONS, channels_last=True)
    assert formats == {True}
    assert found.keys() == expected.keys()
    for row, other in zip(rows, others, strict=True):
        assert float(row["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-2)


def test_a_run_with_channels_last_goes_on_to_the_same_bits(run, tmp_path):
    options = {**CONVOLUTIONS, "channels_last": True, "checkpoint_interval": 1, "max_steps": 6}
    _, whole, rows = run("whole", **options)
    (tmp_path / "whole" / "checkpoints" / "update-00000006.safetensors").unlink()
    for name in ("result.json", "adapter.safetensors"):
        (tmp_path / "whole" / name).unlink()
    _, again, others = run("whole", **options, resume=True)
    assert same(whole, again)
    assert rows == others


@pytest.mark.parametrize("options", [{}, {"no_aug": False}], ids=["plain", "augmented"])
def test_where_images_are_kept_does_not_change_a_run(run, options):
    _, first, rows = run("none", cache="none", drop_path=0.3, **options)
    for cache in ("auto", "memory", "device"):
        _, second, others = run(cache, cache=cache, drop_path=0.3, **options)
        assert same(first, second)
        assert rows == others
