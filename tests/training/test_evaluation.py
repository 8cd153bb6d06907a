"""Evaluation counts every image once, in whole numbers."""

from __future__ import annotations

import random

import pytest
import timm
import torch
from sklearn.metrics import confusion_matrix
from torch import nn
from toys import Fixed, small

from capaboost_vit.training.evaluation import evaluate, not_finite, try_out
from capaboost_vit.training.objective import right_answers
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
    assert {(right_answers(confusion), int(confusion.sum())) for confusion in found} == {(right, 21)}
    assert all(p.grad is None for p in model.parameters())


def test_a_confusion_matrix_has_labels_in_rows_and_answers_in_columns():
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
    answers, labels = torch.tensor([0, 2, 2, 1, 2]), torch.tensor([0, 1, 2, 1, 1])
    batches = [(torch.eye(3)[answers[:3]], labels[:3]), (torch.eye(3)[answers[3:]], labels[3:])]
    found = evaluate(model, batches, prepare=same, config=TrainConfig())
    assert found.to_dense().tolist() == [[1, 0, 0], [0, 1, 2], [0, 0, 1]]
    assert found.to_dense().tolist() == confusion_matrix(labels, answers).tolist()


def test_what_a_batch_becomes_is_decided_by_prepare():
    found = evaluate(small(), Fixed(), prepare=lambda batch: (batch[0], batch[1] * 0 + 2), config=TrainConfig())
    assert found.to_dense()[2].sum() == found.sum() == 21


def test_a_label_of_minus_one_counts_for_nothing():
    model, (images, labels) = small(), Fixed((9,)).batches[0]
    hidden = torch.where(torch.arange(9) % 2 == 0, labels, -1)
    found = evaluate(model, [(images, hidden), (images, -1 - 0 * labels)], prepare=same, config=TrainConfig())
    with torch.no_grad():
        answers = model(images[::2]).argmax(-1)
    assert found.to_dense().tolist() == confusion_matrix(labels[::2], answers, labels=[0, 1, 2]).tolist()


def test_counts_are_whole_numbers_and_nothing_is_an_empty_matrix():
    found = evaluate(small(), Fixed(), prepare=same, config=TrainConfig())
    assert (found.dtype, found.shape, found.device.type) == (torch.int64, (3, 3), "cpu")
    assert evaluate(small(), [], prepare=same, config=TrainConfig()).shape == (0, 0)


# outputs that are not finite


class Echo(nn.Module):
    """Gives back its inputs as outputs."""

    def __init__(self):
        super().__init__()
        self.seen = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + 0 * self.seen


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_that_are_not_finite_are_no_answers(value, dtype):
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    outputs[1, 2] = outputs[4, 0] = value
    split = Given(
        [outputs[:4].to(dtype), outputs[4:].to(dtype)], ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"]
    )
    with pytest.raises(
        FloatingPointError, match=r"not finite for 2 of 6 images \(b\.png, e\.png\): its weights, or mean"
    ):
        evaluate(Echo(), split, prepare=same, config=TrainConfig())
    split.names = None
    with pytest.raises(FloatingPointError, match=r"for 2 of 6 images \(number 2, number 5\)"):
        evaluate(Echo(), split, prepare=same, config=TrainConfig())
    largest = torch.finfo(dtype).max
    split = Given([torch.full((4, 3), largest, dtype=dtype)], None)
    assert evaluate(Echo(), split, prepare=same, config=TrainConfig()).sum() == 4


class Given:
    """Outputs in batches, with names and places as an EvalLoader has them."""

    def __init__(self, batches, names):
        self.batches, self.names = [(b, torch.zeros(len(b), dtype=torch.int64)) for b in batches], names
        self.indices = list(range(sum(map(len, batches))))

    def __iter__(self):
        return iter(self.batches)


def test_what_is_filled_up_in_a_text_of_questions_is_no_broken_output():
    spans = torch.zeros(2, 2, 4)
    spans[1, :, 2:] = -torch.inf
    assert not_finite(spans).tolist() == [False, False]
    spans[0, 1, 3] = torch.nan
    assert not_finite(spans).tolist() == [True, False]


# trying out


def test_trying_out_leaves_everything_as_it_was():
    model = timm.create_model("test_resnet", num_classes=3, drop_rate=0.5).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, numbers = torch.get_rng_state(), random.getstate()
    try_out(model, lambda: torch.randn(2, 3, 32, 32) + random.random(), TrainConfig())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == numbers
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def no_picture():
    raise OSError("no picture")


def test_whatever_a_model_raises_is_one_line_with_the_shape_and_what_to_type():
    def refuse(*_):
        raise AssertionError("odd\nsize")

    model = small().train()
    model.patch_embed.forward = refuse
    config = TrainConfig(model="vit_tiny_capaboost_lora")
    with pytest.raises(ValueError, match=r"^vit_tiny_capaboost_lora cannot be .* \(2, 3, 8, 8\): odd size; type this$"):
        try_out(model, lambda: torch.zeros(2, 3, 8, 8), config, hint="; type this")
    assert model.training
    with pytest.raises(ValueError, match="cannot be trained on inputs: no picture"):
        try_out(model, no_picture, config)


def test_a_branch_that_the_model_never_reaches_shows_before_a_run_begins():
    model = small()
    model.blocks[1].attn.forward = lambda x, **_: x
    with pytest.raises(ValueError, match=r"at 'blocks\.1\.attn\.qkv' gets no gradient"):
        try_out(model, lambda: torch.zeros(2, 3, 16, 16), TrainConfig())


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
    assert torch.equal(found.to_dense(), expected.to_dense())
