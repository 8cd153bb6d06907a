"""Bytes are those that a hand can count."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from capaboost_vit.bench.cases import Case, lora_cases
from capaboost_vit.bench.memory import memory_of, nbytes, peak_of, saved_tensors, stored_inputs
from capaboost_vit.bench.models import VISION
from capaboost_vit.bench.steps import TrainingStep

CPU = torch.device("cpu")


def kilo(count):
    """A tensor of so many thousand bytes."""
    return torch.randn(250 * count)


def test_the_peak_is_that_of_what_lives_at_once():
    x = kilo(4)

    def call():
        y = x * 2  # 4
        z = y + 1  # 8
        del y
        w = torch.cat([z, z])  # 12
        del z, w
        return kilo(5)  # 5

    assert peak_of(call, CPU) == 12_000
    assert peak_of(lambda: None, CPU) == 0


def test_the_peak_of_a_backward_pass_counts_gradients():
    w = kilo(4).requires_grad_()
    x = kilo(4)

    def call():
        y = (x * w).exp()  # the product is not kept by exp, which keeps its result: 4 + 4, then 4
        y.backward(y.detach())  # gradient of the product, gradient of w
        w.grad = None

    assert peak_of(call, CPU) == 12_000


def test_saved_activations_of_a_small_network_are_counted_by_hand():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    x = torch.randn(7, 10)
    tensors = [*model.parameters()]
    kept = nbytes(saved_tensors(lambda: model(x).sum()), without=tensors)
    # the input, for the first weight's gradient; relu's result, which relu and the second linear layer share
    assert kept == 4 * (7 * 10 + 7 * 20)
    model[0].requires_grad_(False)  # nothing below the second layer is trained
    assert nbytes(saved_tensors(lambda: model(x).sum()), without=tensors) == 4 * 7 * 20
    model.requires_grad_(False)
    assert saved_tensors(lambda: model(x).sum()) == []


def test_views_count_once_and_as_much_as_what_is_behind_them():
    x = torch.randn(6, 6)
    assert nbytes([x, x[0], x.t()]) == 4 * 36
    assert nbytes([x[0]]) == 4 * 36
    assert nbytes([x], without=[x[2:]]) == 0
    assert nbytes([]) == 0


def test_looking_at_saved_tensors_keeps_none_of_them():
    x = torch.randn(5, requires_grad=True)
    seen = []

    def forward():
        y = x.exp()  # keeps its own result, a cycle if it were kept with its history
        seen.append(weakref.ref(y.untyped_storage()))
        return y.sum()

    assert nbytes(saved_tensors(forward)) == 20
    gc.collect()
    assert seen[0]() is None


@pytest.fixture
def step(subject, workload):
    def make(name, **options):
        case = next(case for case in lora_cases(VISION, "all-linears", 2) if case.name == name)
        made = TrainingStep(case, subject, dataclasses.replace(workload, **options))
        made()
        return made

    return make


def test_memory_of_a_step_counts_weights_state_and_batch(step, subject):
    floor, ours = memory_of(step("floor")), step("capaboost-d2")
    found = memory_of(ours)
    of_batch = nbytes([subject.inputs["x"], subject.labels])
    assert floor["resident"] == sum(p.numel() * 4 for p in subject.base.parameters()) + of_batch
    trained = sum(p.numel() for p in ours.trained)
    masks = sum(buffer.numel() for buffer in ours.model.buffers())  # int8
    # beside each trained parameter its two moments, and one step count per tensor
    assert found["resident"] == floor["resident"] + _added(ours) * 4 + masks + 2 * 4 * trained + 4 * len(ours.trained)
    assert found["peak"] > found["resident"] + found["saved"] / 2
    assert found["saved"] > floor["saved"]


def _added(step):
    return sum(p.numel() for name, p in step.model.named_parameters() if "branches" in name)


def test_stored_inputs_are_those_of_the_named_layers_each_once(step, subject):
    names = VISION.places(subject.base, VISION.targets["all-linears"])
    total, beyond = stored_inputs(step("floor"), names)
    tokens = 4 * 5  # images, tokens
    assert total == 2 * 4 * tokens * (16 + 16 + 16 + 64)  # two blocks: qkv, proj, fc1, fc2
    assert 0 < beyond <= total
    assert stored_inputs(step("floor"), [*names, names[0]])[0] == total
    assert stored_inputs(step("floor", amp=True), names)[0] == total // 2  # the layers compute in bfloat16


def test_an_input_that_the_floor_keeps_anyway_is_told_apart(subject, workload):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.first(x.flatten(1)[:, :8])
            x = x.requires_grad_()
            x = F.relu(x)  # keeps its result, the input of second
            return self.third(self.second(x))  # the input of third is kept by nobody

    small = dataclasses.replace(subject, base=Net())
    step = TrainingStep(Case("floor", "", lambda model: model.requires_grad_(False)), small, workload)
    assert stored_inputs(step, ["second", "third"]) == (2 * 4 * 4 * 8, 4 * 4 * 8)


@pytest.mark.gpu
def test_the_peak_on_a_gpu_is_the_allocators():
    x = torch.randn(2**20, device="cuda")  # 4 MiB, a multiple of the allocator's blocks

    def call():
        y = x * 2
        z = y + 1
        del y
        return z

    assert peak_of(call, x.device) == 2 * 4 * 2**20
