"""LoRA's own options: which factor is trained, and where the layers are computed."""

from __future__ import annotations

import pytest
import timm
import torch
from oracle import backward_flops
from torch.nn import functional as F

import capaboost_vit

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
LINEAR = ("blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2")


def adapted(**options):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **SMALL)
    capaboost_vit.adapt(model, "lora", rank=4, **options)
    return model


def trained(model, steps=3):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(8) % 3).backward()
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("targets", [("query", "value"), LINEAR])
def test_training_is_the_same_wherever_the_layers_are_computed(targets):
    expected = trained(adapted(targets=targets, execution="plain"))
    for execution in ("auto", "weight", "token"):
        for name, value in trained(adapted(targets=targets, execution=execution)).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_with_a_frozen_down_factor_only_b_and_the_head_are_trained_and_a_is_in_the_file(tmp_path):
    model = adapted(freeze_down=True, pattern="random")
    start = {name: p.clone() for name, p in model.named_parameters()}
    moved = trained(model)
    assert {name.rpartition(".branches.")[2] for name in moved if "branches" in name} == {"q.up.weight", "v.up.weight"}
    for name, value in model.named_parameters():
        assert torch.equal(value, start[name]) == (name not in moved)
    capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    again = adapted(freeze_down=True, pattern="random", init_seed=5)
    capaboost_vit.load_adapter(again, tmp_path / "adapter.safetensors")
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in again.named_parameters())
    assert not again.blocks[0].attn.qkv.branches["q"].down.weight.requires_grad


def test_a_second_method_leaves_the_frozen_factor_frozen():
    model = adapted(freeze_down=True)
    capaboost_vit.adapt(model, "adapter")
    assert not model.blocks[0].attn.qkv.branches["q"].down.weight.requires_grad


@pytest.mark.parametrize("execution", ["weight", "token"])
def test_dropout_with_a_path_that_has_none_is_refused(execution):
    with pytest.raises(ValueError, match=f"execution='{execution}' has no dropout, got dropout=0.1: leave execution"):
        adapted(dropout=0.1, execution=execution)


def test_an_unknown_execution_is_refused_and_leaves_the_model_as_it_was():
    model = timm.create_model("vit_tiny_patch16_224", **SMALL)
    with pytest.raises(
        ValueError, match="execution of method 'lora' must be auto, weight, token or plain, got 'space'"
    ):
        capaboost_vit.adapt(model, "lora", execution="space")
    assert not capaboost_vit.branches(model)


@pytest.mark.parametrize(("execution", "products"), [("plain", 3), ("weight", 4), ("token", 4)])
def test_below_the_output_of_the_first_adapted_layer_only_the_factors_are_differentiated(execution, products):
    """q and v of the last block: dY B, dA and dB of each, X A^T where it is not kept, and no gradient of the input."""
    model = adapted(execution=execution, num_branches=2)
    model.blocks[0].requires_grad_(False)
    images = torch.randn(8, 3, 32, 32)
    found = backward_flops(model(images))
    frozen = capaboost_vit.detach(model)
    frozen.blocks[1].attn.qkv.register_forward_hook(lambda layer, x, y: y.requires_grad_())
    tokens, rank, width = 8 * (4 * 4 + 1), 2 * 4, 16
    assert found == backward_flops(frozen(images)) + 2 * products * 2 * tokens * rank * width
