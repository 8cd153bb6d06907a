"""The loop does what a page of plain torch does, to what is trained and to nothing else."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import timm
import torch
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.nn import functional as F

import capaboost_vit
from capaboost_vit.training.config import TrainConfig
from capaboost_vit.training.loop import evaluate, fit

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
FAST = {"epochs": 4, "lr": 1e-2, "drop_path": 0.0, "log_interval": 1}


class Fixed:
    """Three batches of noise, the last one smaller, that another epoch gives in another order."""

    def __init__(self, sizes=(8, 8, 5), image=(3, 16, 16), classes=3):
        draw = torch.Generator().manual_seed(0)
        self.batches = [
            (torch.randn(size, *image, generator=draw), torch.randint(classes, (size,), generator=draw))
            for size in sizes
        ]

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch):
        shift = epoch % max(1, len(self))
        return iter(self.batches[shift:] + self.batches[:shift])

    def __iter__(self):
        return iter(self.batches)


class Records:
    """In the place of a Log: keeps what it is told."""

    def __init__(self):
        self.rows, self.losses, self.points = [], [], []

    def step(self, epoch, step, loss):
        self.losses.append(loss)

    def scalars(self, values, step):
        self.points.append((step, dict(values)))

    def epoch(self, row):
        self.rows.append(row)


def train(model, batches=None, val=None, *, prepare=lambda batch: batch, seed=0, **options):
    torch.manual_seed(seed)
    log = Records()
    config = TrainConfig(**{**FAST, **options})
    batches = Fixed() if batches is None else batches
    log.speed = fit(model, batches, val, prepare=prepare, config=config, log=log)
    return log


def small(method="lora", **options):
    torch.manual_seed(7)
    return timm.create_model(f"vit_tiny_capaboost_{method}", **{**SMALL, **options})


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def largest_difference(first, second):
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def textbook(model, batches, *, epochs, lr, warmup, weight_decay=1e-4, smoothing=0.0, clip=None, seed=0):
    """The same training, written out: AdamW, decay for matrices only, linear warm-up and a cosine by formula."""
    torch.manual_seed(seed)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    flat = [p for name, p in named if p.ndim <= 1]
    groups = [{"params": flat, "weight_decay": 0.0}, {"params": [p for _, p in named if p.ndim > 1]}]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    losses, done, all_steps, ramp = [], 0, epochs * len(batches), warmup * len(batches)
    model.train()
    for epoch in range(epochs):
        for images, labels in batches.epoch(epoch):
            if done < ramp:
                now = 1e-7 + (lr - 1e-7) * done / ramp
            else:
                now = 0.5 * lr * (1 + math.cos(math.pi * (done - ramp) / (all_steps - ramp)))
            for group in optimizer.param_groups:
                group["lr"] = now
            loss = F.cross_entropy(model(images), labels, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                norm = torch.stack([p.grad.norm() for _, p in named]).norm()
                for _, p in named:
                    p.grad.mul_(min(1.0, clip / norm.item()))
            optimizer.step()
            done += 1
            losses.append(loss.item())
    return losses


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
    rates = [point["train/lr"] for _, point in log.points if "train/lr" in point]  # as each update leaves it
    ramp = [1e-7 + (1e-2 - 1e-7) * step / 6 for step in range(1, 7)]
    assert rates[:6] == pytest.approx(ramp, rel=1e-6)
    assert rates[5] == max(rates)
    assert all(high > low for high, low in pairwise(rates[5:]))
    assert max(high - low for high, low in pairwise(rates[5:])) < 1e-2 / 12  # no jump
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
    assert list(row) == ["epoch", "train_loss", "train_accuracy", "val_accuracy", "images_per_second", "seconds"]
    assert log.speed["images_per_second"] == pytest.approx(21 / log.speed["train_seconds"])


def test_points_come_every_log_interval_and_after_each_epoch():
    log = train(small(), epochs=3, log_interval=4)
    assert [step for step, values in log.points if "train/loss" in values] == [4, 8]
    assert [step for step, values in log.points if "epoch/train_loss" in values] == [1, 2, 3]
    assert len(log.losses) == 9


# evaluation


def test_evaluation_counts_each_image_once_without_dropout_or_gradient():
    model = small(drop_path_rate=0.9).train()
    batches = Fixed((8, 8, 5))
    found = [evaluate(model, batches, prepare=lambda batch: batch, config=TrainConfig()) for _ in range(3)]
    assert not model.training
    with torch.no_grad():
        right = sum(int(model(x[i : i + 1]).argmax() == y[i]) for x, y in batches for i in range(len(y)))
    assert {(int(confusion.trace()), int(confusion.sum())) for confusion in found} == {(right, 21)}
    assert all(p.grad is None for p in model.parameters())


def test_a_confusion_matrix_has_labels_in_rows_and_answers_in_columns():
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
    answers, labels = torch.tensor([0, 2, 2, 1, 2]), torch.tensor([0, 1, 2, 1, 1])
    batches = [(torch.eye(3)[answers[:3]], labels[:3]), (torch.eye(3)[answers[3:]], labels[3:])]
    found = evaluate(model, batches, prepare=lambda batch: batch, config=TrainConfig())
    assert found.tolist() == [[1, 0, 0], [0, 1, 2], [0, 0, 1]]
    assert found.tolist() == confusion_matrix(labels, answers).tolist()


def test_what_a_batch_becomes_is_decided_by_prepare():
    found = evaluate(small(), Fixed(), prepare=lambda batch: (batch[0], batch[1] * 0 + 2), config=TrainConfig())
    assert found[2].sum() == found.sum() == 21


# numbers that are not finite


def poison(step, value=float("nan")):
    """A prepare that spoils the images of one step, counted from 1."""
    count = 0

    def prepare(batch):
        nonlocal count
        count += 1
        return (batch[0] * value if count == step else batch[0]), batch[1]

    return prepare


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_a_weight(value):
    spoiled, stopped = small(), small()
    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 2, step 1: try a smaller --lr"):
        train(spoiled, prepare=poison(4, value), sched="none", warmup_epochs=0)
    train(stopped, epochs=1, sched="none", warmup_epochs=0)  # the three steps before it
    assert largest_difference(state(spoiled), state(stopped)) == 0
    assert all(tensor.isfinite().all() for tensor in state(spoiled).values() if tensor.is_floating_point())


class _Steep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


class Steep(nn.Module):
    """A finite loss with a gradient that is not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return _Steep.apply(self.linear(x))


