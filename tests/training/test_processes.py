"""Two processes train one model: what one process would have got, in both alike."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import time

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from capaboost_vit.run import train
from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.sharding import shard_frozen
from capaboost_vit.vision.config import TrainConfig

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """train with 3 classes of 7, val with one image, test with 3."""
    folder = tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 7), ("val", 1), ("test", 3)):
        for label, name in enumerate(("blue", "green", "red") if part == "train" else ("blue",)):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                colour = [10 * (i % 5), 8 * (i % 7), 9 * (i % 3)]
                colour[label] += 120
                Image.new("RGB", (16, 16), tuple(colour)).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture
def run_in(ready, pictures, tmp_path):
    def run(processes, **options):
        name = f"{processes} processes"
        values = {
            "model": "vit_tiny_capaboost_lora",
            "model_kwargs": SMALL,
            "data": str(pictures),
            "output": str(tmp_path / name),
            "img_size": 16,
            "epochs": 2,
            "batch_size": 10,
            "lr": 1e-2,
            "drop_path": 0.0,
            "device": "cpu",
            **options,
        }
        if processes == 1:
            train(TrainConfig(**values))
            return None, tmp_path / name
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(values))
        env = {**os.environ, "COLUMNS": "200"}
        return ready.run(["capaboost", "train", "--config", config], ranks=processes, env=env), tmp_path / name

    return run


def rows(folder):
    with open(folder / "summary.csv", newline="") as file:
        return [[float(value) for value in row.values()] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "options",
    [
        {"grad_accum_steps": 3, "opt": "sgd", "model_ema": True},
        pytest.param({"model": "vit_tiny_capaboost_adapter", "clip_grad": 0.1, "opt": "sgd"}, marks=pytest.mark.slow),
        pytest.param({"select": "best", "opt": "sgd", "workers": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_two_processes_get_what_one_gets(run_in, options):
    # 21 images in updates of 10, 10 and 1: the second process has none of the last, and none of val
    (_, first), (two, second) = (run_in(processes, **options) for processes in (1, 2))
    assert two.returncode == 0, two.stderr
    expected, found = (load_file(folder / "adapter.safetensors") for folder in (first, second))
    assert max((found[name].float() - value.float()).abs().max().item() for name, value in expected.items()) <= 1e-6
    for row, other in zip(rows(first), rows(second), strict=True):
        assert row == pytest.approx(other, abs=1e-4)
    expected, found = (json.loads((folder / "result.json").read_text()) for folder in (first, second))
    assert (found["test_total"], found["test_right"]) == (3, expected["test_right"])
    assert found["val_accuracy"] in (0, 100)
    assert (found["machine"]["processes"], found["updates"]) == (2, 6)
    # the first process alone talks and writes
    lines = [line for line in two.stderr.splitlines() if "epoch" in line or "accuracy" in line]
    assert len([line for line in lines if line.startswith("epoch 1")]) == 1
    assert len([line for line in lines if line.startswith("test accuracy")]) == 1
    assert two.stdout.count("finished: ") == 1
    assert len(list((second / "tensorboard").iterdir())) == 1
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}


@pytest.mark.slow
def test_two_processes_that_hold_half_of_the_frozen_base_get_the_bits_of_those_that_hold_all(run_in):
    # batches of 5 and 4 images in three parts, and of one or none in evaluation
    options = {"short_cuts": False, "grad_accum_steps": 3, "batch_size": 9, "validation_batch_size": 1}
    results = []
    for fsdp in (False, True):
        done, folder = run_in(2, **options, fsdp=fsdp, overwrite=fsdp)
        assert done.returncode == 0, done.stderr
        results.append([(folder / name).read_bytes() for name in ("adapter.safetensors", "summary.csv")])
        sizes = {path.name: path.stat().st_size // 1000 for path in (folder / "checkpoints").iterdir()}
        results[-1].append(sizes)
    assert results[0] == results[1]
    line = re.search(r"; ([\d,]+) of ([\d,]+) parameters trained\n.* holds ([\d,]+)", done.stderr)
    trained, total, held = (int(number.replace(",", "")) for number in line.groups())
    assert held <= trained + 0.51 * (total - trained)


def test_one_process_has_nothing_to_share(run_in):
    with pytest.raises(ValueError, match="--fsdp shards weights over processes, and this is one: start them by torchr"):
        run_in(1, fsdp=True)


def test_a_pytorch_that_shards_all_or_nothing_is_named(monkeypatch):
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module, *, mesh=None: None)
    with pytest.raises(ValueError, match=r"--fsdp needs a newer PyTorch than \S+, whose fully_shard cannot leave out"):
        shard_frozen(nn.Linear(2, 2), ProcessGroup(0, 2, 0), torch.device("cpu"))


WORKER = """
import sys
import timm, torch
import torch.distributed as dist
import capaboost_vit
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.training.distributed import initialized, torchrun_group
from capaboost_vit.training.evaluation import evaluate
from capaboost_vit.training.loop import fit
from capaboost_vit.training.signals import StopSignals
from capaboost_vit.training.state import State
from toys import Records, Step, job_of

