"""What `summary` counts, against the methods' formulas and against two other FLOP counters."""

from __future__ import annotations

import copy
import json

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import capaboost_vit
from capaboost_vit.core.analysis import count_flops

METHODS = ("lora", "adapter", "prefix", "prompt")


@pytest.fixture(scope="module")
def vit_base():
    base = timm.create_model("vit_base_patch16_224", num_classes=10, weight_init="skip")

    def build(method: str, **options) -> nn.Module:
        if hasattr(base, "capaboost"):
            capaboost_vit.detach(base)
        return capaboost_vit.adapt(base, method, **options)

    return build


@pytest.mark.parametrize(
    ("method", "options", "counts"),
    [
        ("lora", dict(rank=1, pattern="random"), {"query": 18_432, "value": 18_432}),
        ("lora", dict(rank=8, pattern="random"), {"query": 147_456, "value": 147_456}),
        ("lora", dict(rank=8), {"query": 147_456 + 96, "value": 147_456 + 96}),  # with coefficients
        ("lora", dict(rank=8, num_branches=4, density=0.25), {"query": 147_456, "value": 147_456}),
        ("lora", dict(rank=8, num_branches=1, density=1), {"query": 147_456, "value": 147_456}),
        ("adapter", dict(bottleneck=8, pattern="random"), {"mlp": 156_768}),
        ("adapter", dict(bottleneck=64, pattern="random"), {"mlp": 1_189_632}),
        ("prefix", dict(prefix_length=10), {"attn": 184_320}),
        ("prompt", dict(prompt_length=10), {"block": 92_160}),
        ("prompt", dict(prompt_length=10, deep=False), {"block": 7_680}),
        ("head", dict(), {}),
    ],
)
def test_counts_of_vit_base_are_the_published_ones(vit_base, method, options, counts):
    model = vit_base(method, **options)
    result = capaboost_vit.summary(model, flops=False)
    assert {role: c.trained for role, c in result.roles.items() if role != "head"} == counts
    assert {role: c.stored for role, c in result.roles.items() if role != "head"} == counts
    assert result.roles["head"].trained == result.roles["head"].stored == 768 * 10 + 10
    assert result.trained == sum(counts.values()) + 7_690
    assert result.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert result.total == 85_798_656 + 7_690 + sum(counts.values())
    assert result.flops is None


@pytest.mark.parametrize("num_branches", [1, 2, 3])
@pytest.mark.parametrize("density", [0.25, 0.5, 0.75])
def test_live_is_what_not_every_branch_masks(vit_base, num_branches, density):
    model = vit_base("lora", rank=8, num_branches=num_branches, density=density)
    counts = capaboost_vit.summary(model, flops=False).roles["query"]
    assert counts.live / counts.stored == pytest.approx(1 - (1 - density) ** num_branches, abs=0.01)


@pytest.mark.parametrize("options", [dict(pattern="complementary"), dict(pattern="sign"), dict(density=1)])
def test_every_entry_is_live_where_no_mask_drops_it_everywhere(vit_base, options):
    counts = capaboost_vit.summary(vit_base("lora", **options), flops=False).roles["query"]
    assert counts.live == counts.stored == counts.trained


def test_frozen_branches_are_stored_but_not_trained(tiny):
    model = tiny("lora", pattern="random")
    for branch in capaboost_vit.branches(model).values():
        branch.requires_grad_(False)
    counts = capaboost_vit.summary(model, flops=False).roles["query"]
    assert counts.trained == 0
    assert counts.stored == 3 * 8 * (32 + 32)


def test_each_role_has_its_own_row(tiny):
    roles = ("query", "key", "value", "attn_out", "mlp_in", "mlp_out")
    model = capaboost_vit.adapt(tiny("lora", targets=roles, rank=2, density=1), "adapter", bottleneck=2, density=1)
    counted = {role: c.stored for role, c in capaboost_vit.summary(model, flops=False).roles.items()}
    square, wide = 3 * 2 * (32 + 32), 3 * 2 * (32 + 128)
    assert counted == {
        **dict.fromkeys(("query", "key", "value", "attn_out"), square),
        **dict.fromkeys(("mlp_in", "mlp_out"), wide),
        "mlp": 3 * (2 * 2 * 32 + 2 + 32),
        "head": 165,
    }


