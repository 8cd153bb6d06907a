"""Classes of unequal size: weights in the loss, balanced sampling, and what the log says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from drawn import split_of
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from capaboost_vit.training.loader import TrainLoader, balanced_draw
from capaboost_vit.training.objective import classification
from capaboost_vit.vision.build import build_transform
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.data import ImageData
from capaboost_vit.vision.imbalance import class_weights, imbalance_lines, imbalance_warnings
from capaboost_vit.vision.loader import ImageExamples

CLASSES = ("cat", "dog", "eel", "fox")
DATA = ImageData("pets", CLASSES, {})
LABELS = (0,) * 12 + (1,) * 5 + (3,)  # no eel


def test_balanced_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=np.array(LABELS))
    weights = class_weights("balanced", LABELS, CLASSES, outputs=5)
    torch.testing.assert_close(weights[[0, 1, 3]], torch.tensor(expected).float())
    assert weights[[2, 4]].tolist() == [1, 1]  # without an image; without a class


@pytest.mark.parametrize("given", ["balanced", {"dog": 3}, {"cat": 0.5, "fox": 7.0, "eel": 2}], ids=str)
def test_the_mean_weight_of_a_training_image_is_one_and_names_keep_their_ratios(given):
    weights = class_weights(given, LABELS, CLASSES, outputs=4)
    assert weights[list(LABELS)].mean().item() == pytest.approx(1)
    if given == {"dog": 3}:
        assert (weights[1] / weights[0]).item() == pytest.approx(3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True], ids=["labels", "probabilities"])
def test_the_weighted_loss_is_torchs_and_only_that_of_training(smoothing, mixed):
    draw = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(6, 4, generator=draw), class_weights("balanced", LABELS, CLASSES, outputs=4)
    targets = torch.rand(6, 4, generator=draw).softmax(1) if mixed else torch.tensor([0, 1, 3, 0, 2, -1])
    objective = classification(smoothing=smoothing, weights=weights)
    ignored = {} if mixed else {"ignore_index": -1}
    options = {"weight": weights, "label_smoothing": smoothing, "reduction": "sum", **ignored}
    assert objective.loss(logits, targets) == F.cross_entropy(logits, targets, **options)
    assert objective.plain_loss(logits, targets) == F.cross_entropy(logits, targets, reduction="sum", **ignored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": "balance"}, "--class-weights must be balanced, or weights by class, .*, got 'balance'"),
        ({"class_weights": {"cat": 0}}, "--class-weights cat must be positive, got 0"),
        ({"class_weights": "balanced", "sampling": "balanced"}, "--class-weights and --sampling balanced both .* one"),
    ],
)
def test_weights_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_a_weight_of_no_class_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"no class 'dogs' .did you mean 'dog'.*the classes are: cat, dog, eel, fox"):
        class_weights({"dogs": 2}, LABELS, CLASSES, outputs=4)


@pytest.mark.parametrize("count", [18, 19, 20])
def test_each_class_is_drawn_equally_often_and_no_example_again_before_its_class_is_through(count):
    labels = np.array(LABELS + (0,) * (count - 18))
    drawn = balanced_draw(labels, np.random.default_rng(1))
    places = drawn % count
    sizes = Counter(labels[places].tolist())
    assert sum(sizes.values()) == count
    assert max(sizes.values()) - min(sizes.values()) == (count % 3 > 0)
    assert len({*drawn.tolist()}) == count  # each repetition has a number of its own
    for label in (0, 1, 3):
        often = [np.sum(places == i) for i in np.flatnonzero(labels == label)]
        assert max(often) - min(often) <= 1


def test_balanced_epochs_are_a_function_of_seed_and_epoch_and_repetitions_are_augmented_anew():
    data = {"input_size": (3, 16, 16), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    labels = np.array([0] * 9 + [1])
    split = split_of(10)

    def loader():
        examples = ImageExamples(split, build_transform(data, TrainConfig(no_aug=False)), seed=5)
        return TrainLoader(examples, batch_size=4, seed=5, balanced=labels)

    updates = [*loader().epoch(1)]
    resumed = [*loader().epoch(1, start=1)]
    for update, again in zip(updates[1:], resumed, strict=True):
        assert update.indices == again.indices
        assert torch.equal(update.batches[0][0], again.batches[0][0])
    rare = [
        image
        for update in updates
        for image, label in zip(*update.batches[0], strict=True)
        if label == 9  # of split_of, in which each image is a class of its own
    ]
    assert len(rare) == 5
    assert len({image.numpy().tobytes() for image in rare}) > 1
    assert sum(index == 9 for update in updates for index in update.indices) == 5
    assert [update.indices for update in loader().epoch(2)] != [update.indices for update in updates]


def test_the_log_says_how_often_the_rarest_comes_and_warns_of_unequal_classes_that_nobody_evens_out():
    (line,) = imbalance_lines(TrainConfig(sampling="balanced"), DATA, LABELS)
    assert (
        line
        == "balanced sampling: each class 6 times an epoch, so that each image of the rarest, 1 of 'fox', comes 6 times"
    )
    (warning,) = imbalance_warnings(TrainConfig(), DATA, LABELS)
    assert warning.startswith(
        "the classes are unequal: 12 training images of 'cat', 1 of 'fox'; --class-weights balanced"
    )
    for config in (TrainConfig(sampling="balanced"), TrainConfig(class_weights="balanced")):
        assert not [*imbalance_warnings(config, DATA, LABELS)]
    assert not [*imbalance_warnings(TrainConfig(), DATA, LABELS[3:])]  # 9 to 1


def test_the_frozen_front_gives_a_repetition_what_it_gives_the_example(configure):
    from capaboost_vit.training.distributed import ProcessGroup
    from capaboost_vit.vision.job import build_image_job

    job = build_image_job(
        configure(method={"name": "head"}, model="vit_tiny_patch16_224"), ProcessGroup(), torch.device("cpu")
    )
    assert job.front is not None
    first, again = job.front.batches([[(7, True)], [(7 + len(job.front), True)]])
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
