"""Internal prompts: against the definition, one more token for each block, files, what is refused."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F

import capaboost_vit

TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
OPTIONS = {"bottleneck": 4, "internal_prompt": True, "learned_scale": "token", "num_branches": 1, "density": 1.0}
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def vit(**options):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **{**TINY, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.double().eval()


def prompted(**options):
    model = capaboost_vit.adapt(vit(**options), "adapter", **OPTIONS)
    with torch.no_grad():
        for seed, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model.double().eval()


def naive(model, first):
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(X))))
    counts = []
    for wrapper in model.blocks:
        block, counts = wrapper.base, [*counts, tokens.shape[1]]
        x = tokens + block.attn(block.norm1(tokens))
        z = block.norm2(x)
        adapter, mlp = block.mlp.branch, block.mlp.base
        hidden = torch.relu(z @ adapter.down.weight.T + adapter.down_bias) @ adapter.up.weight.T + adapter.up_bias
        a = torch.relu(z @ adapter.gate.weight + adapter.gate.bias).unsqueeze(-1) * hidden
        tokens = x + mlp(z) + a
        tokens = torch.cat([tokens[:, :first], F.gelu(a).mean(1, keepdim=True), tokens[:, first:]], 1)
    kept = [*range(first), *range(first + len(model.blocks), tokens.shape[1])]
    return model.forward_head(model.norm(tokens[:, kept])), counts


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}], ids=str)
def test_each_block_sees_one_token_more_the_mean_of_what_the_last_adapter_made(options):
    model, seen = prompted(**options), []
    for wrapper in model.blocks:
        wrapper.base.attn.register_forward_hook(lambda module, inputs, y: seen.append(inputs[0].shape[1]))
    found = model(X)
    expected, counts = naive(model, model.num_prefix_tokens)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    n = model.num_prefix_tokens + 4
    assert seen[: len(counts)] == counts == [n, n + 1, n + 2]
    assert model.forward_features(X).shape[1] == n


def test_it_has_no_number_of_its_own_and_a_file_knows_it(tmp_path):
    model = prompted()
    plain = capaboost_vit.adapt(vit(), "adapter", **{**OPTIONS, "internal_prompt": False})
    trained = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (model, plain)]
    assert trained[0] == trained[1]
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    torch.testing.assert_close(capaboost_vit.load_adapter(vit(), path).double()(X), model(X))
    with pytest.raises(capaboost_vit.AdapterFileError, match="was made with other options"):
        capaboost_vit.load_adapter(plain, path)
    (record,) = model.capaboost["methods"]
    assert capaboost_vit.METHODS["adapter"].label(record) == "adapter w4 learned scale token internal prompt"


def test_refusals_say_what_to_do():
    eva = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=2)
    with pytest.raises(
        ValueError, match=r"no internal prompt is known for Eva: .* positions are absolute; leave internal"
    ):
        capaboost_vit.adapt(eva, "adapter", internal_prompt=True)
    with pytest.raises(TypeError, match="internal_prompt needs a parallel adapter at the MLP of timm's plain Block"):
        capaboost_vit.adapt(vit(), "adapter", internal_prompt=True, placement="sequential")
    with pytest.raises(ValueError, match="internal_prompt needs adapters in two blocks"):
        capaboost_vit.adapt(vit(depth=1), "adapter", internal_prompt=True)
    with pytest.raises(capaboost_vit.CannotMerge, match="an internal prompt"):
        capaboost_vit.merge(prompted())
