"""The door to frozen layers: anything that says its widths is a linear layer, and integers take no update."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import capaboost_vit
from capaboost_vit.core.base import dense, device_and_dtype, is_linear, shape_of
from capaboost_vit.core.inject import Anatomy, branches
from capaboost_vit.methods import make_method
from capaboost_vit.methods.apply import apply_method

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Quantised(nn.Module):
    """int8 weights in a buffer, one scale for each row, as quantised layers of other libraries have them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = None

    def forward(self, x):
        return F.linear(x, self.weight * self.scale)


def quantised(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    plain = nn.Sequential(Quantised(model[0]), nn.Tanh(), model[2])
    apply_method(plain, Anatomy(head=("2",)), make_method("lora", targets=["0"], rank=2, **options))
    return plain


def test_linear_layers_are_known_by_their_widths():
    assert is_linear(Quantised(nn.Linear(4, 3)))
    assert shape_of(Quantised(nn.Linear(4, 3))) == (3, 4)
    assert not is_linear(nn.Conv1d(4, 3, 1))
    assert not is_linear(nn.Embedding(4, 3))
    with pytest.raises(TypeError, match="only linear layers take a low-rank update, got Embedding"):
        shape_of(nn.Embedding(4, 3))


def test_branches_beside_integers_are_float_on_the_same_device_and_are_trained():
    model = quantised()
    assert device_and_dtype(model[0].base) == {"device": torch.device("cpu"), "dtype": torch.float32}
    with torch.device("meta"):
        assert device_and_dtype(Quantised(nn.Linear(4, 3)))["device"].type == "meta"
    before = model(X).detach()
    frozen = model[0].base.weight.clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    (branch,) = branches(model).values()
    assert branch.up.weight.abs().sum() > 0
    assert not torch.allclose(model(X), before)
    assert torch.equal(model[0].base.weight, frozen)


@pytest.mark.parametrize("inplace", [False, True])
def test_merging_into_integers_is_refused_in_one_sentence_and_changes_nothing(inplace):
    model = quantised()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(capaboost_vit.CannotMerge) as refusal:
        capaboost_vit.merge(model, inplace=inplace)
    assert str(refusal.value) == (
        "cannot merge '0': the weight of a Quantised is int8, where an update vanishes: keep the adapter"
    )
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_dense_weight_comes_through_one_door_that_others_can_join():
    torch.manual_seed(0)
    linear = nn.Linear(6, 6)
    with pytest.raises(TypeError, match="the weight of a Quantised is int8"):
        dense(Quantised(linear))
    with pytest.raises(TypeError, match="a ReLU has no weight of its own"):
        dense(nn.ReLU())
    assert dense(linear) is linear.weight

    class Known(Quantised):
        pass

    dense.register(Known, lambda layer: layer.weight * layer.scale)
    model = nn.Sequential(Known(linear))
    apply_method(model, Anatomy(), make_method("lora", targets=["0"], rank=2))
    nn.init.normal_(model[0].branches["all"].up.weight)
    torch.testing.assert_close(F.linear(X, model[0].weight), model(X))  # for models that read the weight
