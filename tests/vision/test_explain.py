"""Attention rollout against a naive reference, gradients against finite differences; mistakes of a real run."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
import timm
import torch
from PIL import Image

import capaboost_vit
from capaboost_vit.cli import main
from capaboost_vit.run import train
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.explain import (
    GRADIENTS,
    ROLLOUT,
    attention_layers,
    attention_weights,
    explain,
    rollout,
    smooth_gradient,
)
from capaboost_vit.vision.explain_run import explain_mistakes, explain_pictures

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


def vit(**options):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **{**SMALL, **options}).eval().double()


def images(count=2, size=16):
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def perturb(model):
    """Updates that are not zero."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel())))


def naive_weights(model, x):
    """By definition, one image, head and pair of tokens after the other; what blocks do is left to the model."""
    tokens = model._pos_embed(model.patch_embed(x))
    weights = []
    for block in model.blocks:
        attn = block.attn
        parts = attn.qkv(block.norm1(tokens)).unflatten(-1, (3, attn.num_heads, attn.head_dim))
        n = tokens.shape[1]
        weight = torch.zeros(len(x), n, n, dtype=x.dtype)
        for image in range(len(x)):
            for head in range(attn.num_heads):
                q, k = parts[image, :, 0, head], parts[image, :, 1, head]
                q, k = attn.q_norm(q), attn.k_norm(k)
                for i in range(n):
                    scores = torch.stack([q[i] @ k[j] for j in range(n)]) / attn.head_dim**0.5
                    weight[image, i] += scores.exp() / scores.exp().sum() / attn.num_heads
        weights.append(weight)
        tokens = block(tokens)
    return weights


@pytest.mark.parametrize(
    ("options", "method"),
    [({}, None), ({"reg_tokens": 2}, None), ({"qk_norm": True}, None), ({}, "lora"), ({}, "adapter")],
    ids=str,
)
@torch.no_grad()
def test_the_attention_and_its_rollout_are_those_of_the_definition(options, method):
    model = vit(**options)
    if method is not None:
        capaboost_vit.adapt(model, method)
        perturb(model)
    x = images()
    logits, weights = attention_weights(model, x)
    expected = naive_weights(model, x)
    torch.testing.assert_close(logits, model(x))
    for found, naive in zip(weights, expected, strict=True):
        torch.testing.assert_close(found.double(), naive, rtol=1e-5, atol=1e-6)
    first, second = (0.5 * weight + 0.5 * torch.eye(weight.shape[1]).double() for weight in expected)
    flow = rollout(weights)
    torch.testing.assert_close(flow.double(), second @ first, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flow.sum(-1), torch.ones_like(flow[..., 0]))


@pytest.mark.parametrize(("method", "options"), [("prefix", {"prefix_length": 3}), ("prompt", {"prompt_length": 3})])
@torch.no_grad()
def test_learned_tokens_are_no_part_of_the_picture(method, options):
    model = vit()
    capaboost_vit.adapt(model, method, **options)
    perturb(model)
    weights = attention_weights(model, images())[1]
    assert [tuple(weight.shape) for weight in weights] == [(2, 5, 5)] * 2
    torch.testing.assert_close(weights[1].sum(-1), torch.ones(2, 5))
    assert explain(model, images()).maps.shape == (2, 2, 2)


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_hooks_are_gone_and_the_fused_kernel_stays(fused):
    model = vit()
    for layer in attention_layers(model):
        layer.fused_attn = fused
    before = model(images())
    expected = naive_weights(model, images())
    torch.testing.assert_close(attention_weights(model, images())[1][1].double(), expected[1], rtol=1e-5, atol=1e-6)
    assert [layer.fused_attn for layer in attention_layers(model)] == [fused] * 2
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_without_noise_it_is_the_gradient_of_finite_differences(name):
    torch.manual_seed(0)
    model = vit() if name == "vit" else timm.create_model("test_resnet", num_classes=3).eval().double()
    x, classes, step = images(1), torch.tensor([1]), 1e-5
    found = smooth_gradient(model, x, classes, samples=1, noise=0.0)
    assert found.shape == (1, 16, 16)
    for row, column in ((0, 0), (3, 11), (15, 7)):
        slopes = []
        for channel in range(3):
            shift = torch.zeros_like(x)
            shift[0, channel, row, column] = step
            with torch.no_grad():
                slopes.append((model(x + shift)[0, 1] - model(x - shift)[0, 1]) / (2 * step))
        torch.testing.assert_close(found[0, row, column], torch.stack(slopes).abs().max(), rtol=1e-4, atol=1e-9)


