"""The door to frozen layers: anything that says its widths is a linear layer, and integers take no update."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import capaboost_vit
from capaboost_vit.core.base import dense, device_and_dtype, is_linear, shape_of
from capaboost_vit.core.inject import Anatomy, branches
from capaboost_vit.core.names import namer
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
    with pytest.raises(TypeError, match="only linear layers take a low-rank update, got Embedding of torch"):
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


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


REPARAMETRISED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "bias": lambda layer: parametrize.register_parametrization(layer, "bias", Doubled()),
    "old weight_norm": weight_norm,
    "old spectral_norm": spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned twice": lambda layer: [prune.random_unstructured(layer, n, 0.3) for n in ("weight", "bias", "weight")],
}
METHODS = {"lora": {"rank": 2}, "lora in weight space": {"rank": 2, "execution": "weight"}, "ia3": {"inputs": ()}}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", REPARAMETRISED)
def test_a_reparametrised_base_is_merged_into_a_plain_layer_with_its_dense_weight(kind, method, inplace):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls the old weight_norm deprecated
        REPARAMETRISED[kind](model[0])
    model(X)  # with a gradient: the old kinds leave a tensor that torch cannot copy
    model.eval()
    weight = model[0](torch.eye(6)) - model[0](torch.zeros(1, 6))  # (in, out): what the layer does to each unit vector
    method, options = method.split()[0], METHODS[method]
    capaboost_vit.adapt(model, method, targets=["0"], head=[], **options)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    expected, keys = model(X).detach(), list(model.state_dict())
    assert not torch.allclose(expected, nn.Sequential(model[0].base, *model[1:])(X), atol=0.1)
    merged = capaboost_vit.merge(model, inplace=inplace)
    torch.testing.assert_close(merged(X), expected, rtol=0, atol=1e-5)
    assert type(merged[0]) is nn.Linear
    assert {name for name, _ in merged.named_parameters()} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert merged.state_dict().keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    if not inplace:
        assert list(model.state_dict()) == keys
        torch.testing.assert_close(model(X), expected)
        update = model[0].weight.detach() - weight.T
        torch.testing.assert_close(merged[0].weight, weight.T + update)


class Computed(nn.Linear):
    """Another library's way to make a weight of other tensors."""

    @property
    def weight(self):
        return self.raw.tanh()

    @weight.setter
    def weight(self, value):
        self.raw = value


def low(dtype):
    def change(layer):
        layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            low(torch.float8_e4m3fn),
            "the weight of a Linear is float8_e4m3fn, where an update vanishes: keep the adapter",
        ),
        (low(torch.int32), "the weight of a Linear is int32, where an update vanishes: keep the adapter"),
        (
            lambda layer: (
                setattr(layer, "__class__", Computed) or setattr(layer, "raw", layer._parameters.pop("weight"))
            ),
            "the weight of a Computed is computed, so an update would be lost: keep the adapter",
        ),
    ],
)
def test_a_weight_that_would_lose_the_update_refuses_the_merge(change, message):
    model = nn.Sequential(nn.Linear(6, 6))
    change(model[0])
    capaboost_vit.adapt(model, "lora", targets=["0"], rank=2, head=())
    with pytest.raises(capaboost_vit.CannotMerge) as refusal:
        capaboost_vit.merge(model)
    assert str(refusal.value) == f"cannot merge '0': {message}"


