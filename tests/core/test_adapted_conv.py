"""A convolution with low-rank branches is the convolution with W + dW: against float64, and against PEFT's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from oracle import low_rank
from torch import nn
from torch.nn import functional as F

from capaboost_vit.core.adapted_conv import AdaptedConv, shape_of_conv
from capaboost_vit.core.layout import Layout

PLAIN = {"num_branches": 1, "density": 1.0}
MASKED = {"num_branches": 2, "density": 0.5, "pattern": "random"}
# arguments of the convolution, options of the branches
CASES = {
    "1x1": ({"kernel_size": 1}, PLAIN),
    "3x3": ({"kernel_size": 3, "padding": 1}, PLAIN),
    "stride": ({"kernel_size": 3, "stride": 2, "padding": 1}, MASKED),
    "oblong": ({"kernel_size": (3, 1), "stride": (1, 2), "padding": (2, 0)}, PLAIN),
    "dilation": ({"kernel_size": 3, "padding": 2, "dilation": 2}, MASKED),
    "same": ({"kernel_size": 3, "padding": "same"}, PLAIN),
    "reflected": ({"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, MASKED),
    "no bias": ({"kernel_size": 1, "bias": False}, {**MASKED, "coefficients": "rank"}),
    "groups": ({"kernel_size": 3, "padding": 1, "groups": 2}, MASKED),
    "depthwise": ({"kernel_size": 3, "padding": 1, "groups": 6}, PLAIN),
}
X = torch.randn(2, 6, 8, 10, generator=torch.Generator().manual_seed(1))


def adapted(arguments, options, parts=("all",), chosen=None):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 12, **arguments)
    rows, columns = shape_of_conv(conv)
    layout = parts if isinstance(parts, Layout) else Layout(parts, (rows // len(parts),) * len(parts))
    branches = {
        p: low_rank(columns, layout.rows_of(p), 3, scaling=0.7, path=p, **options) for p in chosen or layout.parts
    }
    wrapper = AdaptedConv(conv, branches, parts).requires_grad_(False)
    for branch in branches.values():
        branch.requires_grad_(True)
        for parameter in branch.parameters():
            nn.init.normal_(parameter, std=0.3)
    return wrapper


def close(found, expected):
    """To 1e-6 of the largest entry."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(("arguments", "options"), CASES.values(), ids=CASES)
def test_it_is_the_convolution_with_w_plus_dw_and_so_are_its_gradients(arguments, options):
    wrapper = adapted(arguments, options)
    branch = copy.deepcopy(wrapper.branches["all"]).double()
    double, x, twin_x = copy.deepcopy(wrapper.base).double(), X.clone().requires_grad_(), X.double().requires_grad_()
    masks = [1.0, 1.0] if branch.down.mask is None else [branch.down.mask, branch.up.mask]
    views = branch.num_branches if branch.down.mask is not None else 1
    delta = torch.zeros(())
    for i in range(views):
        down, up = (
            w * (m if isinstance(m, float) else m[i])
            for w, m in zip((branch.down.weight, branch.up.weight), masks, strict=True)
        )
        c = torch.ones(3) if branch.coefficients is None or i == 0 else branch.coefficients
        delta = delta + 0.7 * (up * c) @ down
    weight = double.weight + delta.view_as(double.weight)
    expected = torch.func.functional_call(double, {"weight": weight}, twin_x)
    found = wrapper(x)
    close(found.double(), expected)
    close(wrapper.weight.double(), weight)
    seed = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found * seed).sum().backward()
    (expected * seed).sum().backward()
    close(x.grad.double(), twin_x.grad)
    for ours, theirs in zip(wrapper.branches["all"].parameters(), branch.parameters(), strict=True):
        close(ours.grad.double(), theirs.grad)
    close(wrapper.merged(wrapper.base)(X), found)
    down, up = wrapper.linear_factors()
    close((up @ down).view_as(wrapper.weight), delta.view_as(weight).float())