method, device = sys.argv[1], torch.device("cpu")
torch.set_num_threads(1)
world = torchrun_group()
draw = torch.Generator().manual_seed(0)
size = 64 if method == "full" else 32  # a batch norm wants more than one value per channel
images = torch.randn(9, 3, size, size, generator=draw)
labels = torch.randint(3, (9,), generator=draw)


class Share:
    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def epoch(self, epoch, start=0):
        for size in self.sizes[start:]:
            mine = list(range(world.rank, size, world.size))
            batch = (images[mine], labels[mine]) if mine else (images[:1], torch.tensor([-1]))
            yield Step([batch], size, mine)


class Val:
    def __init__(self, count):
        mine = list(range(world.rank, count, world.size))
        self.batch = (images[mine], labels[mine]) if mine else (images[:1], torch.tensor([-1]))

    def __iter__(self):
        return iter([self.batch])


with initialized(world, device):
    torch.manual_seed(5)
    if method == "full":
        model = timm.create_model("test_resnet", num_classes=3)
        capaboost_vit.adapt(model, "full")
    else:
        small = dict(img_size=32, patch_size=16, embed_dim=16, depth=2, num_heads=2, num_classes=3)
        model = timm.create_model(f"vit_tiny_capaboost_{method}", drop_path_rate=0.3, **small)
    config = TrainConfig(epochs=2, lr=1e-2, model_ema=True, model_ema_decay=0.5, select="best", batch_size=9)
    prepare = lambda batch: batch
    log = Records()
    state = State(model, config, 3)
    fit(job_of(state, Share([9, 1, 4]), Val(5), world=world), log, save=lambda state: None, stop=StopSignals())
    whole = {**state.pack()["model"], **state.averages.values}
    flat = torch.cat([tensor.detach().double().reshape(-1) for tensor in model.state_dict().values()])
    flat = torch.cat([flat, torch.tensor([row["val_accuracy"] for row in log.rows] + log.losses).double()])
    everyone = [torch.zeros_like(flat) for _ in range(world.size)]
    dist.all_gather(everyone, flat)
    assert torch.equal(everyone[0], everyone[1]), (everyone[0] - everyone[1]).abs().max()
    for count in (1, 2, 5, 9):
        found = evaluate(model, Val(count), prepare=prepare, config=config, world=world)
        with torch.no_grad():
            answers = model.eval()(images[:count]).argmax(-1)
        expected = torch.zeros(3, 3, dtype=torch.int64)
        for label, answer in zip(labels[:count], answers):
            expected[label, answer] += 1
        assert torch.equal(found.to_dense(), expected), (count, found, expected)
if world.is_main:
    print("the same in both")
"""


@pytest.mark.parametrize("method", ["full", "lora", "adapter", "prefix", "prompt"])
def test_both_processes_hold_the_same_bits_and_count_the_same(ready, method):
    env = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    done = ready.run(["python", "-c", WORKER, method], ranks=2, env=env, check=True)
    assert done.stdout == "the same in both\n"


def test_an_image_that_one_process_cannot_read_ends_both_with_its_name(run_in, pictures, tmp_path):
    data = shutil.copytree(pictures, tmp_path / "data")
    (data / "train" / "red" / "3.png").write_bytes(b"no image")
    start = time.monotonic()
    done, folder = run_in(2, data=str(data))
    assert time.monotonic() - start < 60
    assert done.returncode != 0
    assert "cannot read the image" in done.stderr
    assert "3.png" in done.stderr
    assert not (folder / "result.json").exists()
    assert json.loads((folder / "status.json").read_text())["status"] == "failed"


def test_the_images_of_a_bad_update_are_named_those_of_all_processes(run_in):
    done, folder = run_in(2, opt="sgd", lr=1e30, warmup_epochs=0)
    assert done.returncode != 0
    assert "the loss is nan in epoch 1, step 2" in done.stderr
    bad = json.loads((folder / "bad_batch.json").read_text())
    assert bad["update"] == 2
    assert len(set(bad["images"])) == len(bad["images"]) == 10


@pytest.mark.slow
def test_two_processes_agree_about_the_rate_that_they_search(run_in):
    # 21 images in 21 updates of an epoch; the second process has nothing of val
    options = {"lr": "auto", "batch_size": 1, "epochs": 7, "opt": "sgd"}
    done, folder = run_in(2, **options)
    assert done.returncode == 0, done.stderr
    search = json.loads((folder / "result.json").read_text())["lr_search"]
    assert sum(row["updates"] for row in search["tried"]) <= 73
    assert yaml.safe_load((folder / "config.yaml").read_text())["lr"] == search["lr"]
    (_, alone) = run_in(1, **options)
    one = json.loads((alone / "result.json").read_text())["lr_search"]
    assert [(row["lr"], row["updates"], row["score"]) for row in search["tried"]] == [
        (row["lr"], row["updates"], row["score"]) for row in one["tried"]
    ]
    assert search["lr"] == one["lr"]
