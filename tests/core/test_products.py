"""The products are F.linear's, whoever computes them; the private operator is where it is expected."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn import functional as F

from capaboost_vit.core import products
from capaboost_vit.core.bottleneck import _AddBottleneck
from capaboost_vit.core.functional import _LowRankLinear
from capaboost_vit.core.products import _onednn, linear, linear_plus, transposed_product
from capaboost_vit.core.tied import _JoinedViews


@pytest.fixture(params=[True, False], ids=["MKL at home", "oneDNN"], autouse=True)
def at_home(request, monkeypatch):
    """Both kinds of CPUs, whichever this is."""
    monkeypatch.setattr(products, "_mkl_is_at_home", lambda: request.param)
    return request.param


@torch.no_grad()
def call(function, *arguments):
    return function(*arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda x, w: (x, w),
        lambda x, w: (x, w.t().contiguous().t()),
        lambda x, w: (x.t().contiguous().t(), w),
        lambda x, w: (torch.cat([x, x], 1)[:, : x.shape[1]], w),
        lambda x, w: (x, torch.cat([w, w], 1)[:, : w.shape[1]]),
        lambda x, w: (x.view(2, -1, x.shape[1]), w),
    ],
    ids=["plain", "transposed weight", "transposed input", "slice of input", "slice of weight", "3-d"],
)
def test_linear_is_that_of_torch_for_any_layout(make, bias, dtype):
    x, w = make(torch.randn(48, 32).to(dtype), torch.randn(16, 32).to(dtype))
    b = torch.randn(16).to(dtype) if bias else None
    tolerance = {"rtol": 0.02, "atol": 0.1} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(call(linear, x, w, b), F.linear(x, w, b), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_plus_adds_the_product_and_leaves_its_operand(dtype):
    y, x, w = (torch.randn(*shape, dtype=dtype) for shape in ((48, 16), (48, 32), (16, 32)))
    before = y.clone()
    torch.testing.assert_close(call(linear_plus, y, x, w), y + x @ w.t(), rtol=1e-5, atol=1e-4)
    assert torch.equal(y, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("part", [slice(None), slice(8, 16)], ids=["whole", "columns of both"])
def test_the_transposed_product_is_a_sum_over_the_tokens(part, dtype):
    x, y = torch.randn(48, 16, dtype=dtype)[:, part], torch.randn(48, 32, dtype=dtype)[:, part]
    torch.testing.assert_close(call(transposed_product, x, y), torch.einsum("na,nb->ab", x, y), rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@torch.no_grad()
def test_torch_still_has_the_operator_and_it_is_used_for_float32_on_a_cpu_where_mkl_is_not_at_home(at_home):
    x, w = torch.randn(8, 32), torch.randn(16, 32)
    assert _onednn(x, w) != at_home
    assert _onednn(x, torch.randn(32, 16).t()) != at_home
    assert not _onednn(x.double(), w.double())
    assert not _onednn(x[:, ::2], w[:, ::2])
    assert not _onednn(x[:0], w)
    with torch.enable_grad():
        assert not _onednn(x, w)  # it has no derivative


@pytest.mark.parametrize(
    ("cpuinfo", "processor", "mkl", "home"),
    [
        ("vendor_id\t: GenuineIntel\n", "x86_64", True, True),
        ("vendor_id\t: AuthenticAMD\n", "x86_64", True, False),
        ("vendor_id\t: GenuineIntel\n", "x86_64", False, False),
        (None, "Intel64 Family 6 Model 207 Stepping 2, GenuineIntel", True, True),
        (None, "arm", True, False),
    ],
)
def test_mkl_is_at_home_on_cpus_of_intel(cpuinfo, processor, mkl, home, monkeypatch):
    monkeypatch.undo()

    def read_text(path):
        if cpuinfo is None:
            raise FileNotFoundError
        return cpuinfo

    monkeypatch.setattr(products.Path, "read_text", read_text)
    monkeypatch.setattr(products.platform, "processor", lambda: processor)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert products._mkl_is_at_home.__wrapped__() is home


@pytest.mark.parametrize("function", [_LowRankLinear, _AddBottleneck, _JoinedViews])
def test_the_signature_that_torch_asks_for_in_each_call_is_at_hand(function):
    assert inspect.signature(function.forward) is function.forward.__signature__


def test_counters_see_every_product():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        linear(torch.randn(8, 32), torch.randn(16, 32))
    assert counter.get_total_flops() == 2 * 8 * 32 * 16
