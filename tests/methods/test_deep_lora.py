"""Deep LoRA: the product, its start, what compression captures, the stage of a run, and Adam's eps."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from vits import IMAGES, SMALL, vit

import capaboost_vit
from capaboost_vit.core.deep_update import DeepUpdate
from capaboost_vit.run import train
from capaboost_vit.training.config import RunConfig
from capaboost_vit.training.optim import make_optimizer


def update(in_features=12, out_features=12, rank=4, **options):
    return DeepUpdate(in_features, out_features, rank, init_scale=1e-3, path="here", **options).double()


@torch.no_grad()
@pytest.mark.parametrize("compressed", [False, True])
def test_the_update_is_the_product_and_its_norm_at_the_start_that_of_three_factors(compressed):
    deep = update(10, 14, compressed=compressed)
    assert torch.linalg.matrix_norm(deep.delta(lambda: None), 2).item() == pytest.approx(1e-9, rel=1e-4)
    eye = torch.eye(4).double()
    right, *inner, left = deep.factors
    for factor in inner if compressed else deep.factors:
        small = factor @ factor.T if len(factor) == 4 else factor.T @ factor
        torch.testing.assert_close(small, 1e-6 * eye, rtol=1e-5, atol=1e-12)
    if compressed:
        torch.testing.assert_close(right @ right.T, eye, rtol=0, atol=1e-6)
        torch.testing.assert_close(left.T @ left, eye, rtol=0, atol=1e-6)
    for factor in deep.factors:
        factor.normal_()
    expected = torch.eye(10).double()
    for factor in deep.factors:
        expected = factor @ expected
    torch.testing.assert_close(deep.delta(lambda: None), expected)


def reference(gradient, factors, rank):
    """left and right of the authors' code for a square weight, with all singular vectors and a null space."""
    w1, w2, w3 = factors
    g = (w3 @ w2).T @ gradient
    u, _, vh = torch.linalg.svd(g)
    half = rank // 2
    va, vb = w1.T @ u[:, half:], vh.T[:, half:]
    _, values, nullspace = torch.linalg.svd(torch.cat([va, -vb], 1))
    null = nullspace[(values > 1e-10).sum() :].T
    v = torch.linalg.svd(va @ null[: va.shape[1]])[0].flip(1)
    return w3 @ w2 @ w1 @ v[:, :rank], v[:, :rank]


@torch.no_grad()
def test_compression_spans_the_space_of_the_reference_and_captures_the_top_directions():
    deep = update(compressed=True)
    gradient = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double()
    deep.compress(gradient)
    wide = [deep._orthogonal(12, 12, name=f"wide.{n}") for n in (1, 2, 3)]
    left, right = deep.factors[-1], deep.factors[0].T
    expected_left, expected_right = reference(gradient, wide, 4)
    torch.testing.assert_close(left @ right.T, expected_left @ expected_right.T, rtol=0, atol=1e-9)
    torch.testing.assert_close(right @ right.T, expected_right @ expected_right.T, rtol=0, atol=1e-9)
    for factor in (left, right):
        torch.testing.assert_close(factor.T @ factor, torch.eye(4).double(), rtol=0, atol=1e-9)
    u, _, vh = torch.linalg.svd(gradient)
    torch.testing.assert_close(right @ right.T @ vh[:2].T, vh[:2].T, rtol=0, atol=1e-9)
    torch.testing.assert_close(left @ left.T @ u[:, :2], u[:, :2], rtol=0, atol=1e-9)
    assert torch.linalg.matrix_norm(deep.delta(lambda: None), 2).item() == pytest.approx(1e-9, rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("rows", "columns"), [(8, 14), (14, 8)])
def test_of_a_rectangle_the_longer_side_is_orthonormal(rows, columns):
    deep = update(columns, rows, compressed=True)
    gradient = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).double()
    deep.compress(gradient)
    longer = deep.factors[0].T if columns > rows else deep.factors[-1]
    torch.testing.assert_close(longer.T @ longer, torch.eye(4).double(), rtol=0, atol=1e-9)
    u, _, vh = torch.linalg.svd(gradient)
    top = vh[:2].T if columns > rows else u[:, :2]
    torch.testing.assert_close(longer @ longer.T @ top, top, rtol=0, atol=1e-9)


def test_a_run_begins_with_the_gradient_of_its_first_update(configure, tmp_path, without_pictures):
    folders = {}
    for ratio in (1e-30, 1.0):
        options = {"name": "deep_lora", "compress": True, "rank": 4, "outer_lr_ratio": ratio, "init_scale": 0.1}
        settings = {"model": "vit_tiny_patch16_224", "method": options, "max_steps": 2, "warmup_epochs": 0}
        folders[ratio] = tmp_path / str(ratio)
        train(configure(**settings, output=str(folders[ratio])))
    names = [name for name in load_file(folders[1.0] / "adapter.safetensors") if name.endswith("factors.0")]
    kept, moved = (load_file(folder / "adapter.safetensors") for folder in folders.values())
    seed = capaboost_vit.read_header(folders[1.0] / "adapter.safetensors")["methods"][0]["init_seed"]
    for name in names:
        part, path = kept[name], name.removesuffix(".factors.0").replace(".updates", "")
        random = DeepUpdate(part.shape[1], 192, 4, init_scale=0.1, compressed=True, init_seed=seed, path=path)
        assert not torch.allclose(part, random.factors[0], atol=0.01)
        torch.testing.assert_close(part @ part.T, torch.eye(4), rtol=0, atol=1e-5)
        assert not torch.equal(part, moved[name])


@torch.no_grad()
@pytest.mark.parametrize("compress", [False, True])
def test_merging_is_exact(compress):
    model = capaboost_vit.adapt(vit(), "deep_lora", rank=4, compress=compress).double()
    for module in model.modules():
        if isinstance(module, DeepUpdate):
            for number, factor in enumerate(module.factors):
                factor.normal_(std=0.5, generator=torch.Generator().manual_seed(number))
    expected = model(IMAGES.double())
    torch.testing.assert_close(capaboost_vit.merge(model)(IMAGES.double()), expected, rtol=1e-11, atol=1e-11)
    assert (expected - vit().double()(IMAGES.double())).abs().max() > 1e-2


def test_left_and_right_have_a_rate_of_their_own_and_are_called_so():
    method = capaboost_vit.make_method("deep_lora", compress=True)
    model = timm.create_model("vit_tiny_capaboost_deep_lora", compress=True, **SMALL)
    assert [factor for _, factor in method.learning_rates(model)] == [0.01] * 8
    assert method.label(method.record()) == "deep_lora r8 compressed"
    assert list(capaboost_vit.make_method("deep_lora").learning_rates(vit())) == []
    with pytest.raises(ValueError, match="rank of method 'deep_lora' must be even to be compressed, "):
        capaboost_vit.make_method("deep_lora", rank=7, compress=True)
    with pytest.raises(
        ValueError, match=r"of 16 x 16, as 'blocks.0.attn.qkv.q' has, has no 18 directions to be compre"
    ):
        capaboost_vit.adapt(vit(), "deep_lora", rank=18, compress=True)


@pytest.mark.parametrize(("opt", "eps"), [("adamw", None), ("adamw", 1e-6), ("sgd", 1e-6)])
def test_adam_s_eps_is_an_option_of_training(opt, eps):
    optimizer = make_optimizer(nn.Linear(2, 2), RunConfig(opt=opt, opt_eps=eps))
    assert optimizer.param_groups[0].get("eps") == (None if opt == "sgd" else eps or 1e-8)
