"""Losses, answers and tallies of each kind of task against loops over their examples; stand-ins count for nothing."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import nn

from capaboost_vit.nlu.config import TextConfig
from capaboost_vit.nlu.objectives import masked_tokens, spans
from capaboost_vit.nlu.token_objectives import TokenCounts
from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.evaluation import forward
from capaboost_vit.training.objective import Confusion, MeanLoss, accuracy, classification
from capaboost_vit.training.outputs import Outputs, regression

CLASSES, TOKENS, WORDS, COUNT = 3, 7, 11, 6
DRAW = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, generator=DRAW)


def pick(high, *shape):
    return torch.randint(high, shape, generator=DRAW)


def cross_entropy(logits, target):
    return math.log(sum(math.exp(value) for value in logits.tolist())) - logits[target].item()


def start_and_end():
    """Outputs and targets of questions; -inf where a text is filled up, as `answer` leaves it."""
    outputs, targets = draw(COUNT, 2, TOKENS), pick(TOKENS - 3, COUNT, 2)
    outputs[1, :, TOKENS - 2 :] = outputs[4, :, TOKENS - 3 :] = -torch.inf
    return outputs, targets


def masked():
    targets = torch.where(pick(3, COUNT, TOKENS) == 0, pick(WORDS, COUNT, TOKENS), -100)
    targets[:, 2] = pick(WORDS, COUNT)
    return draw(COUNT, TOKENS, WORDS), targets


class Given:
    """Batches that say which examples they gave out."""

    def __init__(self, indices):
        self.indices = indices


def naive_spans(outputs, targets):
    return sum(cross_entropy(outputs[i, end], targets[i, end]) / 2 for i in range(len(outputs)) for end in (0, 1))


def naive_masked(outputs, targets):
    total = 0.0
    for row, asked in zip(outputs, targets, strict=True):
        losses = [cross_entropy(row[place], word) for place, word in enumerate(asked) if word >= 0]
        total += sum(losses) / len(losses)
    return total


# kind: objective, outputs, targets, its loss by a loop, targets of a stand-in
CASES = {
    "classification": (
        classification(),
        (draw(COUNT, CLASSES), pick(CLASSES, COUNT)),
        lambda outputs, targets: sum(map(cross_entropy, outputs, targets)),
        torch.tensor(-1),
    ),
    "regression": (
        regression(score=lambda found, batches: {"sum": found.sum().item()}, names=("sum",)),
        (draw(COUNT, 1), draw(COUNT)),
        lambda outputs, targets: sum((o.item() - t.item()) ** 2 for o, t in zip(outputs, targets, strict=True)),
        torch.tensor(math.nan),
    ),
    "questions": (
        spans(score=lambda found, batches: {"f1": float(len(found))}, names=("f1",)),
        start_and_end(),
        naive_spans,
        torch.tensor([-1, -1]),
    ),
    "masked": (masked_tokens(), masked(), naive_masked, torch.full((TOKENS,), -100)),
}
every_kind = pytest.mark.parametrize("kind", CASES)


@every_kind
def test_the_loss_is_the_sum_of_a_loop_over_the_examples(kind):
    objective, (outputs, targets), naive, _ = CASES[kind]
    assert objective.loss(outputs, targets).item() == pytest.approx(naive(outputs, targets), rel=1e-5)
    parts = [objective.loss(outputs[i : i + 1], targets[i : i + 1]).item() for i in range(COUNT)]
    assert sum(parts) == pytest.approx(naive(outputs, targets), rel=1e-5)


@every_kind
def test_an_example_that_stands_in_changes_neither_loss_nor_gradient(kind):
    objective, (outputs, targets), _, nothing = CASES[kind]
    hidden = targets.clone()
    hidden[[0, 3]] = nothing
    rest = [1, 2, 4, 5]
    leaf = outputs.clone().requires_grad_()
    loss = objective.loss(leaf, hidden)
    loss.backward()
    torch.testing.assert_close(loss, objective.loss(outputs[rest], targets[rest]))
    assert leaf.grad[[0, 3]].abs().max() == 0
    assert leaf.grad[rest].abs().sum() > 0
    assert leaf.grad.isfinite().all()
    alone = objective.loss(outputs[:1], hidden[:1])
    assert alone.item() == 0
    assert objective.right is None or objective.right(outputs[:1], hidden[:1]) == 0


@every_kind
def test_the_gradient_is_that_of_differences(kind):
    objective, (outputs, targets), _, _ = CASES[kind]
    leaf = outputs.clone().requires_grad_()
    objective.loss(leaf, targets).backward()
    place = leaf.grad.abs().argmax()
    losses = []
    for step in (1e-2, -1e-2):
        moved = outputs.clone()
        moved.view(-1)[place] += step
        losses.append(objective.loss(moved, targets).item())
    assert leaf.grad.view(-1)[place].item() == pytest.approx((losses[0] - losses[1]) / 2e-2, rel=1e-2)


@every_kind
def test_half_precision_is_computed_in_float32(kind):
    objective, (outputs, targets), _, _ = CASES[kind]
    low = outputs.bfloat16()
    assert objective.loss(low, targets).dtype == torch.float32
    torch.testing.assert_close(objective.loss(low, targets), objective.loss(low.float(), targets))


@every_kind
def test_the_tally_leaves_out_what_stands_in(kind):
    objective, (outputs, targets), _, nothing = CASES[kind]
    hidden = targets.clone()
    hidden[[0, 3]] = nothing
    found = objective.accumulator(Given([1, 2, 4, 5]))
    found.add(outputs[:3], hidden[:3])
    found.add(outputs[3:], hidden[3:])
    expected = objective.accumulator(Given([1, 2, 4, 5]))
    expected.add(outputs[[1, 2, 4, 5]], targets[[1, 2, 4, 5]])
    torch.testing.assert_close(found.result(ProcessGroup()), expected.result(ProcessGroup()))


# right answers


def test_answers_are_right_where_the_largest_logit_says_so():
    for kind in ("classification", "questions"):
        objective, (outputs, targets), _, _ = CASES[kind]
        hits = outputs.argmax(-1) == targets
        assert objective.right(outputs, targets) == sum(bool(row.all()) for row in hits)
    assert CASES["regression"][0].right is CASES["masked"][0].right is None
    outputs, targets = torch.zeros(2, 2, 4), torch.tensor([[1, 2], [1, 2]])
    outputs[0, 0, 1] = outputs[0, 1, 2] = outputs[1, 0, 1] = 1.0
    assert CASES["questions"][0].right(outputs, targets) == 1  # of the second, only the start is found


# tallies


def test_a_confusion_matrix_is_scikit_learns():
    _, (outputs, targets), _, _ = CASES["classification"]
    tally = Confusion()
    tally.add(outputs, targets)
    expected = confusion_matrix(targets, outputs.argmax(-1), labels=range(CLASSES))
    assert tally.result(ProcessGroup()).to_dense().tolist() == expected.tolist()
    assert CASES["classification"][0].scores(tally.result(ProcessGroup()), None) == pytest.approx(
        {"accuracy": 100 * (outputs.argmax(-1) == targets).float().mean().item()}
    )


def test_a_confusion_matrix_of_very_many_classes_takes_no_memory_for_its_empty_cells():
    classes = 200_000  # dense it would have 320 GB
    outputs = torch.zeros(3, classes)
    outputs[[0, 1, 2], [7, 7, 199_999]] = 1.0
    tally = Confusion()
    for _ in range(2):
        tally.add(outputs, torch.tensor([7, 5, -1]))
    confusion = tally.result(ProcessGroup())
    assert (confusion.shape, confusion.indices().tolist()) == ((classes, classes), [[5, 7], [7, 7]])
    assert confusion.values().tolist() == [2, 2]
    assert accuracy(confusion) == {"accuracy": 50.0}


def test_a_classification_is_scored_as_it_is_told():
    objective = classification(score=lambda confusion: {"size": float(len(confusion))}, names=("size",))
    assert (objective.names, objective.scores(torch.zeros(4, 4), None)) == (("size",), {"size": 4.0})


def test_smoothing_and_probabilities_are_torchs():
    outputs, targets = CASES["classification"][1]
    shares = draw(COUNT, CLASSES).softmax(-1)
    expected = -(shares * outputs.log_softmax(-1)).sum()
    torch.testing.assert_close(classification().loss(outputs, shares), expected)
    smooth = 0.7 * nn.functional.one_hot(targets, CLASSES) + 0.3 / CLASSES
    torch.testing.assert_close(
        classification(smoothing=0.3).loss(outputs, targets), -(smooth * outputs.log_softmax(-1)).sum()
    )


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 1, 0, 5, 4, 2]])
def test_outputs_come_in_the_order_of_the_split_filled_up_with_nothing(order):
    outputs, targets = draw(COUNT, 2, TOKENS), pick(TOKENS, COUNT, 2)
    tally = Outputs(Given(order))
    for part, width in ((order[:2], TOKENS), (order[2:5], TOKENS - 2), (order[5:], 1)):
        tally.add(outputs[part][..., :width], targets[part])
    found = tally.result(ProcessGroup())
    assert found.shape == (COUNT, 2, TOKENS)
    widths = dict(zip(order, [TOKENS] * 2 + [TOKENS - 2] * 3 + [1], strict=True))
    for i in range(COUNT):
        assert torch.equal(found[i, :, : widths[i]], outputs[i, :, : widths[i]])
        assert (found[i, :, widths[i] :] == -torch.inf).all()


def test_scores_of_a_regression_see_one_number_for_each_example():
    seen = {}
    objective = regression(score=lambda found, batches: seen.update(found=found, batches=batches) or {}, names=("x",))
    batches = Given([1, 0])
    tally = objective.accumulator(batches)
    tally.add(torch.tensor([[5.0], [7.0]]), torch.tensor([-1.0, -100.0]))  # scores like any others
    assert objective.scores(tally.result(ProcessGroup()), batches) == {}
    assert seen["found"].tolist() == [7.0, 5.0]
    assert seen["batches"] is batches


def test_tokens_are_counted_over_all_batches():
    objective, (outputs, targets), _, _ = CASES["masked"]
    tally = TokenCounts()
    for part in (slice(0, 2), slice(2, COUNT)):
        tally.add(outputs[part], targets[part])
    asked = targets >= 0
    right = ((outputs.argmax(-1) == targets) & asked).sum().item()
    losses = [cross_entropy(outputs[i, j], targets[i, j]) for i, j in asked.nonzero().tolist()]
    assert tally.result(ProcessGroup()).tolist() == pytest.approx([right, len(losses), sum(losses)])
    scores = objective.scores(tally.result(ProcessGroup()), None)
    assert tuple(scores) == objective.names
    assert scores["accuracy"] == pytest.approx(100 * right / len(losses))
    assert scores["log_likelihood"] == pytest.approx(-sum(losses) / len(losses))


def test_in_a_long_example_a_token_counts_less_in_the_loss_but_not_in_the_score():
    outputs = draw(2, TOKENS, WORDS)
    targets = torch.full((2, TOKENS), -100)
    targets[0, 0] = 1
    targets[1] = 2
    first, second = ([cross_entropy(outputs[i, j], t) for j, t in enumerate(targets[i]) if t >= 0] for i in (0, 1))
    assert masked_tokens().loss(outputs, targets).item() == pytest.approx(first[0] + sum(second) / TOKENS, rel=1e-5)


# outputs of a model


class Answers(nn.Module):
    """Stands in for a model of transformers: gives what it is told, whatever it is asked."""

    def __init__(self, **outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, **inputs):
        return self.outputs


def test_starts_and_ends_are_one_tensor_without_what_is_filled_up():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    start, end = draw(2, 3), draw(2, 3)
    found = forward(Answers(start_logits=start, end_logits=end), {"attention_mask": mask}, TextConfig())
    assert torch.equal(found[0], torch.stack([start[0], end[0]]))
    assert found[1].tolist() == [[start[1, 0], -torch.inf, -torch.inf], [end[1, 0], -torch.inf, -torch.inf]]
    logits = draw(2, 3)
    assert forward(Answers(logits=logits), {"attention_mask": mask}, TextConfig()) is logits


def test_the_loss_of_a_question_does_not_depend_on_how_far_it_is_filled_up():
    start, end, target = draw(1, 3), draw(1, 3), torch.tensor([[0, 2]])
    losses = []
    for more in (0, 4):
        filled = [torch.cat([logits, draw(1, more)], 1) for logits in (start, end)]
        mask = (torch.arange(3 + more) < 3).long().unsqueeze(0)
        outputs = forward(Answers(start_logits=filled[0], end_logits=filled[1]), {"attention_mask": mask}, TextConfig())
        losses.append(CASES["questions"][0].loss(outputs, target))
    torch.testing.assert_close(*losses)


def test_the_mean_loss_counts_each_example_of_all_processes_once():
    class Two(ProcessGroup):  # what the other process has is added by hand
        def gather(self, values):
            return [*values, *({0: [3], 1: [5.0]}[isinstance(values[0], float)])]

    logits, labels = draw(5, CLASSES), torch.tensor([0, 2, 1, 0, -1])  # the last stands in
    mean = MeanLoss(classification(smoothing=0.2), indices=range(4))
    mean.add(logits[:2], labels[:2])
    mean.add(logits[2:], labels[2:])
    expected = nn.functional.cross_entropy(logits[:4], labels[:4], reduction="sum").item()
    assert mean.result(ProcessGroup()) == pytest.approx(expected / 4, rel=1e-6)
    assert mean.result(Two()) == pytest.approx((expected + 5) / 7, rel=1e-6)
    assert math.isnan(MeanLoss(classification()).result(ProcessGroup()))
