"""LoRA on the layers of many families: convolutions, fused layers of all layouts, nn.MultiheadAttention."""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
from torch import nn

import capaboost_vit
from capaboost_vit.core.inject import branches, find, wrappers
from capaboost_vit.core.low_rank_kinds import low_rank_kind
from capaboost_vit.core.names import get
from capaboost_vit.vision.anatomy import anatomy_of

ROLES = ("query", "key", "value", "attn_out", "mlp_in", "mlp_out")
# arguments that make a small model, the side of its images, how many layers of each role it has
FAMILIES = {
    "cait_xxs24_224": ({"depth": 1, "img_size": 32}, 32, (3, 3, 3, 3, 3, 3)),
    "caformer_s18": ({}, 64, (12, 12, 12, 12, 18, 18)),
    "coatnet_pico_rw_224": ({"img_size": 64}, 64, (7, 7, 7, 7, 7, 7)),
    "convit_tiny": ({"depth": 2, "local_up_to_layer": 1, "img_size": 32}, 32, (2, 2, 2, 2, 2, 2)),
    "convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)}, 32, (0, 0, 0, 0, 4, 4)),
    "crossvit_tiny_240": ({}, 240, (21, 21, 21, 21, 15, 15)),
    "davit_tiny": ({"depths": (1, 1, 1, 1), "embed_dims": (32, 32, 64, 64), "num_heads": (1, 1, 2, 2)}, 64, (8,) * 6),
    "edgenext_xx_small": ({}, 64, (3, 3, 3, 3, 12, 12)),
    "efficientformer_l1": ({}, 224, (1, 1, 1, 1, 15, 15)),
    "efficientvit_b0": ({}, 64, (4, 4, 4, 4, 4, 4)),
    "efficientvit_m0": ({"img_size": 128, "depth": (1, 1, 2)}, 128, (16, 16, 16, 4, 12, 12)),
    "gcvit_xxtiny": ({}, 224, (6, 12, 12, 12, 12, 12)),
    "levit_128s": ({"img_size": 128}, 128, (11, 11, 11, 11, 11, 11)),
    "levit_conv_128s": ({"img_size": 128}, 128, (11, 11, 11, 11, 11, 11)),
    "maxvit_pico_rw_256": ({"img_size": 64}, 64, (22, 22, 22, 22, 22, 22)),
    "mobilevit_xxs": ({}, 64, (9, 9, 9, 9, 9, 9)),
    "mobilevitv2_050": ({}, 128, (9, 9, 9, 9, 9, 9)),
    "nextvit_small": ({}, 64, (4, 4, 4, 4, 20, 20)),
    "poolformer_s12": ({}, 64, (0, 0, 0, 0, 12, 12)),
    "pvt_v2_b0": ({"depths": (1, 1, 1, 1)}, 64, (4, 4, 4, 4, 4, 4)),
    "shvit_s1": ({}, 128, (9, 9, 9, 9, 15, 15)),
    "tiny_vit_5m_224": ({}, 64, (10, 10, 10, 10, 10, 10)),
    "visformer_tiny": ({"img_size": 128}, 128, (8, 8, 8, 8, 15, 15)),
}


