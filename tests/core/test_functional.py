"""The fast paths against a dense float64 reference, and that they are taken, and cost, what is said of them."""

from __future__ import annotations

import copy

import pytest
import torch
from oracle import backward_flops, low_rank
from pairs import pairs
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from capaboost_vit.core import adapted_linear, tied
from capaboost_vit.core.adapted_linear import AdaptedLinear
from capaboost_vit.core.functional import EXECUTIONS, low_rank_linear, weight_space_pays
from capaboost_vit.core.tied import factors_formed_once

SPACES = ("weight", "token")
PARTS = {"whole": (("all",), ("all",)), "q": (("q",), ("q", "k", "v")), "qv": (("q", "v"), ("q", "k", "v"))}


@pytest.fixture(autouse=True)
def _nothing_is_too_small(monkeypatch):
    monkeypatch.setattr(adapted_linear, "_SMALL", 0)


def layer(execution, parts="whole", *, dtype=torch.float32, bias=True, **options) -> AdaptedLinear:
    """in 20, out 24 (12 in each of three parts would be 36): filled, frozen, on the rows of `parts`."""
    own, all_parts = PARTS[parts]
    generator = torch.Generator().manual_seed(0)
    base = nn.Linear(20, 24 * len(all_parts), bias=bias).requires_grad_(False)
    base.weight.copy_(torch.randn(base.weight.shape, generator=generator) / 20**0.5)
    if bias:
        base.bias.copy_(torch.randn(base.bias.shape, generator=generator))
    branches = {}
    for part in own:
        branches[part] = low_rank(20, 24, 4, scaling=0.75, path=part, **options)
        with torch.no_grad():
            branches[part].up.weight.normal_(std=0.2, generator=generator)
    return AdaptedLinear(base, branches, all_parts, execution).to(dtype)


def reference(of: AdaptedLinear, x, dy):
    """y, dx, and the gradients of every A and B, in float64 with a dense dW and naive sums over branches."""
    of = copy.deepcopy(of).double()
    x = x.detach().double().requires_grad_()
    rows = 24
    weight = [of.base.weight[rows * i : rows * (i + 1)] for i in range(len(of.parts))]
    for i, part in enumerate(of.parts):
        if part in of.branches:
            branch = of.branches[part]
            downs, ups = branch.down(), branch.up()
            weight[i] = weight[i] + sum(0.75 * up @ down for down, up in zip(downs, ups, strict=True))
    y = F.linear(x, torch.cat(weight), of.base.bias)
    y.backward(dy.double())
    return y.detach(), x.grad, {name: p.grad for name, p in of.named_parameters() if p.requires_grad}


