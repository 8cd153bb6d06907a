"""Evaluation counts every image once, in whole numbers."""

from __future__ import annotations

import torch
from sklearn.metrics import confusion_matrix
from torch import nn
from toys import Fixed, small

from capaboost_vit.training.config import TrainConfig
from capaboost_vit.training.loop import evaluate


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