@functools.cache
def plain(name):
    """A model in float64 as if trained: no weight is zero, activations and gradients are neither tiny nor huge."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **FAMILIES[name][0]).double()
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    for parameter in model.parameters():  # layer scales of 1e-6, norms behind which nothing goes on
        if parameter.dim() == 1 and parameter.abs().max() < 1e-3:
            nn.init.constant_(parameter, 0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = 0.5
    model.requires_grad_(False).train()(images(name))  # the statistics of batch norms, or activations grow
    return model.eval()  # some keep biases for evaluation mode, which could not be copied with gradients


def images(name):
    side = FAMILIES[name][1]
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).double()


def roles(name):
    return tuple(role for role, count in zip(ROLES, FAMILIES[name][2], strict=True) if count)


def quick_or_slow(names):
    slow = {
        "caformer_s18",
        "crossvit_tiny_240",
        "gcvit_xxtiny",
        "maxvit_pico_rw_256",
        "nextvit_small",
        "visformer_tiny",
    }
    slow |= {"shvit_s1", "tiny_vit_5m_224"}
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


def adapted(name):
    model = copy.deepcopy(plain(name))
    return capaboost_vit.adapt(model, "lora", rank=2, num_branches=2, pattern="random", targets=roles(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_each_role_has_its_layers(name):
    anatomy = anatomy_of(plain(name))
    places = {role: find(plain(name), role, anatomy) for role in roles(name)}
    assert [len({place.name for place in places.get(role, ())}) for role in ROLES] == list(FAMILIES[name][2])
    assert all(len({place.name for place in found}) == len(found) for found in places.values())


# attention that is no softmax over keys: of a single query, so that a shift of it is nothing; of products without one,
# in which a factor of queries or keys is nothing; between channels
SINGLE_QUERY, FACTORS, CHANNELS = ("mobilevitv2_050",), ("efficientvit_b0",), ("davit_tiny", "edgenext_xx_small")


@pytest.mark.parametrize(
    "name", quick_or_slow(name for name in FAMILIES if "query" in roles(name) and name not in CHANNELS)
)
def test_the_rows_of_a_role_are_those_that_the_attention_takes_for_it(name):
    """Softmax cannot tell a shift of all keys: if the rows of the keys are right, nothing changes, and else it does."""
    model, x = plain(name), images(name)
    expected = model(x)
    same = {role for role in ("query", "key", "value") if close_to(model, x, name, role, expected)}
    assert same == ({"query"} if name in SINGLE_QUERY else {"query", "key"} if name in FACTORS else {"key"})


def close_to(model, x, name, role, expected):
    """Whether the logits stay as they are when the outputs of a role are shifted, or multiplied."""
    hooks = []
    for place in find(model, role, anatomy_of(model)):
        layer = get(model, place.name)
        rows, _ = low_rank_kind(layer, place.name).shape(layer)
        layout, dim = place.layout(rows), 1 if isinstance(layer, nn.Conv2d) else -1

        def change(_, __, y, layout=layout, dim=dim, part=place.site.part):
            pieces = layout.split(y, dim)
            shift = torch.linspace(-5, 5, pieces[part].shape[dim]).view(-1, *[1] * (y.dim() - 2 if dim == 1 else 0))
            pieces[part] = 2 * pieces[part] if name in FACTORS else pieces[part] + shift
            return layout.join(pieces, dim)

        hooks.append(layer.register_forward_hook(change))
    changed = model(x)
    for hook in hooks:
        hook.remove()
    tolerance = 3e-3 if name in FACTORS else 1e-9  # beside the small number that is added to a denominator
    return bool((changed - expected).abs().max() < tolerance * expected.abs().max())


@pytest.mark.parametrize("name", quick_or_slow(FAMILIES))
def test_it_starts_as_the_base_learns_everywhere_merges_and_comes_back(name, tmp_path):
    model, x = adapted(name), images(name)
    expected = plain(name)(x)
    close(model(x), expected)
    for branch in branches(model).values():
        nn.init.normal_(branch.up.weight, std=0.05)
    changed = model(x)
    assert (changed - expected).abs().max() > 1e-4
    changed.square().sum().backward()
    for key, branch in branches(model).items():
        assert branch.down.weight.grad.any(), key
        assert branch.up.weight.grad.any(), key
    merged = capaboost_vit.merge(model)
    assert not list(wrappers(merged))
    close(merged(x), changed)
    file = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    loaded = capaboost_vit.load_adapter(copy.deepcopy(plain(name)), file).eval()
    assert torch.equal(loaded(x), changed)


def close(found, expected):
    """To 1e-9 of the largest entry."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.detach().abs().max()))
