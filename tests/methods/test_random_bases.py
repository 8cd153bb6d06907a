"""VeRA and RandLoRA: PEFT's results with the same matrices, which all layers share and no file holds."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from safetensors.torch import load_file
from twins import assert_the_same_as_peft
from vits import IMAGES, SMALL, vit

import capaboost_vit
from capaboost_vit.core.inject import branches

pytest.importorskip("peft")
METHODS = ("vera", "randlora")
SHAPES = [(8, 8), (12, 8), (8, 12)]


def same(value):
    return value


def vera(update, theirs):
    yield update.down.values, theirs.vera_A["default"], same
    yield update.up.values, theirs.vera_B["default"], same
    yield update.d, theirs.vera_lambda_d["default"], same
    yield update.b, theirs.vera_lambda_b["default"], same


@pytest.mark.parametrize("shape", SHAPES)
def test_vera_is_peft_s_with_the_same_a_and_b(shape):
    assert_the_same_as_peft(("VeraConfig", {"r": 5}), vera, "vera", rank=5, shape=shape)


def randlora(update, theirs):
    yield update.down.values, theirs.randlora_A["default"], lambda value: value.unsqueeze(1)
    # PEFT numbers the columns of B and the rows of A in different orders; which column is which, nobody knows
    n, r = theirs.randlora_B["default"].shape[1:]
    yield update.up.values, theirs.randlora_B["default"], lambda value: value.flatten(1).unflatten(1, (n, r))
    yield update.lambdas, theirs.randlora_lambda["default"], same
    yield update.gammas, theirs.randlora_gamma["default"], same


@pytest.mark.parametrize("rank", [4, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_randlora_is_peft_s_with_the_same_a_and_b(shape, rank):
    config = ("RandLoraConfig", {"r": rank, "randlora_alpha": 2 * rank})
    assert_the_same_as_peft(config, randlora, "randlora", rank=rank, alpha=2.0 * rank, shape=shape)


@torch.no_grad()
def awake(model):
    for seed, update in enumerate(branches(model).values()):
        for parameter in update.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(seed))
    return model.eval()


@torch.no_grad()
def test_the_sums_are_those_of_the_papers():
    model = awake(capaboost_vit.adapt(vit(), "vera", rank=6, targets=("query", "mlp_in", "mlp_out"))).double()
    for update in branches(model).values():
        out, columns = len(update.b), update.in_features
        a, b = update.down.values[:, :columns], update.up.values[:out]
        expected = torch.diag(update.b) @ b @ torch.diag(update.d) @ a
        torch.testing.assert_close(update.delta(None), expected)
    model = awake(capaboost_vit.adapt(vit(), "randlora", rank=6, targets=("query", "mlp_in", "mlp_out"))).double()
    for update in branches(model).values():
        width = min(update.in_features, update.out_features)
        terms = [
            update.up.values[: max(update.in_features, update.out_features), :, j]
            @ torch.diag(update.lambdas[:, j])
            @ update.down.values[:, :width]
            @ torch.diag(update.gammas[j])
            for j in range(math.ceil(width / 6))
        ]
        expected = 640 / 6 * sum(terms)
        transposed = update.in_features > update.out_features
        torch.testing.assert_close(update.delta(None), expected.T if transposed else expected)
        assert torch.linalg.matrix_rank(expected) == width  # full


def test_the_starts_are_peft_s():
    (update, *_) = branches(capaboost_vit.adapt(vit(), "vera")).values()
    assert update.d.eq(0.1).all()
    assert not update.b.any()
    for matrix, bound in ((update.down, (6 / 16) ** 0.5), (update.up, (6 / 256) ** 0.5)):
        assert 0.98 * bound < matrix.values.abs().max() <= bound
    (update, *_) = branches(capaboost_vit.adapt(vit(), "randlora", rank=5)).values()
    assert update.lambdas.shape == (5, 4)
    assert update.gammas.shape == (4, 16)
    assert update.gammas.eq(1 / 16).all()
    for matrix in (update.down, update.up):
        assert matrix.values.square().mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_the_matrices_are_shared_a_function_of_their_seed_and_in_no_file(method, tmp_path):
    def adapted(**options):
        return capaboost_vit.adapt(vit(), method, rank=6, **options)

    model = awake(adapted())
    for twin in (model, copy.deepcopy(model), copy.deepcopy(model).double()):
        assert len({id(update.down.values) for update in branches(twin).values()}) == 1
        assert len({id(update.up.values) for update in branches(twin).values()}) == 1
    assert not any("values" in name for name in model.state_dict())
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    stored = sum(t.numel() for name, t in load_file(path).items() if not name.startswith("head."))
    assert stored == sum(p.numel() for update in branches(model).values() for p in update.parameters())
    assert torch.equal(capaboost_vit.load_adapter(vit(), path)(IMAGES), model(IMAGES))
    other = adapted(projection_prng_key=1)
    assert not torch.equal(
        next(iter(branches(other).values())).up.values, next(iter(branches(model).values())).up.values
    )
    with pytest.raises(ValueError, match=r"other options .*'projection_prng_key': 0.* in the file"):
        capaboost_vit.load_adapter(other, path)


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_of_a_run_does_not_move_them(method):
    made = capaboost_vit.make_method(method)
    assert made.seeded(5) == made


@pytest.mark.parametrize("method", METHODS)
def test_a_registered_model_has_them_too(method):
    model = timm.create_model(f"vit_tiny_capaboost_{method}", rank=6, **SMALL)
    assert len({id(update.down) for update in branches(model).values()}) == 1