def macs_of_vit(N: int, D: int, depth: int, classes: int, patch: int) -> int:
    """Matrix products of a plain ViT with N tokens, one of them the class token: multiply-adds."""
    block = N * D * 3 * D + 2 * N * N * D + N * D * D + 2 * N * D * 4 * D
    return (N - 1) * D * 3 * patch * patch + depth * block + D * classes


def macs_of_method(method: str, N: int, D: int, depth: int, d: int) -> int:
    return (
        depth
        * {
            "lora": 2 * d * 8 * (D + D) * N,
            "adapter": d * 8 * (D + D) * N,
            "prefix": 2 * N * 10 * D,
            # in a block with P prompts more: all products with P rows more, and attention over them
            "prompt": 10 * (12 * D * D) + 2 * ((N + 10) ** 2 - N**2) * D,
        }[method]
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("branches", [1, 2, 4])
def test_flops_are_those_of_the_matrix_products_on_paper_and_of_torch_s_own_counter(method, branches):
    kwargs = dict(img_size=64, patch_size=8, embed_dim=96, depth=2, num_heads=3, num_classes=7)
    options = dict(num_branches=branches, density=0.5)
    if method == "lora":
        options["execution"] = "plain"  # in-place products escape the counter
    model = timm.create_model(f"vit_tiny_capaboost_{method}", **kwargs, **options).eval()
    result = capaboost_vit.summary(model)
    base = macs_of_vit(N=65, D=96, depth=2, classes=7, patch=8)
    assert result.base_flops == pytest.approx(base, rel=0.01)
    assert result.flops.executed == pytest.approx(base + macs_of_method(method, 65, 96, 2, branches), rel=0.01)
    # older releases of torch do not count the CPU's fused attention, so let it be two plain products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert result.flops.executed == pytest.approx(counter.get_total_flops() / 2, rel=0.01)
    added = result.flops.executed - result.base_flops
    assert added == pytest.approx(macs_of_method(method, 65, 96, 2, branches), rel=0.02)


def test_flops_of_vit_base_are_the_published_ones(vit_base):
    result = capaboost_vit.summary(vit_base("lora"))
    assert result.base_flops / 1e9 == pytest.approx(17.56, rel=0.01)


def test_fused_attention_is_counted(tiny):
    kwargs = dict(img_size=64, patch_size=4)  # 257 tokens: attention dominates
    model = tiny("lora", **kwargs)
    unfused = copy.deepcopy(model)
    for block in unfused.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
    fused, naive = (capaboost_vit.summary(m).flops.executed for m in (model, unfused))
    assert fused == pytest.approx(naive, rel=0.01)
    attention = 3 * 2 * 257 * 257 * 32
    assert attention > 0.3 * fused


@pytest.mark.parametrize("method", ["lora", "adapter"])
@pytest.mark.parametrize(
    ("options", "share"),
    [
        (dict(density=0.5), 0.5),
        (dict(density=0.25, num_branches=4), 0.25),
        (dict(pattern="2:4"), 0.5),
        (dict(pattern="complementary", num_branches=4), 0.25),
        (dict(pattern="sign"), 1.0),
        (dict(density=1), 1.0),
        (dict(num_branches=1, density=1), 1.0),
    ],
)
def test_ideal_flops_leave_out_the_masked_entries(tiny, method, options, share):
    result = capaboost_vit.summary(tiny(method, **options))
    executed, ideal = (count - result.base_flops for count in (result.flops.executed, result.flops.ideal))
    assert executed > 0
    assert ideal == pytest.approx(share * executed, rel=0.01)
    assert (ideal < executed) == (share < 1)


def test_a_density_s_d_times_s_is_the_ideal_cost_over_plain_lora(tiny):
    def added(**options) -> int:
        result = capaboost_vit.summary(tiny("lora", **options))
        return result.flops.ideal - result.base_flops

    assert added(num_branches=4, density=0.25) == pytest.approx(added(num_branches=1, density=1), rel=0.01)


@pytest.mark.parametrize("family", ["eva02_tiny", "beit_base"])
def test_where_the_weight_is_read_the_dense_update_is_executed_and_not_called_cheaper(family):
    kwargs = dict(img_size=28, patch_size=14, embed_dim=32, depth=2, num_heads=2)
    kwargs = {key: value for key, value in kwargs.items() if family != "eva02_tiny" or key != "patch_size"}
    result = capaboost_vit.summary(timm.create_model(f"{family}_capaboost_lora", rank=4, **kwargs))
    assert result.flops.executed == result.flops.ideal
    assert result.flops.executed - result.base_flops == 2 * 2 * (32 * 32 * 2 * 4)  # blocks, q and v, B_cat A_cat


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_untouched(tiny, wake, images, method, training):
    model = wake(tiny(method, drop_path_rate=0.1)).train(training)
    model.eval()(images).sum().backward()
    model.train(training)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    modules = dict(model.named_modules())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    capaboost_vit.summary(model)
    assert torch.equal(torch.rand(2), expected), "the global random state moved"
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters() if name in gradients)
    assert dict(model.named_modules()) == modules
    assert {m.training for m in modules.values()} == {training}
    assert model.capaboost