def test_a_frozen_spectral_norm_does_not_move_in_training(tmp_path):
    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6), parametrizations.spectral_norm(nn.Linear(6, 3)))

    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    capaboost_vit.adapt(model, "lora", targets=["0", "1"], rank=2, head=())
    for wrapper in model:
        nn.init.normal_(wrapper.branches["all"].up.weight)
    expected = model.eval()(X)
    for _ in range(3):
        model.train()(X)
    torch.testing.assert_close(model.eval()(X), expected, rtol=0, atol=0)
    canonical = namer(model)
    after = {canonical(name): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    assert torch.equal(capaboost_vit.load_adapter(build(), path).eval()(X), expected)
    torch.testing.assert_close(capaboost_vit.merge(model)(X), expected)


class Linear(nn.Module):
    """No linear layer, whatever it is called."""


def test_messages_name_the_package_of_what_is_no_linear_layer():
    with pytest.raises(TypeError, match=rf"LoRA needs linear layers, but '0' is a Linear of {Linear.__module__}, "):
        capaboost_vit.adapt(nn.Sequential(Linear()), "lora", targets=["0"])
    with pytest.raises(TypeError, match=rf"the width of '0', a Linear of {Linear.__module__}: it contains no linear"):
        capaboost_vit.adapt(nn.Sequential(Linear()), "adapter", targets=["0"])


@pytest.mark.parametrize("options", [{}, {"num_branches": 1, "density": 1.0}], ids=["masked", "plain"])
def test_the_transposed_layers_of_gpt2_are_linear_and_merge_as_peft_s_do(options):
    peft = pytest.importorskip("peft")
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")

    def build():
        torch.manual_seed(0)
        return nn.Sequential(pytorch_utils.Conv1D(8, 6), nn.Tanh(), pytorch_utils.Conv1D(3, 8))

    model = build()
    expected = model(X)
    capaboost_vit.adapt(model, "lora", targets=["0", "2"], head=[], rank=2, alpha=4.0, **options)
    assert shape_of(model[0].base) == (8, 6)
    torch.testing.assert_close(model(X), expected)
    for wrapper in (model[0], model[2]):
        nn.init.normal_(wrapper.branches["all"].up.weight)
    torch.testing.assert_close(F.linear(X, model[0].weight, model[0].bias), model[0](X))
    merged = capaboost_vit.merge(model)
    torch.testing.assert_close(merged(X), model(X))
    assert merged.state_dict().keys() == build().state_dict().keys()
    if options:
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0", "2"], fan_in_fan_out=True)
        theirs = peft.get_peft_model(build(), config)
        for index in (0, 2):
            layer, branch = theirs.base_model.model[index], model[index].branches["all"]
            layer.lora_A["default"].weight.data.copy_(branch.down.weight)
            layer.lora_B["default"].weight.data.copy_(branch.up.weight)
        torch.testing.assert_close(model(X), theirs(X))
        theirs = theirs.merge_and_unload()
        torch.testing.assert_close(merged.state_dict(), theirs.state_dict())
    scaled = capaboost_vit.adapt(build(), "ia3", targets=["0"], inputs=["2"], head=[])
    for wrapper in (scaled[0], scaled[2]):
        nn.init.normal_(wrapper.scales["all"].weight)
    torch.testing.assert_close(capaboost_vit.merge(scaled)(X), scaled(X))


class Cosine(nn.Linear):
    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight), self.bias)


class Plain(nn.Linear):
    def forward(self, x):
        return x @ self.weight.t() + self.bias


@pytest.mark.parametrize(
    ("layer", "method", "merges"),
    [
        (lambda: timm.layers.ScaledStdConv2d(3, 4, 3, padding=1), "ssf", False),
        (lambda: timm.layers.StdConv2d(3, 4, 3, padding=1, bias=True), "ssf", False),
        (lambda: timm.layers.Conv2dSame(3, 4, 3, stride=2, dilation=2), "ssf", True),
        (lambda: Cosine(6, 3), "lora", False),
        (lambda: Plain(6, 3), "lora", True),
    ],
)
def test_a_layer_that_normalises_its_weight_in_each_call_refuses_the_merge(layer, method, merges):
    torch.manual_seed(0)
    model = nn.Sequential(layer())
    capaboost_vit.adapt(model, method, targets=["0"], head=[])
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    x = torch.randn(2, 3, 8, 8) if method == "ssf" else X
    if merges:
        torch.testing.assert_close(capaboost_vit.merge(model.eval())(x), model(x), rtol=1e-4, atol=1e-5)
        return
    with pytest.raises(capaboost_vit.CannotMerge, match="normalises its weight in each call, which undoes an update"):
        capaboost_vit.merge(model)
