"""A learned scale of each token: against the definition, its start, tokens that get nothing, rows by themselves."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import capaboost_vit
from capaboost_vit import core
from capaboost_vit.core.gate import TokenScale

OPTIONS = {"bottleneck": 4, "learned_scale": "token", "num_branches": 1, "density": 1.0}
TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
X = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def filled(branch):
    with torch.no_grad():
        for seed, parameter in enumerate(branch.parameters()):
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return branch.double()


@pytest.mark.parametrize("num_branches", [1, 2])
def test_each_token_of_the_output_is_multiplied_by_its_own_number(num_branches):
    masking = core.Masking(num_branches, None if num_branches > 1 else 1.0)
    make = {"scaling": 0.7, "act": "relu", "bias": True}
    branch = filled(core.LowRankBranch(24, 16, 4, masking, learned_scale="token", **make))
    plain = core.LowRankBranch(24, 16, 4, masking, **make).double()
    plain.load_state_dict({name: v for name, v in branch.state_dict().items() if not name.startswith("gate.")})
    scale = torch.stack([torch.relu(token @ branch.gate.weight + branch.gate.bias) for token in X.view(-1, 24)])
    none = (scale == 0).view(3, 5)
    assert 0 < none.sum() < 15
    expected, y = scale.view(3, 5, 1) * plain(X), torch.randn(3, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(branch(X), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(branch.added_to(y, X), y + expected, rtol=0, atol=1e-12)
    assert torch.equal(branch.added_to(y, X)[none], y[none])


def test_it_starts_from_one_for_all_tokens_and_learns_from_there():
    scale = TokenScale(24).double()
    assert torch.equal(scale(X), torch.ones(3, 5, 1, dtype=torch.float64))
    scale(X).sum().backward()
    torch.testing.assert_close(scale.weight.grad, X.sum((0, 1)))
    assert scale.bias.grad.item() == 15


def test_it_acts_on_each_row_alone_and_survives_a_file(tmp_path):
    def plain():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **TINY)
        nn.init.normal_(model.head.weight)
        return model.eval()

    model, images = capaboost_vit.adapt(plain(), "adapter", **OPTIONS), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(images), plain()(images))
    for branch in core.branches(model).values():
        filled(branch).float()
    torch.testing.assert_close(capaboost_vit.logits_only(model)(images), model(images))
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    assert torch.equal(capaboost_vit.load_adapter(plain(), path)(images), model(images))
    assert model.blocks[0].mlp.branch.gate.weight.shape == (16,)
    (record,) = model.capaboost["methods"]
    assert "learned scale token" in capaboost_vit.METHODS["adapter"].label(record)
    with pytest.raises(capaboost_vit.CannotMerge, match="an adapter is no change of a weight"):
        capaboost_vit.merge(model)