def test_the_table_says_what_the_numbers_are(tiny):
    result = capaboost_vit.summary(tiny("lora", density=1))
    lines = str(result).splitlines()
    assert lines[0].split() == ["trained", "stored", "live", "vit_tiny_capaboost_lora"]
    assert lines[1].split()[:3] == ["query", "1,536", "1,536"]
    sums = next(line for line in lines if line.startswith("all of them"))
    assert sums.split()[3:5] == ["3,237", "3,237"]
    share = 100 * result.trained / result.total
    assert f"trained 3,237 of {result.total:,} parameters ({share:.2f} %)" in lines
    assert "GMACs" in lines[-1]
    assert "GMACs" not in str(capaboost_vit.summary(tiny("lora", density=1), flops=False))


def test_a_summary_is_json(tiny):
    result = capaboost_vit.summary(tiny("lora"))
    loaded = json.loads(json.dumps(result.to_dict()))
    assert loaded["trained"] == result.trained
    assert loaded["roles"]["query"]["live"] == result.roles["query"].live
    assert loaded["flops"]["ideal"] == result.flops.ideal


def test_the_input_size_is_the_model_s_own_or_the_one_asked_for(tiny):
    small, large = capaboost_vit.summary(tiny("lora")), capaboost_vit.summary(tiny("lora", img_size=64))
    assert large.base_flops > 3 * small.base_flops
    dynamic = tiny("lora", dynamic_img_size=True)
    assert capaboost_vit.summary(dynamic, input_size=(3, 64, 64)).base_flops > 3 * small.base_flops


def test_a_model_that_is_not_timm_s_needs_an_input_size():
    model = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(16, 4))
    capaboost_vit.adapt(model, "lora", targets=("2",), rank=2, density=1, head=())
    with pytest.raises(
        ValueError, match=r"give input_size=\(channels, height, width\): Sequential does not tell its own"
    ):
        capaboost_vit.summary(model)
    result = capaboost_vit.summary(model, input_size=(3, 16, 16))
    assert result.roles["2.branches.all"].stored == 2 * (16 + 4)
    assert result.flops.executed == 4 * 4 * 3 * 64 + 16 * 4 + 2 * 2 * (16 + 4)
    assert count_flops(model, torch.zeros(1, 3, 16, 16)) == result.flops


def test_a_plain_model_has_a_summary_too(tiny):
    result = capaboost_vit.summary(tiny())
    assert list(result.roles) == ["head"]
    assert result.flops.executed == result.flops.ideal == result.base_flops
    assert result.trained == result.total


def test_a_features_only_net_has_a_summary_too(tiny):
    result = capaboost_vit.summary(tiny("lora", features_only=True, density=1))
    assert {role: c.stored for role, c in result.roles.items()} == {"query": 1_536, "value": 1_536}
