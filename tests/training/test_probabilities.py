"""Kept logits, temperature and the scores of a split against scikit-learn, scipy and the formulas."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy.optimize import minimize
from sklearn import metrics as sklearn_metrics
from toys import Fixed, small

from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.evaluation import evaluate
from capaboost_vit.training.probabilities import Kept, KeptLogits, classification_report, fitted_temperature
from capaboost_vit.training.report_text import score_text
from capaboost_vit.vision.config import TrainConfig


def drawn(count, classes, *, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = scale * torch.randn(count, classes, generator=generator)
    return logits + 2 * torch.nn.functional.one_hot(labels, classes), labels


def confusion_of(logits, labels):
    classes = logits.shape[1]
    dense = sklearn_metrics.confusion_matrix(labels, logits.argmax(-1), labels=range(classes))
    return torch.tensor(dense).to_sparse().coalesce()


class Gathered(ProcessGroup):
    """The first of two processes, which hears what the other one says."""

    def gather(self, values):
        return [*values, *self.heard.pop(0)]


# logits that are kept


@pytest.mark.parametrize("size", [1, 7, 40])
@pytest.mark.parametrize(("most", "step"), [(200, 1), (199, 2), (60, 4)])
def test_every_logit_is_kept_or_those_of_every_kth_example_whatever_the_batches(size, most, step):
    logits, labels = drawn(40, 5)
    kept = KeptLogits(range(40), 40, most=most)
    for part in torch.arange(40).split(size):
        kept.add(logits[part], labels[part])
    kept.add(logits[:1], torch.tensor([-1]))  # stands in
    found = kept.result(ProcessGroup())
    assert (found.step, found.logits.numel() <= most) == (step, True)
    assert torch.equal(found.logits, logits[::step])
    assert torch.equal(found.labels, labels[::step])


def test_two_processes_keep_what_one_keeps_in_the_order_of_the_split():
    logits, labels = drawn(11, 3)
    own, other = (KeptLogits(range(rank, 11, 2), 11, most=17) for rank in (0, 1))
    for kept in (own, other):
        kept.add(logits[kept.indices], labels[kept.indices])
    theirs = [place for place in other.indices if place % 2 == 0]
    world = Gathered(0, 2)
    object.__setattr__(world, "heard", [theirs, [torch.cat(other.rows)]])
    assert torch.equal(own.result(world).logits, logits[::2])


def test_logits_are_kept_beside_the_confusion_matrix_which_stays_what_it_is():
    kept, options = KeptLogits(range(21), 21), {"prepare": lambda batch: batch, "config": TrainConfig()}
    model = small()
    confusion = evaluate(model, Fixed((8, 8, 5)), also=kept.add, **options)
    logits, labels, _ = kept.result(ProcessGroup())
    assert torch.equal(confusion.to_dense(), confusion_of(logits, labels).to_dense())


# temperature


@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0])
def test_the_temperature_is_where_the_mean_nll_is_least(scale):
    logits, labels = drawn(300, 4)
    logits = scale * logits
    # scipy's simplex on scikit-learn's log-loss
    oracle = minimize(
        lambda log: sklearn_metrics.log_loss(labels, (logits.double() / math.exp(log[0])).softmax(-1)),
        [0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-12},
    )
    assert fitted_temperature(logits, labels) == pytest.approx(math.exp(oracle.x[0]), rel=5e-4)


def test_logits_times_a_number_have_that_number_times_the_temperature():
    logits, labels = drawn(200, 3)
    assert fitted_temperature(4 * logits, labels) == pytest.approx(4 * fitted_temperature(logits, labels), rel=1e-3)


def test_the_temperature_is_1_where_there_is_no_minimum():
    logits = torch.eye(3)
    assert fitted_temperature(logits, torch.arange(3)) == 1  # all right: NLL only falls with T
    assert fitted_temperature(logits, torch.tensor([1, 2, 0])) == 1  # all wrong: equal probabilities are best
    assert fitted_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == 1


# all scores of a split


def test_the_scores_of_a_split_are_scikit_learns():
    logits, labels = drawn(250, 5)
    report = classification_report(confusion_of(logits, labels), Kept(logits, labels, 1), "abcde", temperature=1.7)
    probabilities = (logits.double() / 1.7).softmax(-1)
    answers = logits.argmax(-1)
    assert (report["right"], report["total"], report["temperature"]) == (int((answers == labels).sum()), 250, 1.7)
    assert report["accuracy"] == pytest.approx(100 * sklearn_metrics.accuracy_score(labels, answers))
    assert report["accuracy_low"] < report["accuracy"] < report["accuracy_high"]
    assert report["balanced_accuracy"] == pytest.approx(100 * sklearn_metrics.balanced_accuracy_score(labels, answers))
    assert report["macro_f1"] == pytest.approx(100 * sklearn_metrics.f1_score(labels, answers, average="macro"))
    area = sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert report["auc"] == pytest.approx(100 * area, abs=1e-3)  # float32 has ties that float64 has not
    assert report["nll"] == pytest.approx(sklearn_metrics.log_loss(labels, probabilities))
    oracle = sklearn_metrics.classification_report(labels, answers, output_dict=True, target_names=[*"abcde"])
    for row in report["per_class"]:
        expected = oracle[row["class"]]
        shares = [100 * expected[name] for name in ("precision", "recall", "f1-score")]
        assert [row[name] for name in ("precision", "recall", "f1")] == pytest.approx(shares)
        assert row["support"] == expected["support"]
    assert json.loads(json.dumps(report)) == report


def test_a_temperature_changes_probabilities_and_no_prediction():
    logits, labels = drawn(100, 3)
    confusion, kept = confusion_of(logits, labels), Kept(logits, labels, 1)
    cold, hot = (classification_report(confusion, kept, "abc", temperature=value) for value in (1.0, 3.0))
    changed = {name for name in cold if cold[name] != hot[name]}
    assert changed == {"temperature", "nll", "ece", "auc"}


def test_classes_that_neither_occur_nor_are_predicted_have_no_row():
    logits, labels = torch.eye(6)[[1, 1, 4]], torch.tensor([1, 4, 4])
    report = classification_report(confusion_of(logits, labels), Kept(logits, labels, 1), ["a", "b"])
    assert [(row["class"], row["support"]) for row in report["per_class"]] == [("b", 1), ("4", 2)]


def test_the_table_has_every_class_or_the_worst_and_says_so():
    logits, labels = drawn(400, 30)
    few, many = (
        score_text(
            classification_report(confusion_of(part, asked), Kept(part, asked, 1), [f"[c{i}]" for i in range(30)])
        )
        for part, asked in ((logits[:, :3], labels % 3), (logits, labels))
    )
    assert [line.split()[0] for line in few.splitlines()[-3:]] == ["[c0]", "[c1]", "[c2]"]
    assert many.endswith("\nthe 20 classes of the lowest F1, of 30; --output FILE.json has all")
    values = [float(line.split()[3]) for line in many.splitlines()[-21:-1]]
    f1 = sklearn_metrics.f1_score(labels, logits.argmax(-1), average=None)
    assert values == pytest.approx(sorted(100 * f1)[:20], abs=0.006)


def test_scores_of_every_kth_example_are_called_so():
    logits, labels = drawn(40, 3)
    report = classification_report(confusion_of(logits, labels), Kept(logits[::2], labels[::2], 2), "abc")
    assert (report["total"], report["probabilities_step"]) == (40, 2)
    assert "AUC, ECE and NLL are of one example in 2: " in score_text(report)
