"""ETHER, ETHER+, HRA and BOFT: PEFT's results, orthogonality, blocks, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from twins import assert_the_same_as_peft, layer, update_of
from vits import IMAGES, vit

import capaboost_vit
from capaboost_vit.core.inject import branches
from capaboost_vit.core.reflection_update import ReflectionUpdate

peft = pytest.importorskip("peft")


def same(value):
    return value


def vectors(update, theirs):
    yield update.vectors, theirs.hra_u["default"], lambda value: value[0]


def test_hra_is_peft_s():
    assert_the_same_as_peft(("HRAConfig", {"r": 6}), vectors, "hra", rank=6)


def test_ether_with_one_block_is_peft_s_hra_of_one_reflection():
    assert_the_same_as_peft(("HRAConfig", {"r": 1}), vectors, "ether")


def test_hra_starts_as_the_base_as_in_peft_and_ether_does_not():
    for method, starts in (("hra", True), ("ether", False), ("etherplus", True), ("boft", True)):
        model = capaboost_vit.adapt(vit(), method, **({"rank": 4} if method == "hra" else {})).double()
        assert torch.allclose(model(IMAGES.double()), vit().double()(IMAGES.double()), rtol=0, atol=1e-6) is starts
        assert capaboost_vit.METHODS[method].starts_as_base is starts
    ours = capaboost_vit.adapt(layer(6, 8), "hra", rank=4, targets=["0"], head=[])
    theirs = peft.get_peft_model(layer(6, 8), peft.HRAConfig(r=4, target_modules=["0"])).base_model.model[0]
    (update,) = branches(ours).values()
    for u in (update.vectors[0], theirs.hra_u["default"]):
        assert torch.equal(u[:, 0::2], u[:, 1::2])
        assert 0.5 * 2**-0.5 < u.abs().max() <= 2**-0.5


def butterfly(update, theirs):
    yield update.rotations, theirs.boft_R["default"], same
    yield update.scale, theirs.boft_s["default"], lambda value: value.unsqueeze(1)


@pytest.mark.parametrize("size", [4, 2, 8])
def test_boft_is_peft_s(size):
    config = ("BOFTConfig", {"boft_block_size": size, "boft_n_butterfly_factor": 1})
    assert_the_same_as_peft(config, butterfly, "boft", block_size=size)


@pytest.mark.parametrize(("size", "factors"), [(4, 2), (4, 3), (2, 4)])
def test_boft_of_several_factors_is_what_peft_computes_on_gpus(size, factors, monkeypatch):
    """There by a function in CUDA that puts blocks on a diagonal."""

    class BlockDiagonal:
        @staticmethod
        def apply(blocks):
            return torch.stack([torch.block_diag(*factor) for factor in blocks])

    import peft.tuners.boft.layer as boft

    monkeypatch.setattr(boft, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(boft, "FastBlockDiag", BlockDiagonal)
    config = ("BOFTConfig", {"boft_block_size": size, "boft_n_butterfly_factor": factors})
    options = {"block_size": size, "n_butterfly_factor": factors}
    assert_the_same_as_peft(config, butterfly, "boft", shape=(12, 16), **options)


def rotation(update):
    """What the update makes of the identity."""
    size = update.vectors.shape[0] * update.vectors.shape[1]
    return torch.eye(size).double() + update.delta(lambda: torch.eye(size).double())


def trained(method, **options):
    model = capaboost_vit.adapt(vit(), method, **options).double().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(5):
        optimizer.zero_grad()
        model(IMAGES.double()).square().sum().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("method", "options"), [("ether", {}), ("ether", {"num_blocks": 4}), ("hra", {"rank": 6})])
@torch.no_grad()
def test_after_training_the_rotation_is_orthogonal(method, options):
    with torch.enable_grad():
        model = trained(method, **options)
    for update in branches(model).values():
        h = rotation(update)
        torch.testing.assert_close(h @ h.T, torch.eye(16).double(), rtol=0, atol=1e-12)
        blocks = options.get("num_blocks", 1)
        torch.testing.assert_close(h.det(), torch.tensor(-1.0 if method == "ether" and blocks == 1 else 1.0).double())
        if method == "ether":
            distance = (h - torch.eye(16)).norm().square()
            torch.testing.assert_close(distance, torch.tensor(4.0 * blocks).double())  # 2 for each block
    norms = [(layer.weight.norm(), layer.base.weight.norm()) for layer in (b.attn.qkv for b in model.blocks)]
    for changed, base in norms:
        torch.testing.assert_close(changed, base)


@torch.no_grad()
def test_after_training_boft_s_rotation_is_orthogonal():
    with torch.enable_grad():
        model = trained("boft", n_butterfly_factor=2)
    identity = torch.eye(16).double()
    for update in branches(model).values():
        q = (identity + update.delta(lambda: identity)) / update.scale.unsqueeze(1)
        torch.testing.assert_close(q @ q.T, identity, rtol=0, atol=1e-12)
        assert (q - identity).abs().max() > 1e-3


@torch.no_grad()
def test_a_chain_of_reflections_is_their_product():
    update = ReflectionUpdate(8, 5, paired=False, bound=1.0).double()
    w = torch.randn(6, 8, generator=torch.Generator().manual_seed(3)).double()
    expected = w
    for column in update.vectors[0].T:
        expected = expected - 2 * torch.outer(expected @ column, column) / column.square().sum()
    torch.testing.assert_close(w + update.delta(lambda: w), expected, rtol=1e-12, atol=1e-12)
    assert torch.linalg.matrix_rank(update.delta(lambda: w)) == 5


@pytest.mark.parametrize("blocks", [1, 2, 4])
@torch.no_grad()
def test_blocks_are_those_of_a_block_diagonal_matrix(blocks):
    """The reference code reshapes the weight to (n, out, in / n), which mixes rows and columns for n > 1."""
    identity = torch.eye(8 // blocks).double()

    def relaxed(u, v=None):
        unit = [x / x.norm() for x in ((u,) if v is None else (u, v))]
        return identity - 2 * torch.outer(*unit * 2) if v is None else (
            identity - torch.outer(unit[0], unit[0]) + torch.outer(unit[1], unit[1])
        )  # fmt: skip

    ours, update = update_of("ether", 12, 8, num_blocks=blocks)
    w = ours[0].base.weight
    h = torch.block_diag(*(relaxed(u[:, 0]) for u in update.vectors))
    torch.testing.assert_close(ours[0].weight, w @ h, rtol=1e-12, atol=1e-12)
    ours, update = update_of("etherplus", 12, 8, num_blocks=blocks)
    right = torch.block_diag(*(relaxed(u, v) for u, v in zip(*update.inputs, strict=True)))
    identity = torch.eye(12 // blocks).double()
    left = torch.block_diag(*(relaxed(u, v) for u, v in zip(*update.outputs, strict=True)))
    torch.testing.assert_close(ours[0].weight, left @ w @ right, rtol=1e-12, atol=1e-12)
    assert max((right - torch.eye(8)).norm(), (left - torch.eye(12)).norm()) <= 2 * blocks**0.5 + 1e-12
    one, update = update_of("etherplus", 12, 8, num_blocks=blocks, two_sided=False)
    assert update.outputs is None
    assert torch.linalg.matrix_rank(one[0].weight - w) <= 2 * blocks


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "ether",
            {"num_blocks": 5},
            "num_blocks must divide the width of each layer, 16 of 'blocks.0.attn.qkv.q', into blocks of two",
        ),
        ("ether", {"num_blocks": 16}, "into blocks of two or more, got 16"),
        ("etherplus", {"num_blocks": 16}, "into blocks of two or more, got 16"),
        ("ether", {"num_blocks": 32}, "num_blocks must divide the width of each layer, 16 of 'blocks.0.attn.qkv.q'"),
        ("etherplus", {"num_blocks": 5}, "num_blocks must divide the width of each layer, 16 of 'blocks.0.attn.qkv.q'"),
        ("hra", {"rank": 7}, "rank of method 'hra' must be even, as reflections start in pairs, got 7"),
        (
            "boft",
            {"block_size": 5},
            r"is 5, which does not divide the 16 inputs of 'blocks.0.attn.qkv.q': take",
        ),
        (
            "boft",
            {"block_size": 4, "n_butterfly_factor": 4},
            "is 32, which does not divide the 16 inputs .*: take",
        ),
        (
            "boft",
            {"block_size": 3, "n_butterfly_factor": 2},
            "halves of blocks, so block_size of method 'boft' must",
        ),
        ("ether", {"num_branches": 2}, "'num_branches'"),
        ("hra", {"density": 0.5}, "'density'"),
    ],
)
def test_what_does_not_fit_is_refused(method, options, message):
    model = vit()
    with pytest.raises((ValueError, TypeError), match=message):
        capaboost_vit.adapt(model, method, **options)
    assert torch.equal(model(IMAGES), vit()(IMAGES))


def test_vectors_whose_length_has_no_effect_do_not_decay():
    from capaboost_vit.training.optim import parameter_groups

    for method in ("ether", "etherplus", "hra"):
        model = capaboost_vit.adapt(vit(), method)
        spared = [g["params"] for g in parameter_groups(model, {}, weight_decay=0.1) if g["weight_decay"] == 0]
        added = [p for update in branches(model).values() for p in update.parameters()]
        assert {id(p) for p in added} <= {id(p) for group in spared for p in group}


@pytest.mark.parametrize("method", ["ether", "etherplus", "hra", "boft", "dora", "neat"])
def test_a_method_that_reads_the_weight_says_so_of_integers(method):
    class Integers(nn.Module):
        in_features = out_features = 8

        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.zeros(8, 8, dtype=torch.int8))

    with pytest.raises(
        TypeError, match=rf"^{method} is a function of the weight, but the weight of a Integers is int8"
    ):
        capaboost_vit.adapt(nn.Sequential(Integers()), method, targets=["0"], head=[])
