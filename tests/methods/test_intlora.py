"""IntLoRA against a naive loop: its integers, what they are made of, and the merged layers of integers."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn
from vits import IMAGES, SMALL, vit

import capaboost_vit
from capaboost_vit.core.integer_layer import IntegerLinear, IntegerUpdated
from capaboost_vit.core.integer_update import IntegerUpdate
from capaboost_vit.core.masking import Masking

KINDS = [("mul", 8), ("mul", 4), ("shift", 8), ("shift", 4)]
every_kind = pytest.mark.parametrize(("factor", "bits"), KINDS)


def trained(**options):
    """With values as after training."""
    model = capaboost_vit.adapt(vit(), "intlora", **options)
    generator = torch.Generator().manual_seed(1)
    for update in updates(model):
        with torch.no_grad():
            update.factors.up.weight.normal_(std=0.05, generator=generator)
            if update.log_clip is not None:
                update.log_clip.add_(0.2)
    return model.eval()


class Packed(nn.Linear):
    """A layer whose integers nobody can read."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.weight = nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)


def updates(model):
    return [module for module in model.modules() if isinstance(module, IntegerUpdate)]


def update_of(weight, factor="mul", bits=8, **options):
    update = IntegerUpdate(weight, 2, Masking(1, 1.0), factor=factor, bits=bits, path="here", **options).double()
    nn.init.normal_(update.factors.up.weight, std=0.1, generator=torch.Generator().manual_seed(4))
    return update


def weight_of(rows=5, columns=12):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3)).double()


def parts_of(update, weight):
    """R, s and Q of a naive loop."""
    rows, columns = weight.shape
    r, s, q = torch.zeros(rows, columns), torch.zeros(rows), torch.zeros(rows, columns)
    r, s, q = r.double(), s.double(), q.double()
    for i in range(rows):
        scale = (max(map(abs, weight[i].tolist())) / max(map(abs, update.auxiliary[i].tolist()))) ** 1.5
        r[i] = update.auxiliary[i] * scale
        s[i] = max(abs(w - a) for w, a in zip(weight[i].tolist(), r[i].tolist(), strict=True)) / update.levels
        for j in range(columns):
            odd = 2 * math.floor((weight[i, j] - r[i, j]) / (2 * s[i])) + 1
            q[i, j] = max(-update.levels, min(update.levels, odd))
    return r, s, q


