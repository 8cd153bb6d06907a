"""Prefixes and prompts against naive float64 references; a length of zero is the base."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from oracle import virtual_tokens
from timm.layers import Attention
from torch import Tensor, nn

import capaboost_vit
from capaboost_vit.core.adapted import Prompted
from capaboost_vit.core.virtual_tokens import VirtualTokens
from capaboost_vit.vision.attention import PrefixAttention


def naive_tokens(tokens: VirtualTokens) -> Tensor:
    """`sum_i T * M_i`, or the masked MLP of T, one branch after the other."""
    table = tokens.table.weight.double()
    if tokens.mlp is None:
        masks = [torch.ones_like(table)] * tokens.table.num_branches
        masks = masks if tokens.table.mask is None else tokens.table.mask.double()
        return sum(table * mask for mask in masks)
    mlp = tokens.mlp
    total = mlp.up_bias.double()
    for i in range(mlp.num_branches):
        down, up = (f.weight.double() * (1 if f.mask is None else f.mask[i].double()) for f in (mlp.down, mlp.up))
        total = total + torch.tanh(table @ down.T + mlp.down_bias.double()) @ up.T
    return mlp.scaling * total


def naive_attention(base: Attention, prefix: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Head by head, with the keys and values of the prefix in front; everything in float64."""
    base, x, heads, size = copy.deepcopy(base).double(), x.double(), base.num_heads, base.head_dim
    q, k, v = base.qkv(x).chunk(3, dim=-1)
    prefix_k, prefix_v = prefix.chunk(2, dim=-1)
    length = len(prefix)
    out = []
    for b in range(len(x)):
        joined = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            keys = torch.cat([prefix_k[:, part], base.k_norm(k[b, :, part])])
            values = torch.cat([prefix_v[:, part], v[b, :, part]])
            scores = base.q_norm(q[b, :, part]) @ keys.T / size**0.5
            if mask is not None:
                own = mask.expand(len(x), heads, *mask.shape[-2:])[b, h]
                if mask.dtype == torch.bool:
                    scores[:, length:] = scores[:, length:].masked_fill(~own, float("-inf"))
                else:
                    scores[:, length:] += own.double()
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            joined.append(weights @ values)
        out.append(torch.cat(joined, dim=-1))
    y = base.norm(torch.stack(out))
    if base.gate is not None:
        y = y * torch.sigmoid(base.gate(x))
    return base.proj(y)


def prefixed(length: int, *, seed: int = 0, options: dict | None = None, **attention) -> PrefixAttention:
    torch.manual_seed(seed)
    base = Attention(24, num_heads=3, qkv_bias=True, **attention).eval()
    nn.init.normal_(base.qkv.weight, std=0.5)
    wrapper = PrefixAttention(base, lambda width: virtual_tokens(length, width, path="a", **(options or {})))
    with torch.no_grad():
        for parameter in wrapper.tokens.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return wrapper


@pytest.mark.parametrize(
    "attention",
    [
        dict(),
        dict(qk_norm=True, norm_layer=nn.LayerNorm),
        dict(scale_norm=True, norm_layer=nn.LayerNorm),
        dict(gated=True),
        dict(attn_head_dim=5),
        dict(dim_out=16),
    ],
)
@pytest.mark.parametrize("length", [0, 1, 4])
@torch.no_grad()
def test_prefix_attention_equals_a_naive_attention_with_longer_keys_and_values(length, attention):
    wrapper = prefixed(length, **attention)
    x = torch.randn(2, 7, 24)
    expected = naive_attention(wrapper.base, naive_tokens(wrapper.tokens), x)
    torch.testing.assert_close(wrapper(x).double(), expected, rtol=1e-4, atol=1e-5)
    if length:
        assert (expected - wrapper.base(x)).abs().max() > 0.01, "the prefix does nothing"
    else:
        torch.testing.assert_close(wrapper(x), wrapper.base(x))


@pytest.mark.parametrize(
    "options",
    [
        dict(num_branches=3, density=0.4),
        dict(num_branches=2, pattern="sign"),
        dict(num_branches=4, pattern="complementary"),
        dict(num_branches=2, pattern="2:4"),
        dict(num_branches=2, density=1),
        dict(num_branches=1, density=1),
        dict(bottleneck=4),
        dict(bottleneck=4, num_branches=3, pattern="sign"),
        dict(bottleneck=4, num_branches=1, density=1),
    ],
)
@torch.no_grad()
def test_the_prefix_is_the_sum_of_the_masked_tables_or_of_the_masked_mlp_s_branches(options):
    wrapper = prefixed(5, options=options)
    x = torch.randn(2, 7, 24)
    expected = naive_attention(wrapper.base, naive_tokens(wrapper.tokens), x)
    torch.testing.assert_close(wrapper(x).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [0, 3])