def test_smoothing_is_the_mean_over_its_seed_and_leaves_the_random_state_alone():
    model, x, classes = vit(), images(), torch.tensor([0, 2])
    before = torch.random.get_rng_state()
    found = smooth_gradient(model, x, classes, samples=2, noise=0.1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(found, smooth_gradient(model, x, classes, samples=2, noise=0.1))
    assert not any(p.grad is not None for p in model.parameters())
    noise = torch.Generator().manual_seed(0)
    total = 0
    for _ in range(2):
        spread = 0.1 * torch.stack([image.max() - image.min() for image in x]).view(-1, 1, 1, 1)
        y = (x + spread * torch.randn(x.shape, generator=noise)).requires_grad_()
        logits = model(y)
        total = total + torch.autograd.grad(logits[0, 0] + logits[1, 2], y)[0] / 2
    torch.testing.assert_close(found, total.abs().amax(1))


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("vit_tiny_patch16_224", SMALL, ROLLOUT),
        ("vit_tiny_patch16_224", {**SMALL, "class_token": False, "global_pool": "avg"}, GRADIENTS["classification"]),
        ("vit_tiny_patch16_224", {**SMALL, "global_pool": "avg"}, GRADIENTS["classification"]),
        ("deit_tiny_distilled_patch16_224", SMALL, GRADIENTS["classification"]),
        ("beit_base_patch16_224", SMALL, GRADIENTS["classification"]),
        ("test_resnet", {"num_classes": 3}, GRADIENTS["classification"]),
        ("test_convnext", {"num_classes": 3}, GRADIENTS["classification"]),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)},
            GRADIENTS["classification"],
        ),
    ],
    ids=str,
)
def test_each_kind_of_model_has_one_explanation(name, options, shown):
    model = timm.create_model(name, **options).eval()
    x = images(2, options.get("img_size", 32)).float()
    found = explain(model, x)
    assert found.shown == shown
    assert found.maps.shape == (2, *((2, 2) if shown == ROLLOUT else x.shape[2:]))
    assert found.maps.amin((1, 2)).tolist() == [0, 0]
    assert found.maps.amax((1, 2)).tolist() == [1, 1]
    torch.testing.assert_close(found.answers, model(x).softmax(-1).detach())
    cooler = explain(model, x, temperature=2.0)
    torch.testing.assert_close(cooler.answers, (model(x) / 2).softmax(-1).detach())
    assert torch.equal(cooler.maps, found.maps)


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_tags_and_numbers_are_explained_by_the_output_that_is_asked_for(task):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3 if task == "multi-label" else 1).eval()
    x = images(2, 32).float()
    found = explain(model, x, outputs=[0, None], task=task)
    logits = model(x).detach()
    torch.testing.assert_close(found.answers, logits.sigmoid() if task == "multi-label" else logits)
    asked = torch.tensor([0, int(logits[1].argmax())])
    maps = smooth_gradient(model, x, asked).flatten(1)
    assert torch.equal(found.maps.flatten(1).argmin(1), maps.argmin(1))
    assert found.shown == GRADIENTS[task]


# a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One epoch of all parameters of a small ViT on five digits, whose weights need no base."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    options = {"img_size": 16, "model": "vit_tiny_patch16_224", "model_kwargs": {**SMALL, "patch_size": 4}, "epochs": 1}
    options["model_kwargs"] = {k: v for k, v in options["model_kwargs"].items() if k not in ("img_size", "num_classes")}
    config = TrainConfig(data="digits:5-9", method={"name": "full"}, workers=0, output=str(folder), **options)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
        patch.setattr("capaboost_vit.training.log.Log.figure", lambda *_: None)
        patch.setattr("capaboost_vit.training.result.save_figure", lambda *_: None)
        train(config)
    return folder


def test_the_worst_mistakes_of_a_run_are_a_picture_and_are_kept_for_the_page(run):
    path = explain_mistakes(run)
    assert path == run / "mistakes.png"
    with Image.open(path) as sheet:
        assert sheet.width > 700
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 100
    worst = json.loads((run / "predictions.json").read_text())["worst"]
    content = json.loads((run / "explanations.json").read_text())
    assert content["shown"] == ROLLOUT
    assert [*content["pictures"]] == [str(row["place"]) for row in worst]


def test_pictures_of_ones_own_are_explained_too(run, tmp_path, capsys):
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "teal.png")
    assert main(["explain", str(run), str(tmp_path / "teal.png"), "--output", str(tmp_path / "why.png")]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'why.png'}\n"
    with Image.open(tmp_path / "why.png") as sheet:
        assert sheet.format == "PNG"
    assert explain_pictures(run / "adapter.safetensors", [tmp_path], tmp_path / "all.png").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: None, "no predictions.json of a test split: name the pictures"),
        (lambda content: {**content, "worst": []}, "no wrong answer on its test split: name the pictures"),
        (lambda content: {**content, "worst": [{**content["worst"][0], "name": "a cat"}]}, "has changed: image"),
    ],
    ids=["no test", "no mistake", "other data"],
)
def test_what_cannot_be_explained_is_refused_in_a_line(run, tmp_path, capsys, change, said):
    moved = tmp_path / "run"
    moved.mkdir()
    for name in ("adapter.safetensors", "config.yaml", "result.json"):
        (moved / name).write_bytes((run / name).read_bytes())
    content = change(json.loads((run / "predictions.json").read_text()))
    if content is not None:
        (moved / "predictions.json").write_text(json.dumps(content))
    assert main(["explain", str(moved)]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert not (moved / "mistakes.png").exists()
