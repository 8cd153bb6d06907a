"""The adapter's function against its formula in float64, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from oracle import backward_flops, low_rank
from torch import nn

from capaboost_vit.core.adapted import Adapted
from capaboost_vit.core.bottleneck import ACTIVATIONS, add_bottleneck

TORCH = {"relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU(), "tanh": nn.Tanh()}


def operands(dtype=torch.float64, tokens=(7,)):
    """y, x, A, a, B, b: in 5, bottleneck 3, out 4."""
    shapes = [(*tokens, 4), (*tokens, 5), (3, 5), (3,), (4, 3), (4,)]
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_value_and_gradients_are_those_of_the_formula(act):
    y, x, down, down_bias, up, up_bias = tensors = operands(tokens=(2, 7))
    expected = y + TORCH[act](x @ down.T + down_bias) @ up.T + up_bias
    found = add_bottleneck(*tensors, act=act)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    dy = torch.randn_like(y)
    for value, wanted in zip(
        torch.autograd.grad(found, tensors, dy), torch.autograd.grad(expected, tensors, dy), strict=True
    ):
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("act", ["gelu", "silu", "tanh"])
def test_first_and_second_derivatives_are_the_numerical_ones(act):
    def call(*tensors):
        return add_bottleneck(*tensors, act=act)

    torch.autograd.gradcheck(call, operands())
    torch.autograd.gradgradcheck(call, operands())


@pytest.mark.parametrize("source", ["input", "output"])
@pytest.mark.parametrize("shape", [(2, 6, 12), (2, 3, 4, 12), (5, 12)], ids=["tokens", "map", "rows"])
def test_an_adapter_in_one_pass_is_the_branch_added_to_the_base(source, shape):
    branch = low_rank(12, 12, 4, act="gelu", bias=True, scaling=0.3, path="layer")
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_(std=0.3)
    layer = Adapted(nn.Linear(12, 12), branch, source)
    x = torch.randn(shape).permute(*range(len(shape) - 1, -1, -1)).contiguous().permute(*range(len(shape) - 1, -1, -1))
    assert len(shape) == 1 or not x.is_contiguous()
    base = layer.base(x)
    torch.testing.assert_close(layer(x), base + branch(x if source == "input" else base))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_sum_has_the_wider_dtype_and_parameters_keep_theirs(dtype):
    y, x, *factors = operands(torch.float32)
    y = y.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total = add_bottleneck(y, x, *factors, act="relu")
    assert total.dtype == dtype
    exact = add_bottleneck(y.float(), x, *factors, act="relu")
    torch.testing.assert_close(total.float(), exact, rtol=0.05, atol=0.1)
    total.float().sum().backward()
    assert y.grad.dtype == dtype
    assert all(tensor.grad.dtype == torch.float32 for tensor in (x, *factors))


def test_dropout_still_drops():
    branch = low_rank(12, 12, 4, act="relu", bias=True, dropout=0.5, path="layer")
    nn.init.normal_(branch.up.weight)
    layer = Adapted(nn.Identity(), branch)
    x = torch.randn(30, 12)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_kept_are_the_input_the_bottleneck_and_the_factors():
    tensors = operands(torch.float32, tokens=(50,))
    shapes = []

    def pack(tensor):
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        add_bottleneck(*tensors, act="gelu")
    assert sorted(shapes) == sorted([(50, 5), (50, 3), (3, 5), (3,), (4, 3)])


@pytest.mark.parametrize(
    "needed", ["y", "x", "down", "down_bias", "up", "up_bias", "y x", "x down down_bias up up_bias"]
)
def test_only_the_gradients_that_are_needed_are_computed(needed):
    names = ("y", "x", "down", "down_bias", "up", "up_bias")
    tensors = operands(tokens=(7,))
    expected = torch.autograd.grad(add_bottleneck(*tensors, act="gelu").square().sum(), tensors)
    for name, tensor in zip(names, tensors, strict=True):
        tensor.requires_grad_(name in needed.split())
    thin_in, thin_out = 2 * 7 * 3 * 5, 2 * 7 * 3 * 4
    flops = 0
    if {"x", "down", "down_bias"} & set(needed.split()):
        flops += thin_out  # dY B
    flops += thin_in * (("x" in needed.split()) + ("down" in needed.split())) + thin_out * ("up" in needed.split())
    assert backward_flops(add_bottleneck(*tensors, act="gelu")) == flops
    for name, tensor, gradient in zip(names, tensors, expected, strict=True):
        assert (tensor.grad is not None) == (name in needed.split())
        if tensor.grad is not None:
            torch.testing.assert_close(tensor.grad, gradient)


def test_functional_gradients_per_sample_are_those_one_by_one():
    y, x, *factors = (t.detach() for t in operands())

    def loss(factors, y, x):
        return add_bottleneck(y[None], x[None], *factors, act="gelu").square().sum()

    together = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(tuple(factors), y, x)
    for i in range(len(x)):
        for value, expected in zip(together, torch.func.grad(loss)(tuple(factors), y[i], x[i]), strict=True):
            torch.testing.assert_close(value[i], expected)


@pytest.mark.filterwarnings("ignore")
def test_it_compiles_to_one_graph():
    tensors = operands(torch.float32)
    expected = add_bottleneck(*tensors, act="gelu")
    found = torch.compile(lambda *t: add_bottleneck(*t, act="gelu"), fullgraph=True, backend="aot_eager")(*tensors)
    torch.testing.assert_close(found, expected)
    dy = torch.randn_like(found)
    for value, wanted in zip(
        torch.autograd.grad(found, tensors, dy), torch.autograd.grad(expected, tensors, dy), strict=True
    ):
        torch.testing.assert_close(value, wanted)