@pytest.mark.parametrize("shape", [(7, 7), (2, 1, 7, 7), (2, 3, 7, 7)])
@pytest.mark.parametrize("kind", ["bool", "float"])
@torch.no_grad()
def test_every_token_sees_the_prefix_whatever_the_attention_mask(kind, shape, length):
    wrapper = prefixed(length)
    x = torch.randn(2, 7, 24)
    kept = torch.rand(shape) > 0.4
    kept[..., 0] = True  # without a prefix a row of which nothing is left has no softmax
    mask = kept if kind == "bool" else torch.where(kept, torch.randn(shape), float("-inf"))
    expected = naive_attention(wrapper.base, naive_tokens(wrapper.tokens), x, mask)
    torch.testing.assert_close(wrapper(x, attn_mask=mask).double(), expected, rtol=1e-4, atol=1e-5)
    assert (wrapper(x, attn_mask=mask) - wrapper(x)).abs().max() > 0.01, "the mask does nothing"
    if length == 0:
        torch.testing.assert_close(wrapper(x, attn_mask=mask), wrapper.base(x, attn_mask=mask))


@torch.no_grad()
def test_a_token_that_may_see_no_other_sees_the_prefix_alone():
    wrapper = prefixed(3)
    nothing = torch.zeros(7, 7, dtype=torch.bool)
    y = wrapper(torch.randn(2, 7, 24), attn_mask=nothing)
    assert y.isfinite().all()


def test_gradients_of_a_prefix_equal_the_naive_ones():
    wrapper = prefixed(4, options=dict(num_branches=3, density=0.4))
    x = torch.randn(2, 7, 24)
    table = wrapper.tokens.table.weight
    wrapper(x).square().sum().backward()
    (expected,) = torch.autograd.grad(
        naive_attention(wrapper.base, naive_tokens(wrapper.tokens), x).square().sum(), [table]
    )
    torch.testing.assert_close(table.grad, expected, rtol=1e-4, atol=1e-4)


def test_attention_dropout_acts_in_training_only():
    wrapper = prefixed(3, attn_drop=0.5)
    x = torch.randn(2, 7, 24)
    assert torch.equal(wrapper(x), wrapper(x))
    wrapper.train()
    assert not torch.equal(wrapper(x), wrapper(x))


def test_a_causal_call_is_refused():
    with pytest.raises(ValueError, match="a prefix does not work with causal attention"):
        prefixed(2)(torch.zeros(1, 7, 24), is_causal=True)


# --- whole models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("prefix", dict(prefix_length=0)),
        ("prefix", dict(prefix_length=0, bottleneck=4)),
        ("prompt", dict(prompt_length=0)),
        ("prompt", dict(prompt_length=0, deep=False)),
        ("prompt", dict(prompt_length=0, bottleneck=4)),
    ],
)
@torch.no_grad()
def test_length_zero_is_the_base(tiny, images, method, options):
    model = tiny(method, **options)
    assert torch.equal(model(images), tiny()(images))
    assert sum(p.numel() for b in capaboost_vit.branches(model).values() for p in b.table.parameters()) == 0


@torch.no_grad()
def test_a_model_with_prefixes_equals_its_blocks_written_out(tiny, wake, images):
    model = wake(tiny("prefix", prefix_length=4, num_branches=3, density=0.4))
    plain = capaboost_vit.detach(copy.deepcopy(model)).double()
    found = capaboost_vit.branches(model)
    x = embed(plain, images.double())
    for i, block in enumerate(plain.blocks):
        prefix = naive_tokens(found[f"blocks.{i}.attn.tokens"])
        x = x + naive_attention(block.attn, prefix, block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    expected = plain.forward_head(plain.norm(x))
    torch.testing.assert_close(model(images).double(), expected, rtol=1e-4, atol=1e-5)
    assert (expected - plain(images.double())).abs().max() > 1e-3


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("options", [dict(num_branches=3, density=0.4), dict(bottleneck=4), dict(pattern="sign")])
@torch.no_grad()
def test_a_model_with_prompts_equals_explicitly_concatenated_tokens(tiny, wake, images, deep, options):
    model = wake(tiny("prompt", prompt_length=4, deep=deep, **options))
    plain = capaboost_vit.detach(copy.deepcopy(model)).double()
    found = capaboost_vit.branches(model)
    x = embed(plain, images.double())
    own = x.shape[1]
    assert set(found) == {f"blocks.{i}.tokens" for i in range(3 if deep else 1)}
    for i, block in enumerate(plain.blocks):
        if deep or i == 0:
            prompt = naive_tokens(found[f"blocks.{i}.tokens"])
            x = torch.cat([x[:, :own], prompt.expand(len(x), -1, -1)], dim=1)
        x = block(x)
    expected = plain.forward_head(plain.norm(x[:, :own]))
    torch.testing.assert_close(model(images).double(), expected, rtol=1e-4, atol=1e-5)
    assert (expected - plain(images.double())).abs().max() > 1e-3


@torch.no_grad()
def test_a_prompt_s_place_in_the_sequence_does_not_matter(tiny, wake, images):
    model = wake(tiny("prompt", prompt_length=4))
    plain = capaboost_vit.detach(copy.deepcopy(model))
    x = embed(plain, images)
    for i, block in enumerate(plain.blocks):  # VPT puts prompts behind the class token
        prompt = capaboost_vit.branches(model)[f"blocks.{i}.tokens"]().expand(len(x), -1, -1)
        x = block(torch.cat([x[:, :1], prompt, x[:, 1:]], dim=1))
        x = torch.cat([x[:, :1], x[:, 5:]], dim=1)
    torch.testing.assert_close(model(images), plain.forward_head(plain.norm(x)), rtol=1e-4, atol=1e-5)


def embed(model: nn.Module, images: Tensor) -> Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(images)))


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
@pytest.mark.parametrize("deep", [True, False])
@torch.no_grad()
def test_prompts_do_not_enter_the_pooling(tiny, wake, images, pool, deep):
    kwargs = dict(global_pool=pool, class_token=pool == "token")
    model = wake(tiny("prompt", prompt_length=4, deep=deep, **kwargs))
    tokens = model.forward_features(images)
    assert tokens.shape[1] == 16 + (pool == "token")
    assert torch.equal(model(images), model.forward_head(tokens))


