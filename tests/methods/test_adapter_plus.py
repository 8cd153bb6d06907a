"""Adapter+ and AdaptFormer's learned scale, and what CapaBoost makes of them: options of the one adapter."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

import capaboost_vit
from capaboost_vit.core.inject import branches

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
CONFIG = Path(__file__).parents[2] / "configs" / "vtab1k" / "adapter_plus.yaml"
PLUS = {
    "bottleneck": 8,
    "targets": "block",
    "placement": "sequential",
    "activation": "gelu",
    "learned_scale": "channel",
    "init": "houlsby",
    "num_branches": 1,
    "density": 1.0,
}
MASKED = {**PLUS, "num_branches": 2, "density": 0.5}
both = pytest.mark.parametrize("options", [PLUS, MASKED], ids=["plain", "capaboost"])


def vit(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    return timm.create_model(name, **{**SMALL, **options}).eval()


def adapted(model=None, **options):
    return capaboost_vit.adapt(model or vit(), "adapter", **options)


@torch.no_grad()
def awake(model):
    for seed, branch in enumerate(branches(model).values()):
        generator = torch.Generator().manual_seed(seed)
        for parameter in branch.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


@both
@torch.no_grad()
def test_it_stands_behind_the_block_on_the_residual_stream(options):
    """`x + s * (W_up gelu(W_down x + b_down) + b_up)` where x is what the whole block gives, copies summed."""
    model, plain = awake(adapted(**options)).double(), vit().double()
    x = plain.norm_pre(plain._pos_embed(plain.patch_embed(IMAGES.double())))
    for i, block in enumerate(plain.blocks):
        x, branch = block(x), branches(model)[f"blocks.{i}.branch"]
        copies = [
            nn.functional.gelu(x @ down.T + branch.down_bias) @ up.T
            for down, up in zip(branch.down(), branch.up(), strict=True)
        ]
        x = x + branch.gain * (sum(copies) + branch.up_bias)
    expected = plain.forward_head(plain.norm(x))
    torch.testing.assert_close(model(IMAGES.double()), expected, rtol=1e-10, atol=1e-10)
    assert (expected - plain(IMAGES.double())).abs().max() > 1e-2


@both
@torch.no_grad()
def test_at_step_0_it_is_near_the_base_and_with_a_zero_start_the_base(options):
    base = vit()(IMAGES)
    assert 0 < (adapted(**options)(IMAGES) - base).abs().max() < 0.02 * base.abs().max()
    assert torch.equal(adapted(**{**options, "init": "zero"})(IMAGES), base)


@both
def test_parameters_of_vit_base_at_width_8(options):
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
    adapted(model, **options)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 12 * (2 * 8 * 768 + 8 + 768 + 768) == 165_984


@both
def test_everything_learns(options):
    model, labels = adapted(**options).train(), torch.tensor([0, 2])
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.02)
    losses = []
    for _ in range(25):
        losses.append(nn.functional.cross_entropy(model(IMAGES), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0]
    assert all(not torch.equal(p, start[name]) for name, p in trained.items())


@both
@torch.no_grad()
def test_files_copies_and_timm_go_along(tmp_path, options):
    model = awake(adapted(**options))
    path = capaboost_vit.save_adapter(model, tmp_path / "plus.safetensors")
    again = capaboost_vit.load_adapter(vit(), path)
    for twin in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(IMAGES), model(IMAGES))
    final, maps = model.forward_intermediates(IMAGES, indices=2)
    assert torch.equal(final, model.forward_features(IMAGES))
    assert len(maps) == 2
    assert model.get_classifier() is model.head
    with pytest.raises(ValueError, match="an adapter is no change of a weight"):
        capaboost_vit.merge(model)
    other = adapted(**{**options, "learned_scale": "scalar"})
    with pytest.raises(capaboost_vit.AdapterFileError, match=r"gain is \(16,\) in the file and \(1,\) in the model"):
        capaboost_vit.load_adapter(other, path)
    without = adapted(**{**options, "learned_scale": None})
    with pytest.raises(capaboost_vit.AdapterFileError, match="unknown"):
        capaboost_vit.load_adapter(without, path)


def test_gradients_are_the_same_with_checkpointing():
    found = []
    for checkpointing in (False, True):
        model = awake(adapted(**MASKED))
        model.set_grad_checkpointing(checkpointing)
        model(IMAGES).square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


def test_stochastic_depth_leaves_an_adapter_out_for_whole_images_in_training_only():
    model = awake(adapted(**PLUS, drop_path=0.5))
    assert torch.equal(model(IMAGES), awake(adapted(**PLUS))(IMAGES))
    torch.manual_seed(0)
    outputs = {tuple(model.train()(IMAGES[:1]).flatten().tolist()) for _ in range(40)}
    assert len(outputs) == 4  # two adapters, each there or not


@pytest.mark.parametrize(
    ("options", "scaling", "size"),
    [
        (dict(learned_scale="scalar"), 1.0, 1),  # AdaptFormer with a learned scale
        (dict(learned_scale="scalar", scale=0.1), 0.1, 1),
        (dict(learned_scale="channel", placement="sequential"), 1.0, 16),
        ({}, 0.1, None),
    ],
)
def test_a_learned_scale_starts_from_s_or_one(options, scaling, size):
    for branch in branches(adapted(**options)).values():
        assert branch.scaling == scaling
        assert size is None if branch.gain is None else branch.gain.tolist() == [1.0] * size


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            dict(learned_scale="channels"),
            "learned_scale of method 'adapter' must be scalar, channel or token, got 'channels'",
        ),
        (dict(init="houlsbi"), "init of method 'adapter' must be zero or houlsby, got 'houlsbi'"),
        (dict(drop_path=1.0), r"drop_path of method 'adapter' must lie in \[0, 1\), got 1.0"),
        (dict(rescale="mean", pattern="sign"), "rescale='mean' has nothing to divide by with sign masks"),
    ],
)
def test_wrong_options_are_refused_and_the_model_stays_as_it_was(options, text):
    model = vit()
    with pytest.raises(ValueError, match=text):
        adapted(model, **options)
    assert list(model.state_dict()) == list(vit().state_dict())


def test_the_config_is_adapter_plus():
    method = yaml.safe_load(CONFIG.read_text())["method"]
    assert method.pop("name") == "adapter"
    expected = {**PLUS, "targets": ["block"], "drop_path": 0.1}
    assert {name: method.get(name, expected[name] if name == "bottleneck" else None) for name in expected} == expected
