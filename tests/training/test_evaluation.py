"""Evaluation counts every image once, in whole numbers."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import nn
from toys import Fixed, small

from capaboost_vit.training.evaluation import evaluate
from capaboost_vit.vision.config import TrainConfig


def same(batch):
    """A prepare that leaves a batch alone."""
    return batch


def test_evaluation_counts_each_image_once_without_dropout_or_gradient():
    model = small(drop_path_rate=0.9).train()
    batches = Fixed((8, 8, 5))
    found = [evaluate(model, batches, prepare=same, config=TrainConfig()) for _ in range(3)]
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
    found = evaluate(model, batches, prepare=same, config=TrainConfig())
    assert found.tolist() == [[1, 0, 0], [0, 1, 2], [0, 0, 1]]
    assert found.tolist() == confusion_matrix(labels, answers).tolist()


def test_what_a_batch_becomes_is_decided_by_prepare():
    found = evaluate(small(), Fixed(), prepare=lambda batch: (batch[0], batch[1] * 0 + 2), config=TrainConfig())
    assert found[2].sum() == found.sum() == 21


def test_a_label_of_minus_one_counts_for_nothing():
    model, (images, labels) = small(), Fixed((9,)).batches[0]
    hidden = torch.where(torch.arange(9) % 2 == 0, labels, -1)
    found = evaluate(model, [(images, hidden), (images, -1 - 0 * labels)], prepare=same, config=TrainConfig())
    with torch.no_grad():
        answers = model(images[::2]).argmax(-1)
    assert found.tolist() == confusion_matrix(labels[::2], answers, labels=[0, 1, 2]).tolist()


def test_counts_are_whole_numbers_and_nothing_is_an_empty_matrix():
    found = evaluate(small(), Fixed(), prepare=same, config=TrainConfig())
    assert (found.dtype, found.shape, found.device.type) == (torch.int64, (3, 3), "cpu")
    assert evaluate(small(), [], prepare=same, config=TrainConfig()).shape == (0, 0)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_gpu_is_waited_for_once():
    batches = [(images.cuda(), labels.cuda()) for images, labels in Fixed((8, 8, 5))]
    expected = evaluate(small(), Fixed((8, 8, 5)), prepare=same, config=TrainConfig())

    def given():
        torch.cuda.set_sync_debug_mode("error")
        yield from batches
        torch.cuda.set_sync_debug_mode("default")

    try:
        found = evaluate(small().cuda(), given(), prepare=same, config=TrainConfig())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.tolist() == expected.tolist()
