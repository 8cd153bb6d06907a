"""The worst mistakes against a loop in float64, whatever the batches and the processes."""

from __future__ import annotations

import math

import pytest
import torch
from toys import Fixed, small

from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.evaluation import evaluate
from capaboost_vit.training.objective import Mistakes
from capaboost_vit.vision.config import TrainConfig

CLASSES, COUNT = 5, 40
DRAW = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(COUNT, CLASSES, generator=DRAW)
LABELS = torch.randint(CLASSES, (COUNT,), generator=DRAW)


class Two(ProcessGroup):
    """One of two processes, which hears what the other one says."""

    def gather(self, values):
        return [*values, *self.heard]


def naive(keep):
    rows = []
    for place, (logits, label) in enumerate(zip(LOGITS.double().tolist(), LABELS.tolist(), strict=True)):
        total = sum(math.exp(value) for value in logits)
        answer = max(range(CLASSES), key=lambda i: logits[i])
        if answer != label:
            rows.append((math.exp(logits[label]) / total, place, label, answer, math.exp(logits[answer]) / total))
    return [(place, label, answer, p, q) for p, place, label, answer, q in sorted(rows)][:keep]


def filled(mistakes, indices, sizes):
    for part in torch.as_tensor(indices).split(sizes):
        mistakes.add(LOGITS[part], LABELS[part])
    return mistakes


def check(found, expected):
    assert [(row["place"], row["label"], row["answer"]) for row in found] == [row[:3] for row in expected]
    for row, (*_, of_label, of_answer) in zip(found, expected, strict=True):
        assert (row["label_probability"], row["answer_probability"]) == pytest.approx((of_label, of_answer), rel=1e-4)


@pytest.mark.parametrize("keep", [1, 7, 24, 100])
@pytest.mark.parametrize("size", [1, 16, 40])
def test_the_worst_mistakes_are_those_of_a_loop_whatever_the_batches(keep, size):
    check(filled(Mistakes(range(COUNT), ProcessGroup(), keep=keep), range(COUNT), size).result(), naive(keep))


def test_two_processes_find_what_one_finds():
    own, other = (
        filled(Mistakes(range(rank, COUNT, 2), Two(rank, 2), keep=9), range(rank, COUNT, 2), 8) for rank in (0, 1)
    )
    object.__setattr__(other.world, "heard", [])
    heard = [{**row, "loss": -math.log(row["label_probability"])} for row in other.result()]
    object.__setattr__(own.world, "heard", heard)
    check(own.result(), naive(9))


def test_batches_in_an_order_of_their_own_say_the_places():
    indices = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1)).tolist()
    check(filled(Mistakes(indices, ProcessGroup(), keep=9), indices, 7).result(), naive(9))


def test_right_answers_stand_ins_and_answers_that_are_no_number_are_no_mistakes():
    right = torch.eye(3)
    nothing = torch.tensor([[0.0, math.nan, 0.0]])
    mistakes = Mistakes(range(9), ProcessGroup())
    mistakes.add(right, torch.arange(3))
    mistakes.add(right, torch.full((3,), -1))
    mistakes.add(nothing, torch.tensor([0]))
    assert mistakes.result() == []
    assert Mistakes(range(9), ProcessGroup()).result() == []


def test_of_equal_losses_the_first_in_the_split_comes_first():
    mistakes = Mistakes(range(10), ProcessGroup(), keep=3)
    for size in (2, 3, 5):
        mistakes.add(torch.tensor([[1.0, 0.0]]).repeat(size, 1), torch.ones(size, dtype=torch.int64))
    assert [row["place"] for row in mistakes.result()] == [0, 1, 2]


def test_they_are_noted_beside_the_count_which_stays_what_it_is():
    mistakes = Mistakes(range(21), ProcessGroup(), keep=100)
    options = {"prepare": lambda batch: batch, "config": TrainConfig()}
    model = small()
    found = evaluate(model, Fixed((8, 8, 5)), also=mistakes.add, **options).to_dense()
    assert torch.equal(found, evaluate(model, Fixed((8, 8, 5)), **options).to_dense())
    wrong = int(found.sum() - found.trace())
    assert len(mistakes.result()) == wrong > 0
    pairs = torch.zeros_like(found)
    for row in mistakes.result():
        pairs[row["label"], row["answer"]] += 1
    assert pairs.tolist() == (found - found.diag().diag()).tolist()