@pytest.mark.parametrize(
    "parts", [("q", "k", "v"), Layout(("q", "k", "v"), (2, 2, 8)), Layout(("q", "k", "v"), (1, 1, 2), heads=3)], ids=str
)
def test_the_branches_of_parts_change_their_own_channels(parts):
    wrapper = adapted({"kernel_size": 1}, MASKED, parts, chosen=("q", "v"))
    layout = wrapper.layout
    found, base = (layout.split(y, 1) for y in (wrapper(X), wrapper.base(X)))
    assert torch.equal(found["k"], base["k"])
    for part in ("q", "v"):
        delta = wrapper.branches[part].delta_weight()
        close(found[part], base[part] + F.conv2d(X, delta[..., None, None]))
    close(wrapper.merged(wrapper.base)(X), wrapper(X))


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_outputs_and_gradients_are_those_of_peft(kernel_size):
    peft = pytest.importorskip("peft")
    wrapper = adapted({"kernel_size": kernel_size, "stride": 2, "padding": 1}, PLAIN)
    config = peft.LoraConfig(r=3, lora_alpha=2.1, target_modules=["0"])
    theirs = peft.get_peft_model(nn.Sequential(copy.deepcopy(wrapper.base)), config)
    branch, layer = wrapper.branches["all"], theirs.base_model.model[0]
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        down.copy_(branch.down.weight.view_as(down))
        up.copy_(branch.up.weight.view_as(up))
    found, expected = wrapper(X), theirs(X)
    close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    close(branch.down.weight.grad, down.grad.view_as(branch.down.weight))
    close(branch.up.weight.grad, up.grad.view_as(branch.up.weight))
    close(wrapper.weight, theirs.merge_and_unload()[0].weight)


def test_channels_last_stays_and_changes_nothing():
    wrapper = adapted({"kernel_size": 3, "padding": 1}, MASKED)
    expected = wrapper(X)
    found = wrapper.to(memory_format=torch.channels_last)(X.to(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    close(found, expected)


def test_autocast_and_a_bfloat16_base_come_near_float32():
    wrapper = adapted({"kernel_size": 3, "padding": 1}, MASKED)
    expected = wrapper(X)
    with torch.autocast("cpu", torch.bfloat16):
        y = wrapper(X)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.03, atol=0.03)
    wrapper.base.to(torch.bfloat16)  # the branches stay float32
    y = wrapper(X.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.03, atol=0.05)


def test_an_example_alone_copies_and_a_compiled_one_give_the_same():
    wrapper = adapted({"kernel_size": 3, "padding": 1, "groups": 2}, MASKED)
    expected = wrapper(X)
    close(wrapper(X[0]), expected[0])
    for twin in (copy.deepcopy(wrapper), pickle.loads(pickle.dumps(wrapper))):
        assert torch.equal(twin(X), expected)
    close(torch.compile(wrapper, fullgraph=True, backend="aot_eager")(X), expected)


class Standardised(nn.Conv2d):
    """As timm's StdConv2d."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: shape_of_conv(Standardised(2, 2, 1)),
            TypeError,
            "those that compute as nn.Conv2d .*: Standardised of",
        ),
        (lambda: shape_of_conv(nn.ConvTranspose2d(2, 2, 1)), TypeError, "compute as nn.Conv2d .*: ConvTranspose2d of"),
        (lambda: AdaptedConv(nn.Conv2d(2, 4, 3), {"all": low_rank(2, 4, 1)}), ValueError, "the layer's part 18 to 4"),
        (lambda: AdaptedConv(nn.Conv2d(2, 4, 1), {}, ("q", "k", "v")), ValueError, "4 rows do not split"),
        (lambda: AdaptedConv(nn.Conv2d(2, 4, 1, groups=2), {}, ("k", "v")), ValueError, "2 groups takes one branch"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