@torch.no_grad()
@every_kind
def test_the_weight_is_that_of_a_naive_loop(factor, bits):
    weight = weight_of()
    update = update_of(weight, factor, bits)
    r, s, q = parts_of(update, weight)
    change = update.factors.up.weight @ update.factors.down.weight
    expected = torch.zeros_like(weight)
    for i, j in ((i, j) for i in range(len(weight)) for j in range(weight.shape[1])):
        f = float(s[i] + (r[i, j] + change[i, j]) / q[i, j])
        if factor == "mul":
            largest = 2 ** (bits - 1) - 1
            step = float(s[i] * update.log_clip[i].exp() / largest)
            rounded = max(-largest, min(largest, round(f / step)))
        else:
            step = 2.0 ** (round(math.log2(s[i])) - 4)
            rounded = math.copysign(2.0 ** max(0, min(7, round(math.log2(abs(f) / step)))), f)
        expected[i, j] = step * rounded * q[i, j]
    torch.testing.assert_close(update(weight), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@every_kind
def test_no_entry_of_the_base_is_zero_and_factors_are_of_their_kind(factor, bits):
    weight = weight_of(8, 64)
    weight[0], weight[1, :32] = 0, 0
    update = update_of(weight, factor, bits)
    _, _, codes = update._base(weight)
    assert (codes % 2).abs().eq(1).all()
    assert codes.abs().max() == 2**bits - 1
    integers, _ = update.integers(weight)
    factors = integers / codes
    assert torch.equal(factors, factors.round())
    assert factors.abs().max() <= (2 ** (bits - 1) - 1 if factor == "mul" else 128)
    if factor == "shift":
        assert torch.equal(factors.abs().log2(), factors.abs().log2().round())
    assert update(weight).isfinite().all()


@torch.no_grad()
def test_factors_of_16_bits_leave_the_rounding_of_the_base_alone():
    weight = weight_of(8, 64)
    update = update_of(weight, factor_bits=16)
    r, s, q = parts_of(update, weight)
    update.log_clip.fill_(math.log(1000.0))
    expected = s[:, None] * q + r + update.factors.up.weight @ update.factors.down.weight
    step = 1000 * s[:, None] / (2**15 - 1)
    assert ((update(weight) - expected).abs() <= step * q.abs() / 2 + 1e-12).all()
    nn.init.zeros_(update.factors.up.weight)
    assert ((update(weight) - weight).abs() <= s[:, None] + step * q.abs() / 2 + 1e-12).all()


def test_gradients_pass_through_the_rounding_as_if_it_were_not_there():
    weight, cotangent = weight_of(), weight_of().flip(0)
    for factor in ("mul", "shift"):
        update = update_of(weight, factor)
        if factor == "mul":
            with torch.no_grad():
                update.log_clip.fill_(math.log(1000.0))  # nothing is beyond the largest integer
        up = update.factors.up.weight
        (gradient,) = torch.autograd.grad((update(weight) * cotangent).sum(), up)
        torch.testing.assert_close(gradient, cotangent @ update.factors.down.weight.T)


@every_kind
def test_merged_integers_compute_the_forward_pass_to_the_bit(factor, bits, tmp_path):
    model = trained(factor=factor, bits=bits)
    merged = capaboost_vit.core.merge_integers(model)
    layers = [module for module in merged.modules() if isinstance(module, IntegerLinear)]
    assert len(layers) == 4
    assert {layer.weight.dtype for layer in layers} == {torch.int8 if (factor, bits) == ("mul", 4) else torch.int16}
    assert not hasattr(merged, "capaboost")
    assert torch.equal(merged(IMAGES), model(IMAGES))
    plain = capaboost_vit.merge(model)
    assert torch.equal(plain.blocks[0].attn.qkv.weight, capaboost_vit.core.dense(merged.blocks[0].attn.qkv))
    torch.save(merged.state_dict(), tmp_path / "merged.pt")
    fresh = capaboost_vit.core.merge_integers(capaboost_vit.adapt(vit(), "intlora"))
    fresh.load_state_dict(torch.load(tmp_path / "merged.pt"))
    assert torch.equal(fresh(IMAGES), model(IMAGES))


def test_integers_beside_other_methods():
    model = capaboost_vit.adapt(trained(), "lora", targets=("mlp_in",))
    nn.init.normal_(model.blocks[0].mlp.fc1.branches["all"].up.weight)
    torch.testing.assert_close(capaboost_vit.core.merge_integers(model)(IMAGES), model(IMAGES), rtol=0, atol=1e-5)
    with pytest.raises(capaboost_vit.CannotMerge, match="an adapter is no change of a weight"):
        capaboost_vit.core.merge_integers(capaboost_vit.adapt(trained(), "adapter"))
    with pytest.raises(ValueError, match="no layer with an integer update of its own: adapt with intlora, or merge"):
        capaboost_vit.core.merge_integers(capaboost_vit.adapt(vit(), "lora"))


def test_the_auxiliary_matrix_is_a_function_of_the_seed_and_in_no_file(tmp_path):
    model = trained(init_seed=5)
    assert not any("auxiliary" in name for name in model.state_dict())
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    loaded = capaboost_vit.load_adapter(vit(), path).eval()
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    for again, update in zip(updates(loaded), updates(model), strict=True):
        assert torch.equal(again.auxiliary, update.auxiliary)
    with pytest.raises(ValueError, match=r"other options .*'init_seed': 5.* in the file"):
        capaboost_vit.load_adapter(trained(init_seed=6), path)
    other = updates(trained(init_seed=6))
    assert not any(torch.equal(a.auxiliary, b.auxiliary) for a, b in zip(other, updates(model), strict=True))
    assert not torch.equal(other[0].auxiliary, other[1].auxiliary)


@torch.no_grad()
@pytest.mark.parametrize(("factor", "bits", "most"), [("mul", 8, 0.02), ("mul", 4, 0.15), ("shift", 8, 0.17)])
def test_the_start_is_as_far_from_the_base_as_the_rounding(factor, bits, most):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "embed_dim": 192})
    weight = model.blocks[0].attn.qkv.weight.clone()
    adapted = capaboost_vit.adapt(model, "intlora", factor=factor, bits=bits).blocks[0].attn.qkv
    assert isinstance(adapted, IntegerUpdated)
    assert (adapted.weight - weight).norm() <= most * weight.norm()


def test_with_masks_the_low_rank_update_is_the_sum_of_their_products():
    model = trained(num_branches=2, density=0.5)
    update = updates(model)[0]
    views = zip(update.factors.up(), update.factors.down(), strict=True)
    torch.testing.assert_close(update.factors.delta_weight(), sum(up @ down for up, down in views))


@pytest.mark.parametrize(
    ("make", "options", "error", "text"),
    [
        (
            vit,
            {"targets": ("query", "value")},
            ValueError,
            "'blocks.0.attn.qkv' is made of integers as a whole, and k ",
        ),
        (
            vit,
            {"targets": ("patch_embed.proj",)},
            TypeError,
            "only linear layers take .*'patch_embed.proj' is a Conv2d",
        ),
        (
            lambda: capaboost_vit.adapt(vit(), "lora"),
            {},
            ValueError,
            "'blocks.0.attn.qkv' carries a low-rank branch, whose gradients would end at .*: adapt with intlora first",
        ),
        (vit, {"bits": 9}, ValueError, "bits of method 'intlora' must lie in .2, 8., got 9"),
        (
            lambda: nn.Sequential(Packed(4, 4)),
            {"targets": ("0",), "head": ()},
            TypeError,
            "intlora makes integers of a weight itself, but .*a Packed is uint8: take lora",
        ),
    ],
)
def test_what_it_refuses(make, options, error, text):
    with pytest.raises(error, match=text):
        capaboost_vit.adapt(make(), "intlora", **options)