@torch.no_grad()
def test_deep_prompts_keep_the_intermediates_of_the_image_s_tokens(tiny, wake, images):
    model = wake(tiny("prompt"))
    final, features = model.forward_intermediates(images, indices=(0, 1, 2), output_fmt="NLC")
    assert {tuple(f.shape) for f in features} == {(2, 16, 32)}
    assert torch.equal(final, model.forward_features(images))
    assert torch.equal(model.norm(model.blocks[:2](embed(model, images)))[:, 1:], model.norm(features[1]))


@torch.no_grad()
def test_shallow_prompts_are_refused_for_features_only_and_work_for_logits(tiny, wake, images):
    with pytest.raises(ValueError, match="features_only needs deep prompts"):
        tiny("prompt", deep=False, features_only=True)
    assert wake(tiny("prompt", deep=False))(images).isfinite().all()
    assert len(tiny("prompt", deep=True, features_only=True, out_indices=2)(images)) == 2


def test_prompts_refuse_an_attention_mask(tiny, images):
    mask = torch.ones(17, 17, dtype=torch.bool)
    with pytest.raises(ValueError, match="prompts do not work with an attention mask"):
        tiny("prompt").forward_features(images, attn_mask=mask)
    assert isinstance(tiny("prompt").blocks[0], Prompted)


@torch.no_grad()
def test_a_prefix_takes_the_model_s_attention_mask(tiny, wake, images):
    model = wake(tiny("prefix"))
    mask = torch.rand(17, 17, generator=torch.Generator().manual_seed(0)) > 0.5
    everything = torch.ones(17, 17, dtype=torch.bool)
    torch.testing.assert_close(model.forward_features(images, attn_mask=everything), model.forward_features(images))
    assert (model.forward_features(images, attn_mask=mask) - model.forward_features(images)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("architecture", "kwargs"),
    [
        (
            "swin_tiny_patch4_window7_224",
            dict(img_size=64, window_size=4, embed_dim=32, depths=(1, 1), num_heads=(1, 2)),
        ),
        ("swinv2_tiny_window8_256", dict(img_size=64, window_size=4, embed_dim=32, depths=(1, 1), num_heads=(1, 2))),
        ("eva02_tiny_patch14_224", dict(img_size=28, embed_dim=32, depth=2, num_heads=2)),
        ("vit_small_patch16_dinov3", dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)),
        ("beit_base_patch16_224", dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)),
        ("vit_relpos_small_patch16_224", dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)),
    ],
)
def test_models_whose_attention_knows_positions_are_refused_with_what_there_is(architecture, kwargs):
    model = timm.create_model(architecture, num_classes=3, **kwargs)
    names = list(model.state_dict())
    with pytest.raises(
        ValueError, match=rf"no prefix attention is known for {type(model).__name__}: use lora or adapter"
    ):
        capaboost_vit.adapt(model, "prefix")
    with pytest.raises(ValueError, match=r"target 'block' matches nothing in .*roles there: .*mlp.*linear layers"):
        capaboost_vit.adapt(model, "prompt")
    assert list(model.state_dict()) == names


def test_prefix_attention_refuses_an_attention_that_it_does_not_know():
    from timm.layers import AttentionRope

    with pytest.raises(TypeError, match="prefixes need timm's plain Attention, got AttentionRope"):
        PrefixAttention(AttentionRope(16, 2), lambda width: virtual_tokens(2, width))


def test_prefixes_fit_a_model_with_lora_in_its_projections(tiny, wake, images):
    model = wake(tiny("lora"))
    expected = model(images)
    capaboost_vit.adapt(model, "prefix", prefix_length=0)
    torch.testing.assert_close(model(images), expected)
    with_prefix = wake(capaboost_vit.adapt(wake(tiny("lora")), "prefix"))
    with_prefix(images).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for b in capaboost_vit.branches(with_prefix).values() for p in b.parameters())


def test_lora_fits_a_model_with_prefixes(tiny, wake, images):
    model = wake(tiny("prefix"))
    expected = model(images)
    capaboost_vit.adapt(model, "lora")
    torch.testing.assert_close(model(images), expected)
    wake(model)(images).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for b in capaboost_vit.branches(model).values() for p in b.parameters())
