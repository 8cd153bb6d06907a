"""One small model of each family: the base at step 0, a gradient in every branch, exact merging."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.data import resolve_input_data_config
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import capaboost_vit
from capaboost_vit.core.analysis import count_flops
from capaboost_vit.core.branch import LowRankBranch
from capaboost_vit.vision.registry import FAMILIES

VIT = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
SWIN = dict(img_size=64, window_size=4, embed_dim=32, depths=(2, 1), num_heads=(1, 2))  # with a shifted window
SMALL = {
    "vit_tiny": VIT,
    "deit3_small": VIT,
    "dinov2_small": dict(img_size=28, embed_dim=32, depth=2, num_heads=2),
    "dinov2_giant": dict(img_size=28, embed_dim=32, depth=2, num_heads=2),  # a packed SwiGLU
    "dinov3_small": VIT,
    "eva02_tiny": dict(img_size=28, embed_dim=32, depth=2, num_heads=2),  # a fused qkv, read by .weight
    "eva02_base": dict(img_size=28, embed_dim=32, depth=2, num_heads=2),  # separate projections
    "beit_base": VIT,
    "beitv2_base": VIT,
    "siglip_base": VIT,
    "clip_base": VIT,
    "swin_tiny": SWIN,
    "swinv2_tiny": SWIN,
}
CASES = [(family, method) for family in SMALL for method in ("lora", "adapter")]
ALL_LINEAR = ("query", "key", "value", "attn_out", "mlp_in", "mlp_out")


@pytest.fixture
def pair(liven):
    """(the base, the adapted model) with the same base weights."""

    def build(family: str, method: str, **options) -> tuple[nn.Module, nn.Module]:
        base = liven(timm.create_model(FAMILIES[family][0], num_classes=5, **SMALL[family])).eval()
        nn.init.normal_(base.get_classifier().weight)
        model = timm.create_model(f"{family}_capaboost_{method}", num_classes=5, **SMALL[family], **options).eval()
        model.load_state_dict(base.state_dict())
        return base, model

    return build


def images_for(model: nn.Module) -> torch.Tensor:
    return torch.randn(2, *resolve_input_data_config(model)["input_size"], generator=torch.Generator().manual_seed(7))


def test_every_family_with_a_name_has_a_small_member_here():
    kinds = {family.rpartition("_")[0] for family in FAMILIES}
    assert kinds - {family.rpartition("_")[0] for family in SMALL} == {"test"}


@pytest.mark.parametrize(("family", "method"), CASES)
@torch.no_grad()  # attention picks another kernel when its bias needs a gradient
def test_step_zero_is_the_base(pair, family, method):
    base, model = pair(family, method)
    x = images_for(base)
    assert torch.equal(model(x), base(x))
    assert torch.equal(model.forward_features(x), base.forward_features(x))


@pytest.mark.parametrize(("family", "method"), CASES)
def test_every_branch_gets_a_gradient_in_both_factors_and_the_base_gets_none(pair, wake, family, method):
    _, model = pair(family, method)
    wake(model).train()
    model(images_for(model)).square().sum().backward()
    found = capaboost_vit.branches(model)
    blocks = 2 if "depth" in SMALL[family] else sum(SMALL[family]["depths"])
    assert len(found) == blocks * (2 if method == "lora" else 1)
    for name, branch in found.items():
        assert isinstance(branch, LowRankBranch)
        for factor in (branch.down, branch.up):
            live = torch.ones_like(factor.weight, dtype=torch.bool) if factor.mask is None else factor.mask.any(0)
            assert factor.weight.grad[live].abs().mean() > 0, f"{name} gets no gradient"
            assert not factor.weight.grad[~live].any(), f"{name}: a masked entry gets a gradient"
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    head = model.get_classifier()
    assert {id(p) for p in model.parameters() if p.grad is not None} == {
        id(p) for part in (*found.values(), head) for p in part.parameters()
    }


@pytest.mark.parametrize(("family", "method"), CASES)
def test_the_first_step_moves_every_branch_away_from_zero(pair, family, method):
    _, model = pair(family, method)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(images_for(model)).square().sum().backward()
    optimizer.step()
    for name, branch in capaboost_vit.branches(model).items():
        assert branch.up.weight.abs().max() > 0, f"{name} is still the zero map"


@pytest.mark.parametrize(("family", "method"), CASES)
@torch.no_grad()
def test_every_branch_alone_changes_the_output(pair, wake, family, method):
    base, model = pair(family, method)
    wake(model)
    x = images_for(base)
    everything = model(x)
    for name in capaboost_vit.branches(model):
        without = copy.deepcopy(model)
        branch = capaboost_vit.branches(without)[name]
        nn.init.zeros_(branch.up.weight)
        if branch.up_bias is not None:
            nn.init.zeros_(branch.up_bias)
        assert (without(x) - everything).abs().max() > 1e-5, f"{name} reaches no output"


@pytest.mark.parametrize("family", SMALL)
@torch.no_grad()
def test_merge_reproduces_the_outputs_and_loads_strictly_into_the_plain_model(pair, wake, family):
    base, model = pair(family, "lora")
    wake(model)
    x = images_for(model)
    expected = model(x)
    assert (expected - base(x)).abs().max() > 1e-2, "the branches do nothing, so this test would show nothing"
    merged = capaboost_vit.merge(model)
    assert torch.allclose(merged(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert torch.equal(model(x), expected), "merging a copy changed the model"
    plain = timm.create_model(FAMILIES[family][0], num_classes=5, **SMALL[family]).eval()
    plain.load_state_dict(merged.state_dict(), strict=True)
    assert torch.equal(plain(x), merged(x))


@pytest.mark.parametrize("family", SMALL)
def test_every_linear_role_takes_a_lora_that_gets_a_gradient_and_merges(pair, wake, family):
    _, model = pair(family, "lora")
    roles = [role for role in ALL_LINEAR if role in roles_of(model)]
    assert {"attn_out", "mlp_out"} <= set(roles)
    capaboost_vit.detach(model)
    capaboost_vit.adapt(model, "lora", targets=roles, rank=2)
    wake(model)
    x = images_for(model)
    expected = model(x)
    expected.square().sum().backward()
    for name, branch in capaboost_vit.branches(model).items():
        assert branch.down.weight.grad.abs().sum() > 0, name
        assert branch.up.weight.grad.abs().sum() > 0, name
    merged = capaboost_vit.merge(model)(x)
    assert torch.allclose(merged, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def roles_of(model: nn.Module) -> list[str]:
    anatomy = capaboost_vit.anatomy_of(model)
    found = []
    for role in anatomy.roles:
        try:
            capaboost_vit.find(model, role, anatomy)
        except ValueError:
            continue
        found.append(role)
    return found


@pytest.mark.parametrize("family", SMALL)
def test_an_adapter_refuses_to_be_merged(pair, family):
    _, model = pair(family, "adapter")
    with pytest.raises(ValueError, match="an adapter is no change of a weight"):
        capaboost_vit.merge(model)


@pytest.mark.parametrize("family", ["eva02_tiny", "beit_base", "swinv2_tiny"])
def test_families_that_read_the_weight_refuse_dropout_in_training_instead_of_ignoring_it(pair, family):
    _, model = pair(family, "lora", dropout=0.1)
    with pytest.raises(ValueError, match="use dropout=0 on models that read"):
        model.train()(images_for(model))
    model.eval()(images_for(model))


@pytest.mark.parametrize("family", ["eva02_tiny", "beit_base", "swinv2_tiny"])
def test_families_that_read_the_weight_refuse_an_adapter_there_instead_of_ignoring_it(pair, family):
    _, model = pair(family, "adapter", targets=("blocks.*.attn.qkv",))
    with pytest.raises(TypeError, match="carries an adapter, which its weight cannot express"):
        model(images_for(model))


@pytest.mark.parametrize("family", SMALL)
@torch.no_grad()
def test_detach_gives_back_the_plain_model(pair, wake, family):
    base, model = pair(family, "lora")
    wake(model)
    detached = capaboost_vit.detach(model)
    assert type(detached) is type(base)
    assert detached.state_dict().keys() == base.state_dict().keys()
    assert torch.equal(detached(images_for(base)), base(images_for(base)))


@pytest.mark.parametrize("family", SMALL)
def test_flops_are_exactly_those_of_torch_s_own_counter(family):
    # in-place products escape torch's counter, and so does the fused attention of a CPU: here it is two plain products
    model = timm.create_model(f"{family}_capaboost_lora", num_classes=5, **SMALL[family], execution="plain").eval()
    images = images_for(model)[:1]
    executed = count_flops(model, images).executed
    norms = []  # which torch's counter leaves out; fvcore takes 5 for each value
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _, __, output: norms.append(5 * output.numel()))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    assert 2 * (executed - sum(norms)) == counter.get_total_flops()
