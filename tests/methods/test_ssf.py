"""SSF on vision transformers: scale and shift behind each operation; merging is exact."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch import nn
from vits import IMAGES, SMALL, vit

import capaboost_vit
from capaboost_vit.core.inject import branches, detach
from capaboost_vit.core.merge import merge

OUTSIDE = ("patch_embed.proj.scales.all", "norm.scales.all")
INSIDE = ("norm1.scales.all", "norm2.scales.all", "attn.proj.scales.all", "mlp.fc1.scales.all", "mlp.fc2.scales.all")
QKV = tuple(f"attn.qkv.scales.{part}" for part in "qkv")


@torch.no_grad()
def awake(model):
    for seed, scale in enumerate(branches(model).values()):
        generator = torch.Generator().manual_seed(seed)
        scale.weight.normal_(1, 0.5, generator=generator)
        scale.bias.normal_(0, 0.5, generator=generator)
    return model


def adapted(model=None, **options):
    return capaboost_vit.adapt(model or vit(), "ssf", **options)


@torch.no_grad()
def test_it_is_the_transformer_with_a_scale_and_a_shift_behind_each_operation():
    model, plain = awake(adapted()), vit().double()
    found = {name: (s.weight.double(), s.bias.double()) for name, s in branches(model).items()}
    assert found.keys() == {*OUTSIDE, *(f"blocks.{i}.{name}" for i in (0, 1) for name in (*INSIDE, *QKV))}

    def behind(name, z):
        factor, shift = found[f"{name}.scales.all"]
        return factor * z + shift

    patches = nn.functional.unfold(IMAGES.double(), 8, stride=8).transpose(1, 2)  # (B, N, 3 * 8 * 8)
    conv = plain.patch_embed.proj
    x = behind("patch_embed.proj", patches @ conv.weight.flatten(1).T + conv.bias)
    x = torch.cat([plain.cls_token.expand(2, -1, -1), x], 1) + plain.pos_embed
    for i, block in enumerate(plain.blocks):
        place = f"blocks.{i}"
        z = block.attn.qkv(behind(f"{place}.norm1", block.norm1(x))).chunk(3, -1)
        vectors = (found[f"{place}.attn.qkv.scales.{part}"] for part in "qkv")
        heads = [
            (factor * part + shift).unflatten(-1, (2, 8)) for part, (factor, shift) in zip(z, vectors, strict=True)
        ]
        q, k, v = (part.transpose(1, 2) for part in heads)
        y = ((q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + behind(f"{place}.attn.proj", block.attn.proj(y))
        hidden = behind(f"{place}.mlp.fc1", block.mlp.fc1(behind(f"{place}.norm2", block.norm2(x))))
        x = x + behind(f"{place}.mlp.fc2", block.mlp.fc2(nn.functional.gelu(hidden)))
    expected = plain.head(behind("norm", plain.norm(x))[:, 0])
    torch.testing.assert_close(model.double()(IMAGES.double()), expected, rtol=1e-10, atol=1e-10)
    assert (expected - plain(IMAGES.double())).abs().max() > 1e-2


@torch.no_grad()
def test_at_step_0_it_is_the_base_to_the_last_bit():
    assert torch.equal(adapted()(IMAGES), vit()(IMAGES))


def test_parameters_of_vit_base_are_those_of_the_official_places():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
    adapted(model)
    per_block = 768 + 3 * 768 + 768 + 768 + 4 * 768 + 768  # norm1, qkv, proj, norm2, fc1, fc2
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * (768 + 12 * per_block + 768) == 205_824


def test_every_vector_learns_and_nothing_of_the_base():
    model = adapted()
    model(IMAGES).square().sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rpartition(".scales.")[0] or "head" for name in trained} >= {"head", "patch_embed.proj", "norm"}
    still = [name for name, p in trained.items() if not p.grad.abs().sum() > 0]
    assert all(name.endswith("attn.qkv.scales.k.bias") for name in still)  # the softmax does not see a shift of keys
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "qk_norm": True, "reg_tokens": 1}),
        ("test_convnext", {"targets": ["mlp_in", "mlp_out", "norm", "stem.0", "blocks.*.conv_dw"]}),
        ("swin_tiny_patch4_window7_224", {}),
    ],
    ids=["plain", "other norms", "maps", "swin"],
)
@torch.no_grad()
def test_merging_is_exact_and_gives_the_plain_model(name, options):
    torch.manual_seed(0)
    targets = {key: value for key, value in options.items() if key == "targets"}
    make = {key: value for key, value in options.items() if key != "targets"}
    if "vit" in name:
        plain = vit(name, **make).double()
    elif "swin" in name:
        small = dict(img_size=32, window_size=2, embed_dim=12, depths=(2, 2), num_heads=(2, 2), num_classes=3)
        plain = timm.create_model(name, **small).double().eval()
    else:
        plain = timm.create_model(name, num_classes=3).double().eval()
    model = awake(adapted(copy.deepcopy(plain), **targets))
    expected = model(IMAGES.double())
    merged = merge(model)
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert (merged(IMAGES.double()) - expected).abs().max() <= 1e-11 * expected.abs().max()
    assert (expected - plain(IMAGES.double())).abs().max() > 1e-2
    fresh = copy.deepcopy(plain)
    fresh.load_state_dict(merged.state_dict())
    assert torch.equal(fresh(IMAGES.double()), merged(IMAGES.double()))


@torch.no_grad()
def test_merging_with_lora_is_exact_in_both_orders():
    for order in (["lora", "ssf"], ["ssf", "lora"]):
        model = vit().double()
        for method in order:
            capaboost_vit.adapt(model, method)
        for seed, addition in enumerate(branches(model).values()):
            for parameter in addition.parameters():
                parameter.normal_(0.5, 0.3, generator=torch.Generator().manual_seed(seed))
        expected = model(IMAGES.double())
        assert (merge(model)(IMAGES.double()) - expected).abs().max() <= 1e-11 * expected.abs().max()


@torch.no_grad()
def test_a_layer_without_bias_is_scaled_and_shifted_but_not_merged():
    model = awake(adapted(vit(qkv_bias=False)))
    assert (model(IMAGES) - vit(qkv_bias=False)(IMAGES)).abs().max() > 1e-2
    with pytest.raises(
        ValueError, match=r"cannot merge 'blocks\.0\.attn\.qkv': there is no bias that could hold the shift"
    ):
        merge(model)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_where_a_model_reads_the_weight_and_keeps_the_bias_elsewhere_no_shift_gets_lost(name):
    separate = {} if "beit" in name else {"qkv_fused": True}
    model = adapted(vit(name, patch_size=8, **separate))
    with pytest.raises(TypeError, match="without bias is shifted, which its weight alone does not tell"):
        model(IMAGES)
    others = ["patch_embed", "attn_out", "mlp_in", "mlp_out", "norm"]
    model = awake(adapted(vit(name, patch_size=8, **separate), targets=others)).double()
    expected = model(IMAGES.double())
    assert (merge(model)(IMAGES.double()) - expected).abs().max() <= 1e-11 * expected.abs().max()


@torch.no_grad()
def test_a_file_round_trips_and_copies_and_checkpoints_do(tmp_path):
    model = awake(adapted(targets=["patch_embed", "mlp_in", "norm"]))
    path = capaboost_vit.save_adapter(model, tmp_path / "ssf.safetensors")
    again = capaboost_vit.load_adapter(vit(), path)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert again.capaboost["methods"] == model.capaboost["methods"]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(IMAGES), model(IMAGES))
    other = adapted(targets=["patch_embed", "mlp_in", "norm"])
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(IMAGES), model(IMAGES))
    other.load_state_dict(vit().state_dict())  # a checkpoint of the base leaves the vectors alone
    assert torch.equal(other(IMAGES), model(IMAGES))
    detach(other)
    assert torch.equal(other(IMAGES), vit()(IMAGES))


@torch.no_grad()
def test_it_is_still_a_timm_model():
    model, plain = awake(adapted()), vit()
    final, maps = model.forward_intermediates(IMAGES, indices=2)
    assert torch.equal(final, model.forward_features(IMAGES))
    assert [tuple(found.shape) for found in maps] == [(2, 16, 4, 4)] * 2
    features = timm.create_model("vit_tiny_patch16_224", features_only=True, out_indices=(0, 1), **SMALL)
    inner = adapted(features.model)
    assert inner is features.model
    assert [tuple(found.shape) for found in features(IMAGES)] == [(2, 16, 4, 4)] * 2
    assert model.get_classifier() is model.head
    model.reset_classifier(7)
    assert model(IMAGES).shape == (2, 7)
    assert model.group_matcher() == plain.group_matcher()
    other = adapted(vit(dynamic_img_size=True))
    assert other(torch.randn(1, 3, 48, 40)).shape == (1, 3)


def test_gradients_are_the_same_with_checkpointing_and_compilation():
    found = []
    for change in (
        lambda m: m,
        lambda m: m.set_grad_checkpointing(True) or m,
        lambda m: torch.compile(m, backend="aot_eager"),
    ):
        model = awake(adapted())
        change(model)(IMAGES).square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_comes_near(dtype):
    model = awake(adapted())
    expected = model(IMAGES)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(model(IMAGES).float(), expected, rtol=0.1, atol=0.2)


def test_it_learns():
    model, labels = adapted().train(), torch.tensor([0, 2])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(20):
        losses.append(nn.functional.cross_entropy(model(IMAGES), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(targets=["mlp"]), "SSF needs linear layers, convolutions, and layer or group .* 'blocks.0.mlp' is a Mlp"),
        (dict(targets=["key", "blocks.*.attn.qkv"]), "name 'blocks.0.attn.qkv' both as a whole and by its parts"),
        (dict(targets=["patch_embd"]), r"target 'patch_embd' matches nothing .*did you mean 'patch_embed'"),
    ],
)
def test_wrong_targets_are_refused_and_the_model_stays_as_it_was(options, text):
    model = vit()
    with pytest.raises((ValueError, TypeError), match=text):
        adapted(model, **options)
    assert list(model.state_dict()) == list(vit().state_dict())
    assert not hasattr(model, "capaboost")


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.LayerNorm(4, elementwise_affine=False),
        nn.LayerNorm((3, 4)),
        nn.ConvTranspose1d(4, 4, 1),
        nn.Embedding(4, 4),
        timm.layers.LayerNormAct(4),
        timm.layers.grn.GlobalResponseNorm(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_whose_weight_and_bias_could_not_hold_the_vectors_is_refused(layer):
    with pytest.raises(TypeError, match=f"but '0' is a {type(layer).__name__}"):
        adapted(nn.Sequential(layer), targets=["0"])


def test_a_layer_is_scaled_once():
    for first, second in (("ssf", "ssf"), ("ia3", "ssf"), ("ssf", "ia3")):
        model = capaboost_vit.adapt(vit(), first)
        with pytest.raises(ValueError, match="carries a scale already"):
            capaboost_vit.adapt(model, second)
