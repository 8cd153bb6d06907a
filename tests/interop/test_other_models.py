"""Models of torchvision and open_clip: nn.MultiheadAttention in them, and detectors as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import capaboost_vit
from capaboost_vit.core.analysis import count_flops
from capaboost_vit.core.inject import branches, detach, wrappers

torchvision = pytest.importorskip("torchvision")
ROLES = ("query", "key", "value", "attn_out", "mlp_in", "mlp_out")
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TEXT = torch.randint(1, 64, (2, 8), generator=torch.Generator().manual_seed(2))
TINY = {"weights": None, "weights_backbone": None, "num_classes": 3, "min_size": 64, "max_size": 64}


def vit():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model.eval()


def clip():
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    image = open_clip.CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
    text = open_clip.CLIPTextCfg(context_length=8, vocab_size=64, width=32, heads=2, layers=2)
    return open_clip.CLIP(32, image, text).eval()


def retinanet():
    torch.manual_seed(0)
    return torchvision.models.detection.retinanet_resnet50_fpn(**TINY).eval()


def vit_outputs(model):
    return model(X)


def clip_outputs(model):
    return torch.cat(model(X, TEXT)[:2])


MODELS = {"torchvision": (vit, vit_outputs, 2), "open_clip": (clip, clip_outputs, 4)}  # with the number of blocks


def awake(model):
    for branch in branches(model).values():
        nn.init.normal_(branch.up.weight, std=0.1)
    return model


def close(found, expected):
    """To 1e-6 of the largest entry, and a few roundings more."""
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(("make", "outputs", "blocks"), MODELS.values(), ids=MODELS)
def test_attention_of_torch_starts_as_the_base_learns_merges_and_comes_back(tmp_path, make, outputs, blocks):
    model, expected = make(), outputs(make())
    capaboost_vit.adapt(model, "lora", rank=2, targets=ROLES, head=())
    assert len(branches(model)) == blocks * len(ROLES)
    for training in (False, True):
        close(outputs(model.train(training)), expected)
    awake(model).train()
    (outputs(model) ** 3).sum().backward()  # features of unit length have no other gradient from squares
    assert all(p.grad.any() for branch in branches(model).values() for p in branch.parameters())
    with torch.no_grad():  # torch's fast path
        changed = outputs(model.eval())
    assert (changed - expected).abs().max() > 1e-3
    close(outputs(model), changed)
    close(outputs(capaboost_vit.merge(model)), changed)
    file = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    close(outputs(capaboost_vit.load_adapter(make(), file).eval()), changed)
    close(outputs(detach(model)), expected)


def test_updates_of_attention_are_counted():
    """In the projection the update is formed as a matrix: B A of (3 * 16, 16), by parts."""
    model = capaboost_vit.adapt(vit(), "lora", rank=2, num_branches=1, density=1.0, head=())
    added = count_flops(model, X[:1]).executed - count_flops(vit(), X[:1]).executed
    assert added == 2 * 2 * (16 * 2 * 16)  # blocks, q and v
    assert capaboost_vit.summary(model, flops=False, verbose=False).roles["query"].trained == 2 * 2 * (16 + 16)


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("lora", {"dropout": 0.1}, ValueError, "no weight has dropout: use dropout=0"),
        ("prefix", {}, ValueError, "no prefix attention is known for VisionTransformer: use lora or adapter"),
        ("prompt", {}, ValueError, "target 'block' matches nothing in VisionTransformer"),
        ("adapter", {"targets": ("layers.*.self_attention",)}, TypeError, "gives out a pair.*: take lora, or name its"),
        ("ia3", {}, TypeError, "gives out a pair, outputs and attention weights"),
        ("ssf", {"targets": ("query",)}, TypeError, "SSF needs linear layers.*MultiheadAttention"),
        ("hira", {}, TypeError, "only linear layers take a dense update, but .* is a MultiheadAttention"),
        ("unipelt", {"parts": ("lora",)}, ValueError, "MultiheadAttention.*takes no gate: leave 'lora' out of parts"),
    ],
)
def test_what_such_attention_does_not_take_is_refused_in_one_line(method, options, error, message):
    model = vit()
    with pytest.raises(error, match=message) as raised:
        capaboost_vit.adapt(model, method, **options)
    assert "\n" not in str(raised.value)
    assert not list(wrappers(model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "targets"),
    [
        ("", ("layer4.*.conv1", "layer4.*.conv2", "head.classification_head.conv.*.0")),
        ("backbone.body", ("layer4.*.conv2",)),
    ],
)
def test_a_detector_learns_and_its_adapter_comes_back(tmp_path, inner, targets):
    """A whole detector, or its backbone alone, by patterns of names."""
    model = retinanet().requires_grad_(False)
    part = model.get_submodule(inner)
    capaboost_vit.adapt(part, "lora", rank=2, targets=targets, head=())
    boxes = [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}] * 2
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = sum(model.train()(images, boxes).values())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    file = capaboost_vit.save_adapter(part, tmp_path / "adapter.safetensors")
    fresh = retinanet()
    capaboost_vit.load_adapter(fresh.get_submodule(inner), file)
    for found, expected in zip(fresh.eval()(images), model.eval()(images), strict=True):
        torch.testing.assert_close(found, expected)
