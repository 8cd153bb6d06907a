"""Source-free adaptation: the update between singular vectors, the loss without labels, and what goes by labels."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.datasets
import torch
from safetensors.torch import load_file
from vits import IMAGES, vit

import capaboost_vit
from capaboost_vit.core.singular_update import SingularUpdate
from capaboost_vit.methods import Pass
from capaboost_vit.run import train
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.saved import merge_adapter

SMALL = {"patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3}


@torch.no_grad()
@pytest.mark.parametrize("rank", [3, 8])
def test_the_update_lies_between_the_first_singular_vectors(rank):
    random = np.random.RandomState(0)
    weight = random.normal(size=(8, 12))
    update = SingularUpdate(torch.from_numpy(weight), rank).double()
    assert not update.delta(lambda: None).any()
    update.core.copy_(torch.from_numpy(core := random.normal(size=(rank, rank))))
    u, _, vh = np.linalg.svd(weight)
    expected = (u[:, :rank] * np.sign((u[:, :rank] * update.left.numpy()).sum(0))) @ core
    expected = expected @ (vh[:rank] * np.sign((vh[:rank] * update.right.numpy()).sum(1))[:, None])
    np.testing.assert_allclose(update.delta(lambda: None).numpy(), expected, atol=1e-12)
    with pytest.raises(ValueError, match="rank 9 is above the smaller side of a weight of 8 x 12"):
        SingularUpdate(torch.from_numpy(weight), 9)


@torch.no_grad()
def test_it_starts_as_the_base_to_the_bit_keeps_the_head_and_merges():
    model = capaboost_vit.adapt(vit(), "sfda", rank=4)
    assert torch.equal(model(IMAGES), vit()(IMAGES))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in trained} == {"core"}
    assert sum(p.numel() for p in trained.values()) == 2 * 4 * 4**2  # blocks, matrices, rank squared
    for parameter in trained.values():
        parameter.normal_(std=0.3)
    model = model.double()
    expected = model(IMAGES.double())
    assert (expected - vit().double()(IMAGES.double())).abs().max() > 1e-2
    torch.testing.assert_close(capaboost_vit.merge(model)(IMAGES.double()), expected, rtol=1e-11, atol=1e-11)


def test_the_loss_is_the_mean_entropy_minus_that_of_the_mean():
    logits = np.random.RandomState(0).normal(size=(5, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropy, diversity = -(p * np.log(p)).sum(1).mean(), -(p.mean(0) * np.log(p.mean(0))).sum()
    nothing = Pass(torch.nn.Identity(), lambda *_: pytest.fail("the loss of the run"), lambda x: x)
    method = capaboost_vit.make_method("sfda", entropy_weight=2, diversity_weight=0.5)
    found = method.losses(nothing, None, torch.from_numpy(logits), torch.full((5,), -1))
    assert found.item() == pytest.approx(5 * (2 * entropy - 0.5 * diversity), rel=1e-5)
    sure = torch.tensor([[200.0, 0, 0], [0, 200, 0]])  # an answer that nobody gives has no logarithm
    assert method.losses(nothing, None, sure, torch.zeros(2)).item() == pytest.approx(2 * -0.5 * np.log(2))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small ViT after an epoch on clean digits, merged: a folder of timm's hub format."""
    folder = tmp_path_factory.mktemp("source")
    options = {"model": "vit_tiny_patch16_224", "method": {"name": "full"}, "model_kwargs": SMALL, "img_size": 16}
    train(TrainConfig(**options, data="digits", lr=3e-3, epochs=1, batch_size=32, output=str(folder / "run")))
    return merge_adapter(folder / "run" / "adapter.safetensors", folder / "merged")


def configuration(source, output, **options):
    options = {"method": {"name": "sfda", "rank": 8}, "epochs": 3, "img_size": 16, "batch_size": 32, **options}
    return TrainConfig(
        **{"model": str(source), "data": "digits:0-9:noisy", "output": str(output), "lr": 1e-2, **options}
    )


@pytest.mark.slow
def test_training_reads_no_label(source, tmp_path, monkeypatch, without_pictures, capsys):
    train(configuration(source, tmp_path / "right", epochs=1))
    assert "temperature of the probabilities: 1, as it would be found by labels" in capsys.readouterr().err
    digits = sklearn.datasets.load_digits()
    wrong = {**digits, "target": np.roll(digits.target, 4)}  # the splits are the same
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: type(digits)(**wrong))
    train(configuration(source, tmp_path / "wrong", epochs=1))
    right, other = (load_file(tmp_path / name / "adapter.safetensors") for name in ("right", "wrong"))
    assert right.keys() == other.keys()
    assert all(torch.equal(right[name], other[name]) for name in right)


@pytest.mark.slow
@pytest.mark.realdata
def test_a_model_of_clean_digits_learns_noisy_ones(vit_tiny_weights, tmp_path, without_pictures):
    options = {"model": "vit_tiny_patch16_224", "method": {"name": "full"}, "img_size": 32, "batch_size": 32}
    options |= {"data": "digits", "lr": 3e-4, "epochs": 2, "initial_checkpoint": str(vit_tiny_weights)}
    train(TrainConfig(**options, output=str(tmp_path / "run")))
    merged = merge_adapter(tmp_path / "run" / "adapter.safetensors", tmp_path / "merged")
    options = {"img_size": 32, "lr": 3e-3, "epochs": 2, "method": {"name": "sfda"}}
    before = train(configuration(merged, tmp_path / "before", **options | {"lr": 1e-12, "max_steps": 1}))
    after = train(configuration(merged, tmp_path / "after", **options))
    assert after["test_accuracy"] > before["test_accuracy"] + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "best"}, "sfda reads no labels, and --select best goes by them: leave it out"),
        ({"patience": 2}, "and --patience goes by them"),
        ({"sampling": "balanced"}, "and --sampling balanced goes by them"),
        ({"class_weights": "balanced"}, "and --class-weights goes by them"),
        ({"mixup": 0.5}, "and --mixup or --cutmix goes by them"),
        (
            {"model": "vit_tiny_patch16_224", "model_kwargs": SMALL},
            "sfda keeps the head, and head is not in the weights",
        ),
        ({"data": "digits:5-9:noisy"}, "sfda keeps the head, and head is not in the weights for these classes"),
    ],
)
@pytest.mark.slow
def test_what_goes_by_labels_and_a_head_that_is_new_are_refused(source, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(configuration(source, tmp_path / "run", **options))


@pytest.mark.slow
def test_no_learning_rate_is_searched_by_the_labels_of_val(source, tmp_path, without_pictures, capsys):
    result = train(configuration(source, tmp_path / "run", lr="auto", max_steps=1))
    assert result["config"]["lr"] == capaboost_vit.METHODS["sfda"].usual_lr
    assert "the method goes by no labels" in capsys.readouterr().err