def assert_near(value, expected, tolerance):
    difference = (value.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    assert difference <= tolerance


OPTIONS = {
    "plain LoRA": {"num_branches": 1, "density": 1.0},
    "d2": {"num_branches": 2},
    "d3 without masks": {"num_branches": 3, "density": 1.0},
    "d4 sign": {"num_branches": 4, "pattern": "sign"},
    "2:4": {"num_branches": 2, "pattern": "2:4"},
}
SHAPES = {"tokens": (3, 30), "map": (2, 2, 25), "one token each": (4,)}


@pytest.mark.parametrize(
    ("execution", "parts", "options", "dtype", "shape"),
    pairs(EXECUTIONS, PARTS, OPTIONS, ["float32", "float64"], SHAPES),
)
def test_output_and_gradients_are_those_of_the_dense_reference(execution, parts, options, dtype, shape):
    dtype, tolerance = {"float32": (torch.float32, 1e-5), "float64": (torch.float64, 1e-10)}[dtype]
    of = layer(execution, parts, dtype=dtype, **OPTIONS[options])
    x = torch.randn(*SHAPES[shape], 20, dtype=dtype, requires_grad=True)
    y = of(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected, dx, gradients = reference(of, x, dy)
    assert_near(y, expected, tolerance)
    assert_near(x.grad, dx, tolerance)
    for name, gradient in gradients.items():
        assert_near(of.get_parameter(name).grad, gradient, tolerance)
    with torch.no_grad():
        assert_near(of(x), expected, tolerance)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("parts", [[(0, 6, 1.5)], [(0, 3, 0.5), (6, 9, 2.0)]], ids=["whole", "two of three"])
def test_gradients_are_the_numerical_ones(space, parts):
    double = {"dtype": torch.float64, "requires_grad": True}
    size = parts[0][1]
    x, bias, down = torch.randn(5, 4, **double), torch.randn(parts[-1][1], **double), torch.randn(2 * len(parts), 4)
    down = down.double().requires_grad_()
    ups = [torch.randn(size, 2, **double) for _ in parts]
    weight = torch.randn(parts[-1][1], 4, dtype=torch.float64)

    def call(x, bias, down, *ups):
        return low_rank_linear(x, weight, bias, parts, down, ups, in_weight_space=space == "weight")

    torch.autograd.gradcheck(call, (x, bias, down, *ups))
    torch.autograd.gradgradcheck(call, (x, bias, down, *ups))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_layer_whose_input_needs_no_gradient_gives_its_factors_theirs(execution):
    of = layer(execution)
    x = torch.randn(50, 20)
    dy = torch.randn(50, 24)
    of(x).backward(dy)
    _, _, gradients = reference(of, x, dy)
    for name, gradient in gradients.items():
        assert_near(of.get_parameter(name).grad, gradient, 1e-5)


# bf16: each product rounds its result to 8 bits, W' is formed in float32 and rounded once
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("parts", PARTS)
def test_under_autocast_all_paths_are_as_near_to_float32_as_bfloat16_is(execution, parts):
    of = layer(execution, parts)
    x = torch.randn(4, 50, 20, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = of(x)
    dy = torch.randn(y.shape).bfloat16()
    y.backward(dy)
    expected, dx, gradients = reference(of, x, dy)
    assert (y.dtype, x.grad.dtype) == (torch.bfloat16, torch.float32)
    assert_near(y, expected, 0.02)
    assert_near(x.grad, dx, 0.02)
    for name, gradient in gradients.items():
        assert of.get_parameter(name).grad.dtype == torch.float32
        assert_near(of.get_parameter(name).grad, gradient, 0.02)


def test_backward_inside_autocast_is_the_one_outside():
    gradients = []
    for inside in (False, True):
        of = layer("weight")
        with torch.autocast("cpu", torch.bfloat16):
            loss = of(torch.ones(60, 20)).float().square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        gradients.append(of.branches["all"].down.weight.grad)
    assert torch.equal(*gradients)


def test_float64_is_left_alone_by_autocast():
    of = layer("weight", dtype=torch.float64)
    x = torch.randn(60, 20, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        y = of(x)
    assert y.dtype == torch.float64
    assert torch.equal(y, of(x))


@pytest.mark.parametrize("execution", [*SPACES, "plain"])
def test_recomputing_the_layer_in_the_backward_pass_changes_nothing(execution):
    of = layer(execution)
    x = torch.randn(60, 20, requires_grad=True)
    of(x).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in of.named_parameters() if p.requires_grad}
    of.zero_grad()
    checkpoint(of, x, use_reentrant=False).square().sum().backward()
    assert all(torch.equal(of.get_parameter(name).grad, gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("execution", SPACES)
def test_functional_gradients_are_those_of_backward(execution):
    of = layer(execution)
    x = torch.randn(60, 20)
    of(x).square().sum().backward()
    parameters = {name: p.detach() for name, p in of.named_parameters()}
    trained = {name: p for name, p in parameters.items() if of.get_parameter(name).requires_grad}

    def loss(trained):
        return torch.func.functional_call(of, {**parameters, **trained}, (x,)).square().sum()

    for name, gradient in torch.func.grad(loss)(trained).items():
        torch.testing.assert_close(gradient, of.get_parameter(name).grad)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("execution", [*SPACES, "plain"])
def test_the_whole_layer_compiles_to_one_graph(execution):
    of = layer(execution, "qv")
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")  # by inductor: tests/core/test_devices.py
    x = torch.randn(60, 20, requires_grad=True)
    y = compiled(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected, dx, gradients = reference(of, x, dy)
    assert_near(y, expected, 1e-5)
    assert_near(x.grad, dx, 1e-5)
    for name, gradient in gradients.items():
        assert_near(of.get_parameter(name).grad, gradient, 1e-5)


@pytest.mark.parametrize("execution", SPACES)
def test_second_derivatives_are_those_of_the_plain_path(execution):
    def second(execution):
        of = layer(execution)
        x = torch.randn(60, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (gradient,) = torch.autograd.grad(of(x).pow(3).sum(), x, create_graph=True)
        gradient.square().sum().backward()
        return [x.grad, *(p.grad for p in of.parameters() if p.requires_grad)]

    for value, expected in zip(second(execution), second("plain"), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-2)


def test_a_trained_weight_is_refused_by_the_function():
    weight = torch.randn(6, 4, requires_grad=True)
    with pytest.raises(ValueError, match="frozen weights"):
        low_rank_linear(
            torch.randn(3, 4), weight, None, [(0, 6, 1.0)], torch.zeros(2, 4), [torch.zeros(6, 2)], in_weight_space=True
        )


# what is kept and formed


def kept(of, x):
    """Shapes of the tensors that the backward pass of one call keeps, less parameters and masks."""
    own = {t.untyped_storage().data_ptr() for t in (*of.parameters(), *of.buffers())}
    shapes = []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        of(x).sum()
    return shapes


@pytest.mark.parametrize("execution", SPACES)
def test_kept_are_the_input_and_the_factors(execution):
    x = torch.randn(60, 20, requires_grad=True)
    assert sorted(kept(layer(execution), x)) == sorted([(60, 20), (8, 20), (24, 8)])
    assert sorted(kept(layer(execution, freeze_down=False, num_branches=1, density=1.0), x)) == [(60, 20)]


@pytest.mark.parametrize("execution", SPACES)
def test_with_a_frozen_down_factor_the_input_is_not_kept(execution):
    of = layer(execution, freeze_down=True)
    of.branches["all"].down.weight.requires_grad_(False)
    x = torch.randn(60, 20, requires_grad=True)
    assert sorted(kept(of, x)) == sorted([(60, 8), (8, 20), (24, 8)])
    dy = torch.randn(60, 24)
    of(x).backward(dy)
    _, dx, gradients = reference(of, x, dy)
    assert list(gradients) == ["branches.all.up.weight"]
    assert_near(of.branches["all"].up.weight.grad, gradients["branches.all.up.weight"], 1e-5)
    assert_near(x.grad, dx, 1e-5)


NEEDED = [{"x", "down", "up"}, {"down", "up"}, {"up"}, {"x", "up"}, {"x"}]


@pytest.mark.parametrize("needed", NEEDED, ids=lambda needed: " ".join(sorted(needed)))
@pytest.mark.parametrize("space", SPACES)
def test_the_backward_pass_costs_the_products_of_the_gradients_that_are_needed(space, needed):
    N, R, columns, rows = 60, 8, 20, 24
    shapes = {"x": (N, columns), "down": (R, columns), "up": (rows, R)}
    x, down, up = (torch.randn(shape).requires_grad_(name in needed) for name, shape in shapes.items())
    y = low_rank_linear(
        x, torch.randn(rows, columns), None, [(0, rows, 1.0)], down, [up], in_weight_space=space == "weight"
    )
    by_rows, by_columns = 2 * N * R * rows, 2 * N * R * columns  # of dY B and dB; of X A^T, dA and (dY B) A
    expected = 0
    if "down" in needed or ("x" in needed and space == "token"):
        expected += by_rows
    if "down" in needed:
        expected += by_columns
    if "x" in needed:  # with W' once more, or in two products
        expected += 2 * N * rows * columns + (2 * R * rows * columns if space == "weight" else by_columns)
    if "up" in needed:  # where A needs no gradient, X A^T was kept instead of X
        expected += by_rows + (by_columns if "down" in needed else 0)
    assert backward_flops(y) == expected


class Shapes(TorchDispatchMode):
    """Notes the shape of each new tensor."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.seen.append(tuple(result.shape))
        return result


def test_the_dense_gradient_of_the_weight_is_never_formed():
    of = layer("token")
    x = torch.randn(60, 20, requires_grad=True)
    with Shapes() as shapes:
        of(x).sum().backward()
    assert not {(24, 20), (20, 24)} & set(shapes.seen)
    of = layer("weight")
    with Shapes() as shapes:
        of(x).sum().backward()
    assert sum(shape in {(24, 20), (20, 24)} for shape in shapes.seen) == 2  # W' forward, W' backward


def test_factors_are_formed_once_within_the_block_and_anew_when_a_weight_has_changed(monkeypatch):
    of = layer("weight")
    branch = of.branches["all"]
    formed = []
    form = tied._form
    monkeypatch.setattr(tied, "_form", lambda weight, mask, dim: formed.append(dim) or form(weight, mask, dim))
    x = torch.randn(60, 20)
    with factors_formed_once():
        of(x).sum().backward()
        with factors_formed_once():
            of(x).sum().backward()
        of.eval()
        with torch.inference_mode():
            of(x)
        assert formed == [0, 1]
        with torch.no_grad():
            branch.up.weight.mul_(2)
        y = of(x)
        assert formed == [0, 1, 1]
    assert torch.equal(y, of(x))
    assert formed == [0, 1, 1, 0, 1]


def test_accumulated_gradients_within_the_block_are_those_outside():
    inside, outside = layer("weight"), layer("weight")
    batches = [torch.randn(60, 20) for _ in range(3)]
    with factors_formed_once():
        for batch in batches:
            inside(batch).square().sum().backward()
    for batch in batches:
        outside(batch).square().sum().backward()
    for first, second in zip(inside.parameters(), outside.parameters(), strict=True):
        assert first.requires_grad == (first.grad is not None)
        assert first.grad is None or torch.equal(first.grad, second.grad)


# the choice


@pytest.mark.parametrize(
    ("tokens", "out", "width", "pays"),
    [
        (1576, 1536, 384, True),
        (197, 1536, 384, False),
        (197, 384, 384, True),
        (1, 20, 20, False),
        (614, 768, 3072, False),
    ],
)
def test_weight_space_is_chosen_where_the_tokens_outweigh_the_weight(tokens, out, width, pays):
    assert weight_space_pays(tokens, out, width) is pays


def hooked(of):
    of.base.register_forward_hook(lambda *_: None)


def patched(of):
    of.base.forward = of.base.forward


def trained(of):
    of.base.weight.requires_grad_(True)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def subclassed(of):
    of.base.__class__ = Doubled


@pytest.mark.parametrize("change", [hooked, patched, trained, subclassed])
@pytest.mark.parametrize("execution", ["auto", *SPACES])
def test_a_base_that_is_not_a_frozen_plain_linear_layer_is_called(change, execution):
    of = layer(execution)
    x = torch.randn(60, 20)
    assert of._space(x) != "plain"
    change(of)
    assert of._space(x) == "plain"
    torch.testing.assert_close(of(x), of.base(x) + of.branches["all"](x))


def test_little_work_is_left_to_pytorch_where_it_is_differentiated(monkeypatch):
    of = layer("auto")
    x = torch.randn(60, 20)
    monkeypatch.setattr(adapted_linear, "_SMALL", 60 * 20 * 24)
    assert (of._space(x), of._space(x[:-1])) == ("weight", "plain")
    assert layer("weight")._space(x[:-1]) == "weight"
    with torch.no_grad():
        assert of._space(x[:-1]) == "weight"


def test_dropout_is_computed_plainly_in_training_only():
    of = layer("auto", dropout=0.5)
    x = torch.randn(60, 20)
    assert of._space(x) == "plain"
    assert not torch.equal(of(x), of(x))
    assert of.eval()._space(x) == "weight"


def test_no_tokens_are_no_error():
    assert layer("weight")(torch.zeros(0, 20)).shape == (0, 24)


def test_an_unknown_execution_is_refused():
    with pytest.raises(ValueError, match="execution must be auto, weight, token or plain, got 'fast'"):
        layer("fast")


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("execution", [*SPACES, "plain"])
def test_gradients_per_sample_are_those_one_by_one(execution):
    of = layer(execution, dtype=torch.float64)
    fixed = {name: p.detach() for name, p in of.named_parameters()}
    trained = {name: p for name, p in fixed.items() if of.get_parameter(name).requires_grad}
    x = torch.randn(3, 60, 20, dtype=torch.float64)

    def loss(trained, sample):
        return torch.func.functional_call(of, {**fixed, **trained}, (sample,)).square().sum()

    together = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(trained, x)
    for i, sample in enumerate(x):
        for name, gradient in torch.func.grad(loss)(trained, sample).items():
            torch.testing.assert_close(together[name][i], gradient)


@pytest.mark.filterwarnings("ignore")
def test_an_exported_layer_takes_any_number_of_tokens():
    of = layer("auto").eval()
    tokens = torch.export.Dim("tokens", min=2, max=1000)
    exported = torch.export.export(of, (torch.randn(60, 20),), dynamic_shapes=({0: tokens},)).module()
    for count in (3, 60, 400):
        x = torch.randn(count, 20)
        torch.testing.assert_close(exported(x), of(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("execution", ["auto", "token"])
def test_two_layers_compile_under_autocast(execution):
    model = nn.Sequential(layer(execution), nn.Linear(24, 20).requires_grad_(False), layer(execution))
    x = torch.randn(60, 20)

    def run(call):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = call(x)
        y.float().sum().backward()
        return [y, *(p.grad for p in model.parameters() if p.requires_grad)]

    for value, expected in zip(run(torch.compile(model, backend="aot_eager")), run(model), strict=True):
        torch.testing.assert_close(value, expected, rtol=0.05, atol=0.5)
