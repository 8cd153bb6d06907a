"""The loop does what a page of plain torch does, to what is trained and to nothing else."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from toys import Fixed, largest_difference, small, state, textbook, train, trained_names

import capaboost_vit


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"warmup_epochs": 2},
        {"epochs": 10},
        {"smoothing": 0.2},
        {"weight_decay": 0.3},
        {"clip_grad": 0.05},
        {"clip_grad": 1e9},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_training_reaches_the_weights_of_the_textbook_loop(method, options):
    ours, reference = small(method, drop_path_rate=0.2), small(method, drop_path_rate=0.2)
    start = state(ours)
    log = train(ours, **options)
    epochs = options.get("epochs", 4)
    losses = textbook(
        reference,
        Fixed(),
        epochs=epochs,
        lr=1e-2,
        warmup=options.get("warmup_epochs", round(epochs / 10)),
        **{name: options[name] for name in ("weight_decay", "smoothing") if name in options},
        clip=options.get("clip_grad"),
    )
    assert log.losses == pytest.approx(losses, abs=1e-5)
    assert largest_difference(state(ours), state(reference)) < 1e-4
    assert largest_difference(state(ours), start) > 1e-2


def test_clipping_changes_the_result():
    free, clipped = small(), small()
    train(free, opt="sgd")
    train(clipped, opt="sgd", clip_grad=1e-3)
    assert largest_difference(state(free), state(clipped)) > 1e-4


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "prompt"])
def test_only_what_is_trained_moves_and_all_of_it_does(method):
    model = small(method, drop_path_rate=0.2)
    before, trained = state(model), trained_names(model)
    train(model, Fixed(), Fixed())
    after = state(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == trained
    assert 0 < len(trained) < len(before)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"targets": "fc", "head": ()}),
        ("adapter", {"targets": "fc", "head": (), "bottleneck": 2}),
        ("lora", {"targets": "fc"}),
        ("head", {}),
    ],
    ids=["lora", "adapter", "lora and head", "head"],
)
def test_frozen_batch_norms_keep_their_statistics(method, options):
    model = timm.create_model("test_resnet", num_classes=3)
    capaboost_vit.adapt(model, method, **options)
    before, trained = state(model), trained_names(model)
    assert any("running_mean" in name for name in before)
    train(model, Fixed(image=(3, 32, 32)), Fixed(image=(3, 32, 32)))
    after = state(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained


def test_full_fine_tuning_moves_batch_norm_statistics():
    model = timm.create_model("test_resnet", num_classes=3)
    capaboost_vit.adapt(model, "full")
    before = state(model)
    train(model, Fixed(image=(3, 32, 32)), epochs=1, lr=1e-4)
    name = next(name for name in before if name.endswith("running_mean"))
    assert not torch.equal(before[name], state(model)[name])


def test_two_runs_of_one_seed_are_bitwise_equal_and_those_of_another_are_not():
    results = []
    for seed in (1, 1, 2):
        model = small(drop_path_rate=0.5)  # the seed decides which paths are dropped
        train(model, seed=seed)
        results.append(state(model))
    assert largest_difference(results[0], results[1]) == 0
    assert largest_difference(results[0], results[2]) > 0


def test_validation_does_not_change_training():
    alone, watched = small(drop_path_rate=0.3), small(drop_path_rate=0.3)
    train(alone)
    log = train(watched, Fixed(), Fixed((7,)))
    assert largest_difference(state(alone), state(watched)) == 0
    assert all("val_accuracy" in row for row in log.rows)


def test_gradient_checkpointing_gives_the_same_result():
    plain, saving = small(), small()
    saving.set_grad_checkpointing(True)
    train(plain)
    train(saving)
    assert largest_difference(state(plain), state(saving)) < 1e-6


def test_the_learning_rate_starts_low_peaks_and_ends_at_zero():
    log = train(small(), epochs=10, warmup_epochs=2)
    rates = [*log.rates, log.state.optimizer.param_groups[0]["lr"]]  # of each update, and of one that is not there
    ramp = [1e-7 + (1e-2 - 1e-7) * step / 6 for step in range(7)]
    assert rates[:7] == pytest.approx(ramp, rel=1e-6)
    assert rates[6] == max(rates)
    assert all(high > low for high, low in pairwise(rates[6:]))
    assert max(high - low for high, low in pairwise(rates[6:])) < 1e-2 / 12  # no jump
    assert rates[-1] == pytest.approx(0, abs=1e-9)


# what is recorded


def test_rows_hold_exact_means_over_images_not_over_batches():
    model = small()
    reference = copy.deepcopy(model).train()
    log = train(model, epochs=1, lr=1e-30, val=Fixed((4, 1)))
    losses = [F.cross_entropy(reference(x), y, reduction="sum").item() for x, y in Fixed()]
    right = sum(int((reference(x).argmax(-1) == y).sum()) for x, y in Fixed())
    held_out = sum(int((reference.eval()(x).argmax(-1) == y).sum()) for x, y in Fixed((4, 1)))
    (row,) = log.rows
    assert row["epoch"] == 1
    assert row["train_loss"] == pytest.approx(sum(losses) / 21, abs=1e-5)
    assert row["train_accuracy"] == pytest.approx(100 * right / 21)
    assert row["val_accuracy"] == 100 * held_out / 5
    val_losses = [F.cross_entropy(reference(x), y, reduction="sum").item() for x, y in Fixed((4, 1))]
    assert row["val_loss"] == pytest.approx(sum(val_losses) / 5, rel=1e-6)
    assert list(row) == ["epoch", "update", "train_loss", "train_accuracy", "grad_norm", "val_loss", "val_accuracy"]
    assert row["grad_norm"] == pytest.approx(sum(log.norms) / 3)
    assert (log.state.progress.examples, log.state.progress.seconds) == (21, 0.75)
    assert log.updates == [1, 2, 3]


def test_label_smoothing_raises_the_loss_of_a_confident_model():
    sure = nn.Linear(3, 3)
    with torch.no_grad():
        sure.weight.copy_(20 * torch.eye(3))
        sure.bias.zero_()
    labels = torch.tensor([0, 1, 2])

    class Easy(Fixed):
        def __init__(self):
            super().__init__((3,), image=(3,))
            self.batches = [(torch.eye(3), labels)]
            self.places = {1.0: 0}

    plain, smooth = (train(copy.deepcopy(sure), Easy(), smoothing=s, epochs=1).losses[0] for s in (0.0, 0.3))
    assert plain == pytest.approx(0, abs=1e-6)
    assert smooth == pytest.approx(0.3 * 20 * 2 / 3, rel=1e-4)


# refusals


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match="the training split has no image: look at --data"):
        train(small(), Fixed(()))


def test_nothing_to_train_is_refused():
    model = small()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the model is trained"):
        train(model)
