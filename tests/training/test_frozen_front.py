"""The frozen front: computed once and kept, to the bits of what is computed each time."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import capaboost_vit
from capaboost_vit.run import build_job, train
from capaboost_vit.training import cache_size
from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.frozen_front import Whole
from capaboost_vit.vision.class_row import logits_only
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.frozen_front import divide

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
LAST = ["blocks.2.attn.qkv"]
OPTIONS = {
    "model": "vit_tiny_patch16_224",
    "model_kwargs": SMALL,
    "method": {"name": "lora", "targets": LAST},
    "img_size": 16,
    "data": "digits:0-2",  # 269 training images
    "drop_path": 0.2,
    "epochs": 3,
    "batch_size": 67,  # the last batch has one image
    "validation_batch_size": 60,
    "lr": 1e-2,
    "device": "cpu",
}


@pytest.fixture
def run(tmp_path, without_pictures):
    """Trains; returns the tensors of the adapter and the table."""

    def start(name, **options):
        train(TrainConfig(**{**OPTIONS, **options}, output=str(tmp_path / name)))
        return load_file(tmp_path / name / "adapter.safetensors"), (tmp_path / name / "summary.csv").read_text()

    return start


def same(first, second):
    return first[1] == second[1] and all(torch.equal(first[0][name], second[0][name]) for name in first[0])


def job_of(**options):
    return build_job(TrainConfig(**{**OPTIONS, **options}), ProcessGroup(), torch.device("cpu"))


@pytest.mark.parametrize("method", [{"name": "lora", "targets": LAST}, {"name": "head"}, {"name": "norm"}], ids=str)
def test_a_run_has_the_same_bits_whatever_is_kept_of_the_front(run, monkeypatch, method):
    kept = run("kept", method=method)
    assert same(kept, run("not kept", method=method, cache="none"))
    monkeypatch.setattr(
        cache_size, "MEMORY", 100 * 5 * 16 * 4
    )  # of 100 images where five tokens are kept, of which 64 bytes
    assert same(kept, run("in part", method=method))
    if method["name"] != "norm":  # which trains something in the first block
        assert not same(kept, run("whole", method=method, short_cuts=False))  # drop path in all blocks


def test_what_is_kept_is_a_first_part_that_fits(monkeypatch):
    monkeypatch.setattr(cache_size, "MEMORY", 100 * 5 * 16 * 4 + 1)
    job = job_of()
    lines = []
    job.front.fill(lines.append)
    assert sorted(job.front.kept) == [*range(100)]
    assert lines == [
        "computing 2 of 3 blocks once for 269 images",
        "there is room for 100 of 269, see --cache; the others each time",
    ]
    for (activations, labels), part in zip(
        job.front.batches([[(99, True), (3, True), (200, True)], [(250, True)]]), (3, 1), strict=True
    ):
        assert activations.shape == (part, 5, 16)
        assert labels.shape == (part,)


def test_nothing_is_kept_for_one_epoch_nor_of_the_test_split():
    job = job_of(epochs=1, warmup_epochs=0)
    assert job.front is None
    assert isinstance(job.called, Whole)
    job = job_of()
    assert not job.front.filled
    assert not job.val.examples.filled
    assert job.test.examples.filled
    assert job.train.examples.examples.kind == "none"  # all activations fit, so the images are read once


def test_the_front_draws_nothing_and_its_modes_stay(run):
    job = job_of()
    job.called.train()
    drops = [module for module in job.model.modules() if type(module).__name__ == "DropPath"]
    assert [drop.training for drop in drops] == [False, False, True, True]  # the first block has none
    assert job.lines == [
        "short cuts: the last block for the tokens alone that the head reads; "
        "2 of 3 blocks in front in evaluation mode, as they are frozen"
    ]


def test_augmented_images_go_through_the_front_each_time():
    job = job_of(no_aug=False)
    assert isinstance(job.called, Whole)
    assert job.front is None
    job.called.train()
    images = torch.randn(4, 3, 16, 16)
    job.called(images).sum().backward()
    trained = {name for name, p in job.model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in job.model.named_parameters() if p.requires_grad}
    torch.testing.assert_close(job.called.eval()(images), job.model.eval()(images))


@pytest.mark.parametrize(
    ("name", "options", "method", "what"),
    [
        ("vit_tiny_patch16_224", SMALL, {"targets": ("blocks.1.mlp.fc1", "blocks.2.attn.qkv")}, "1 of 3 blocks"),
        ("vit_tiny_patch16_224", SMALL, {"targets": ("blocks.2.query", "blocks.2.value")}, "2 of 3 blocks"),
        ("vit_tiny_patch16_224", {**SMALL, "global_pool": "avg"}, {"targets": LAST}, "2 of 3 blocks"),
        ("deit_tiny_distilled_patch16_224", SMALL, {"targets": LAST}, "2 of 3 blocks"),
        ("vit_tiny_patch16_224", SMALL, "head", "3 of 3 blocks"),
        ("deit_tiny_distilled_patch16_224", SMALL, "head", "3 of 3 blocks"),
        (
            "eva02_tiny_patch14_224",
            {"patch_size": 8, "embed_dim": 24, "num_heads": 2},
            "head",
            "all blocks",
        ),
        ("resnet10t", {}, "head", "all blocks"),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}, "head", "all blocks"),
    ],
)
def test_front_and_rest_come_to_the_bits_of_the_whole_and_its_gradients(name, options, method, what):
    torch.manual_seed(0)
    size = {} if "res" in name or "next" in name else {"img_size": 32}
    model = timm.create_model(name, num_classes=5, **options, **size)
    method, given = (method, {}) if isinstance(method, str) else ("lora", method)
    capaboost_vit.adapt(model, method, **given)
    network = logits_only(model) if name.startswith(("vit", "deit")) and "global_pool" not in options else model
    divided = divide(network)
    assert divided.what == what
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    config = TrainConfig(model=name, method=given | {"name": method})

    def gradients(logits):
        model.zero_grad()
        F.cross_entropy(logits, labels).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = network.eval()(images)
    of_whole = gradients(expected)
    rows = divided.rows(divided.compute(images, config))
    assert all(not row.requires_grad for row in rows)
    logits = divided.rest.eval()(divided.batch(rows))
    assert torch.equal(logits, expected)
    of_rest = gradients(logits)
    assert of_rest.keys() == of_whole.keys()
    assert all(torch.equal(of_rest[name], of_whole[name]) for name in of_whole)
    divided.rest.train()
    body = [module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, nn.Dropout))]
    assert all(not module.training for module in body if what == "all blocks" and isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize("method", ["lora", "bitfit", "full", "prompt", "prefix", "ssf"])
def test_what_trains_something_in_the_first_block_or_before_has_no_front(method):
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, **SMALL)
    assert divide(capaboost_vit.adapt(model, method)) is None


@pytest.mark.parametrize(
    "front", [lambda images: images.mean() + torch.zeros(len(images), 5, 16), lambda images: images]
)
def test_a_division_that_comes_to_something_else_is_not_taken(monkeypatch, front):
    wrong = lambda network: dataclasses.replace(divide(network), front=front)  # noqa: E731
    monkeypatch.setattr("capaboost_vit.vision.job.divide", wrong)
    job = job_of()
    assert job.front is None
    assert job.lines[0].endswith("; 2 of 3 blocks in front with all others, not apart")
    assert job.called(torch.randn(2, 3, 16, 16)).shape == (2, 3)


def test_a_twin_does_not_disturb_the_model():
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, **SMALL)
    capaboost_vit.adapt(model, "head")
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, 16, 16)
    features = model.eval().forward_features(images)
    divide(logits_only(model))
    assert model.state_dict().keys() == before.keys()
    assert torch.equal(model.forward_features(images), features)
