"""nn.MultiheadAttention with branches is one with W + dW: against queries, keys and values computed by hand."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from oracle import low_rank
from torch import nn
from torch.nn import functional as F

from capaboost_vit.core.adapted_attention import AdaptedAttention
from capaboost_vit.core.adapted_linear import AdaptedLinear

B, N, D, H = 3, 5, 8, 2
X = torch.randn(B, N, D, generator=torch.Generator().manual_seed(1))
OTHER = torch.randn(B, 7, D, generator=torch.Generator().manual_seed(2))
OPTIONS = {"num_branches": 2, "density": 0.5, "pattern": "random", "scaling": 0.7}


def adapted(batch_first=True, parts=("q", "k", "v"), chosen=("q", "v"), out=True, **arguments):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(D, H, batch_first=batch_first, **arguments).requires_grad_(False)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    size = 3 * D // len(parts)
    wrapper = AdaptedAttention(layer, {part: low_rank(D, size, 2, path=part, **OPTIONS) for part in chosen}, parts)
    if out:
        layer.out_proj = AdaptedLinear(layer.out_proj, {"all": low_rank(D, D, 2, path="out", **OPTIONS)})
    for name, parameter in wrapper.named_parameters():
        if "branches" in name:
            nn.init.normal_(parameter, std=0.3)
    return wrapper


def by_hand(wrapper, query, key, value, mask=None):
    """(outputs, attention weights by head) of separate linear layers, batch first; `mask` is what is left out.

    Args:
        wrapper: in float64.
    """
    layer = wrapper.base
    rows = layer.in_proj_weight.split(D)
    deltas = [wrapper.branches[p].delta_weight() if p in wrapper.branches else 0 for p in ("q", "k", "v")]
    biases = layer.in_proj_bias.split(D)
    q, k, v = (
        F.linear(x.double(), w + d, b).unflatten(-1, (H, -1)).transpose(1, 2)
        for x, w, d, b in zip((query, key, value), rows, deltas, biases, strict=True)
    )
    scores = q @ k.transpose(-1, -2) / (D // H) ** 0.5
    if mask is not None:
        scores = scores.masked_fill(mask, -torch.inf)
    weights = scores.softmax(-1)
    return layer.out_proj((weights @ v).transpose(1, 2).flatten(2)), weights


def close(found, expected):
    """To 1e-6 of the largest entry."""
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=0, atol=1e-6 * float(expected.detach().abs().max())
    )


CAUSAL = torch.ones(N, N, dtype=torch.bool).triu(1)
PADDED = torch.arange(N).expand(B, N) >= torch.tensor([[5], [3], [4]])
CALLS = {  # further arguments of the call, and what is left out
    "plain": ({}, None),
    "no weights": ({"need_weights": False}, None),
    "causal": ({"attn_mask": CAUSAL}, CAUSAL),
    "causal said": ({"attn_mask": CAUSAL, "is_causal": True, "need_weights": False}, CAUSAL),
    "padded": ({"key_padding_mask": PADDED}, PADDED[:, None, None]),
    "by head": ({"average_attn_weights": False}, None),
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("further", "mask"), CALLS.values(), ids=CALLS)
def test_it_is_attention_of_separate_layers_with_w_plus_dw(batch_first, training, further, mask):
    wrapper = adapted(batch_first).train(training)
    expected, weights = by_hand(copy.deepcopy(wrapper).double(), X, X, X, mask)
    x = X if batch_first else X.transpose(0, 1)
    for grad in (True, False):  # without gradients torch takes its fast path, where it can
        with torch.set_grad_enabled(grad):
            y, found = wrapper(x, x, x, **further)
        close(y if batch_first else y.transpose(0, 1), expected)
        if further.get("need_weights", True):
            close(found, weights if "average_attn_weights" in further else weights.mean(1))
        else:
            assert found is None


def test_it_attends_to_others_and_takes_one_example_alone():
    wrapper = adapted()
    expected, _ = by_hand(copy.deepcopy(wrapper).double(), X, OTHER, OTHER)
    close(wrapper(X, OTHER, OTHER)[0], expected)
    close(wrapper(X[0], OTHER[0], OTHER[0])[0], expected[0])


def test_gradients_reach_all_branches_and_are_those_by_hand():
    wrapper, twin = adapted(), adapted().double()
    trained, twins = ([p for p in model.parameters() if p.requires_grad] for model in (wrapper, twin))
    found = torch.autograd.grad(wrapper(X, X, X)[0].square().sum(), trained)
    expected = torch.autograd.grad(by_hand(twin, X, X, X)[0].square().sum(), twins)
    assert len(found) == 6
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0
        close(ours, theirs)


@pytest.mark.parametrize(("parts", "chosen"), [(("q", "k", "v"), ("q", "v")), (("all",), ("all",))])
def test_merged_it_is_a_plain_layer_that_computes_the_same(parts, chosen):
    wrapper = adapted(parts=parts, chosen=chosen, out=False).eval()
    merged = wrapper.merged(wrapper.base)
    assert type(merged) is nn.MultiheadAttention
    close(merged(X, X, X)[0], wrapper(X, X, X)[0])
    close(wrapper.in_proj_weight, merged.in_proj_weight)
    down, up = wrapper.linear_factors()
    close(up @ down, wrapper.delta_weight())
    assert torch.equal(wrapper.base.in_proj_weight, adapted(out=False).base.in_proj_weight)  # as it was


def test_two_of_them_in_one_slot_add_up():
    inner = adapted(out=False)
    outer = AdaptedAttention(inner, {"k": low_rank(D, D, 2, path="k", **OPTIONS)}, ("q", "k", "v"))
    nn.init.normal_(outer.branches["k"].up.weight, std=0.3)
    assert outer.branches["k"].up.weight.abs().max() > 0
    merged = outer.merged(inner.merged(inner.base))
    close(merged.in_proj_weight, outer.in_proj_weight)
    close(outer(X, X, X)[0], merged(X, X, X)[0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("evaluated", [True, False])
def test_the_fast_path_of_a_layer_of_torch_around_it_sees_the_update(evaluated):
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(D, H, 16, dropout=0.0, batch_first=True).train(not evaluated)
    stack = nn.TransformerEncoder(block, 2).train(not evaluated)
    plain = copy.deepcopy(stack)
    for layer, twin in zip(stack.layers, plain.layers, strict=True):
        layer.self_attn = AdaptedAttention(
            layer.self_attn, {"v": low_rank(D, D, 2, path="v", **OPTIONS)}, ("q", "k", "v")
        )
        nn.init.normal_(layer.self_attn.branches["v"].up.weight, std=0.3)
        twin.self_attn = layer.self_attn.merged(layer.self_attn.base)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            close(stack(X, src_key_padding_mask=PADDED)[~PADDED], plain(X, src_key_padding_mask=PADDED)[~PADDED])


def test_copies_and_a_compiled_one_give_the_same():
    wrapper = adapted().train()
    expected = wrapper(X, X, X)[0]
    for twin in (copy.deepcopy(wrapper), pickle.loads(pickle.dumps(wrapper))):
        assert torch.equal(twin(X, X, X)[0], expected)
    compiled = torch.compile(wrapper, fullgraph=True, backend="aot_eager")
    close(compiled(X, X, X)[0], expected)


def test_autocast_and_a_bfloat16_layer_come_near_float32():
    wrapper = adapted()
    expected = wrapper(X, X, X)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y = wrapper(X, X, X)[0]
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    wrapper.base.to(torch.bfloat16)  # the branches stay float32
    y = wrapper(X.bfloat16(), X.bfloat16(), X.bfloat16())[0]
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AdaptedAttention(nn.MultiheadAttention(8, 2, kdim=4), {}), TypeError, "with kdim or vdim"),
        (lambda: AdaptedAttention(nn.Linear(8, 8), {}), TypeError, "only attention .* Linear of"),
        (
            lambda: AdaptedAttention(nn.MultiheadAttention(8, 2), {"all": low_rank(8, 24, 2, dropout=0.1)}),
            ValueError,
            "use dropout=0",
        ),
        (
            lambda: AdaptedAttention(nn.MultiheadAttention(8, 2), {"q": low_rank(8, 24, 2)}, ("q", "k", "v")),
            ValueError,
            "the layer's part 8 to 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