@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_it_reaches_a_weight(clip_grad):
    model = Steep()
    before = state(model)
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite in epoch 1, step 1"):
        train(model, Fixed(image=(4,)), clip_grad=clip_grad)
    assert largest_difference(before, state(model)) == 0


# mixed precision


class Watched(nn.Module):
    """Notes the precision that its linear layer computes in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(4, 3)
        self.seen = set()

    def forward(self, x):
        y = self.linear(x)
        self.seen.add(y.dtype)
        return y


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.float32),
        ({"amp": True}, torch.bfloat16),
        ({"amp": True, "amp_dtype": "float16"}, torch.float16),
    ],
    ids=["float32", "bfloat16", "float16"],
)
def test_mixed_precision_computes_low_and_keeps_float32_weights(options, dtype):
    model, exact = Watched(), Watched()
    batches = Fixed(image=(4,))
    log = train(model, batches, batches, **options)
    train(exact, batches)
    assert model.seen == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert largest_difference(state(model), state(exact)) < 0.02
    assert all(math.isfinite(loss) for loss in log.losses)


def test_a_vit_trains_in_bfloat16():
    model = small("adapter")
    log = train(model, amp=True, epochs=8)
    assert log.rows[-1]["train_loss"] < log.rows[0]["train_loss"]


@pytest.mark.gpu
@pytest.mark.parametrize("amp_dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains_on_a_gpu(amp_dtype):
    model = small().cuda()
    log = train(
        model, prepare=lambda batch: (batch[0].cuda(), batch[1].cuda()), amp=True, amp_dtype=amp_dtype, epochs=8
    )
    assert log.rows[-1]["train_loss"] < log.rows[0]["train_loss"]


def test_label_smoothing_raises_the_loss_of_a_confident_model():
    sure = nn.Linear(3, 3)
    with torch.no_grad():
        sure.weight.copy_(20 * torch.eye(3))
        sure.bias.zero_()
    labels = torch.tensor([0, 1, 2])

    class Easy(Fixed):
        def __init__(self):
            self.batches = [(torch.eye(3), labels)]

    plain, smooth = (train(copy.deepcopy(sure), Easy(), smoothing=s, epochs=1).losses[0] for s in (0.0, 0.3))
    assert plain == pytest.approx(0, abs=1e-6)
    assert smooth == pytest.approx(0.3 * 20 * 2 / 3, rel=1e-4)


# refusals


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match="the training split has no image"):
        train(small(), Fixed(()))


def test_nothing_to_train_is_refused():
    model = small()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the model is trained"):
        train(model)
