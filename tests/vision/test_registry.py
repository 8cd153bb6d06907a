"""The registered names are timm models like any other: listed, tagged, configured and built as timm does it."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.data import resolve_data_config, resolve_input_data_config
from timm.models import get_model_args, save_for_hf
from torch import nn

import capaboost_vit
from capaboost_vit.vision.registry import FAMILIES, methods_of, parse_name

METHODS = ("lora", "adapter", "prefix", "prompt")
NAMES = [
    (f"{family}_capaboost_{method}", base)
    for family, (base, _) in FAMILIES.items()
    for method in methods_of(family)
    if method != "reflection"  # of another test
]

# one small member of each group of families, and what makes it quick
SMALL = {
    "vit_tiny": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
    "deit3_small": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
    "dinov2_small": dict(img_size=28, embed_dim=32, depth=2, num_heads=2),
    "siglip_base": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
    "clip_base": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
    "dinov3_small": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
    "eva02_tiny": dict(img_size=28, embed_dim=32, depth=2, num_heads=2),
    "eva02_base": dict(img_size=28, embed_dim=32, depth=2, num_heads=2),
    "beit_base": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
    "beitv2_base": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
    "swin_tiny": dict(img_size=64, window_size=4, embed_dim=32, depths=(1, 1), num_heads=(1, 2)),
    "swinv2_tiny": dict(img_size=64, window_size=4, embed_dim=32, depths=(1, 1), num_heads=(1, 2)),
    "test_vit": dict(),
}


def test_list_models_lists_exactly_the_families_times_their_methods():
    listed = [name for name in timm.list_models("*capaboost*") if not name.endswith("_reflection")]  # of another test
    assert sorted(listed) == sorted(name for name, _ in NAMES)
    assert len(listed) == 974
    assert all(timm.is_model(name) for name, _ in NAMES)
    assert not timm.is_model("vit_tiny_capaboost_loha")


@pytest.mark.parametrize("family", FAMILIES)
def test_tags_and_configurations_are_those_of_the_base(family):
    base, methods = FAMILIES[family][0], methods_of(family)
    theirs = timm.get_pretrained_cfg(base)
    source = ("hf_hub_id", "url", "file", "custom_load", "num_classes", "input_size", "mean", "std", "classifier")
    tags = [full.partition(".")[2] for full in timm.list_models(f"{base}.*", include_tags=True)]
    for name in (f"{family}_capaboost_{method}" for method in methods):
        ours = timm.get_pretrained_cfg(name)
        assert ours.tag == theirs.tag, "the base's default tag is not ours"
        assert ours.architecture == name
        assert [getattr(ours, key) for key in source] == [getattr(theirs, key) for key in source]
        assert sorted(timm.list_models(f"{name}.*", include_tags=True)) == sorted(f"{name}.{tag}" for tag in tags)
        for tag in tags:
            both = (timm.get_pretrained_cfg(f"{arch}.{tag}").to_dict() for arch in (name, base))
            first, second = (resolve_data_config(pretrained_cfg=config) for config in both)
            assert first == second


def test_list_pretrained_passes_the_tags_through():
    listed = timm.list_pretrained("vit_base_capaboost_lora*")
    assert listed == [
        name.replace("_patch16_224", "_capaboost_lora") for name in timm.list_pretrained("vit_base_patch16_224.*")
    ]
    assert "vit_base_capaboost_lora.augreg_in21k" in listed


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_there_in_every_size_that_timm_still_has(family):
    base, methods = FAMILIES[family][0], methods_of(family)
    assert timm.is_model(base)
    assert methods
    assert set(METHODS[:2]) <= set(methods)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_s_methods_fit_its_architecture_and_no_other_does(family):
    base, methods = FAMILIES[family][0], methods_of(family)
    kwargs = {"depths": (1, 1, 1, 1)} if "swin" in family else {"depth": 1}  # the real widths, heads and projections
    plain = timm.create_model(base, num_classes=3, device="meta", **kwargs)
    for method in METHODS:
        model = timm.create_model(base, num_classes=3, device="meta", **kwargs) if method in methods else plain
        if method in methods:
            capaboost_vit.adapt(model, method)
            assert capaboost_vit.branches(model)
        else:
            with pytest.raises(ValueError, match=r"no prefix attention is known|matches nothing"):
                capaboost_vit.adapt(model, method)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("vit_tiny_capaboost_lora", ("vit_tiny_patch16_224", "lora")),
        ("vit_tiny_capaboost_lora.augreg_in21k", ("vit_tiny_patch16_224", "lora")),
        ("swin_tiny_capaboost_adapter", ("swin_tiny_patch4_window7_224", "adapter")),
        ("swin_tiny_capaboost_prefix", None),
        ("vit_tiny_patch16_224", None),
        ("resnet_capaboost_lora", None),
        ("", None),
    ],
)
def test_parse_name_knows_registered_names_only(name, parsed):
    assert parse_name(name) == parsed


@pytest.mark.parametrize("method", METHODS)
def test_a_tag_chooses_the_base_s_configuration(method, tiny):
    model = timm.create_model(
        f"vit_tiny_capaboost_{method}.augreg_in21k", patch_size=8, embed_dim=32, depth=1, num_heads=2, img_size=32
    )
    assert model.pretrained_cfg["tag"] == "augreg_in21k"
    assert model.pretrained_cfg["architecture"] == f"vit_tiny_capaboost_{method}"
    assert model.num_classes == 21843
    assert model.capaboost["base"] == {"architecture": "vit_tiny_patch16_224", "tag": "augreg_in21k"}
    assert tiny(method).capaboost["base"]["tag"] == timm.get_pretrained_cfg("vit_tiny_patch16_224").tag


def test_options_reach_the_branches(tiny):
    options = dict(rank=4, num_branches=3, density=0.25, targets=("key", "mlp_out"), alpha=16)
    model = tiny("lora", **options)
    found = capaboost_vit.branches(model)
    assert set(found) == {
        f"blocks.{i}.{place}" for i in range(3) for place in ("attn.qkv.branches.k", "mlp.fc2.branches.all")
    }
    for branch in found.values():
        assert (branch.rank, branch.num_branches, branch.scaling) == (4, 3, 4.0)
        assert branch.down.mask.shape[0] == 3
        assert branch.down.mask.float().mean() == 0.25
    assert {key: get_model_args(model)[key] for key in options} == options, (
        "timm no longer remembers the factory's kwargs"
    )


@pytest.mark.parametrize(
    ("method", "kwargs", "error", "text"),
    [
        (
            "lora",
            dict(bottleneck=4),
            TypeError,
            r"vit_tiny_capaboost_lora has no option 'bottleneck' \(that is adapter's\)",
        ),
        ("adapter", dict(rank=4), TypeError, r"no option 'rank' \(that is lora's\); it has: .*bottleneck"),
        ("prefix", dict(prompt_length=4), TypeError, r"no option 'prompt_length' \(that is prompt's\)"),
        ("lora", dict(rnak=4), TypeError, r"unexpected keyword argument 'rnak' \('rnak': did you mean 'rank'\?\)"),
        ("adapter", dict(botleneck=4), TypeError, r"did you mean 'bottleneck'"),
        ("lora", dict(colour="red"), TypeError, r"vit_tiny_capaboost_lora: .*unexpected keyword argument 'colour'$"),
        ("lora", dict(rank=0), ValueError, "rank of method 'lora' must be at least 1, got 0"),
        ("lora", dict(rank=-1), ValueError, "rank of method 'lora' must be at least 1, got -1"),
        ("lora", dict(density=1.5), ValueError, r"density must lie in \(0, 1\], got 1.5"),
        ("lora", dict(targets=("querry",)), ValueError, r"'querry' matches nothing.*did you mean 'query'"),
        ("lora", dict(pattern="2:3"), ValueError, r"divisible by 3"),
        ("prefix", dict(prefix_length=-1), ValueError, "prefix_length of method 'prefix' must be at least 0, got -1"),
        (
            "prompt",
            dict(deep=False, features_only=True),
            ValueError,
            r"features_only needs deep prompts, .*: say deep=True",
        ),
        (
            "lora",
            dict(features_only=True, feature_cls="hook"),
            ValueError,
            r"feature_cls must be 'list', 'getter' or 'fx'",
        ),
    ],
)
def test_wrong_options_say_what_is_wrong(tiny, method, kwargs, error, text):
    with pytest.raises(error, match=text):
        tiny(method, **kwargs)


def test_an_unknown_tag_is_refused_as_timm_does():
    with pytest.raises(RuntimeError, match=r"Invalid pretrained tag \(nope\)"):
        timm.create_model("vit_tiny_capaboost_lora.nope")


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("method", METHODS)
def test_pretrained_from_a_local_file_gives_the_base_s_weights(tiny, tmp_path, method, suffix):
    base = tiny(seed=3, num_classes=1000)
    path = save_weights(base, tmp_path / f"base.{suffix}")
    model = tiny(method, num_classes=1000, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    assert_holds_base(model, base)
    fewer = tiny(method, num_classes=7, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    assert_holds_base(fewer, base, without_head=True)


@pytest.mark.parametrize("method", METHODS)
def test_pretrained_from_a_local_file_resamples_position_embeddings(tiny, tmp_path, method):
    base = tiny(seed=3, num_classes=1000, img_size=224)
    overlay = dict(file=str(save_weights(base, tmp_path / "base.safetensors")))
    model = tiny(method, img_size=64, pretrained=True, pretrained_cfg_overlay=overlay)
    expected = tiny(img_size=64, pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(model.pos_embed, expected.pos_embed)
    assert model.pos_embed.shape == (1, 65, 32)


@pytest.mark.parametrize("method", METHODS)
def test_checkpoint_path_takes_a_base_checkpoint_and_an_adapted_one(tiny, wake, tmp_path, images, method):
    base = tiny(seed=3)
    loaded = tiny(method, checkpoint_path=save_weights(base, tmp_path / "base.pth"))
    assert_holds_base(loaded, base)
    adapted = wake(tiny(method, seed=4, mask_seed=5))
    again = tiny(method, checkpoint_path=save_weights(adapted, tmp_path / "adapted.safetensors"))
    assert torch.equal(again(images), adapted(images))
    assert not torch.equal(again(images), tiny(seed=4)(images))


def test_checkpoint_path_refuses_a_checkpoint_of_another_model(tiny, tmp_path):
    path = save_weights(tiny(embed_dim=64), tmp_path / "wide.pth")
    with pytest.raises(RuntimeError, match="size mismatch"):
        tiny("lora", checkpoint_path=path)
    path = save_weights(tiny(depth=2), tmp_path / "shallow.pth")
    with pytest.raises(RuntimeError, match="Missing key"):
        tiny("lora", checkpoint_path=path)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_saved_folder_gives_the_same_logits_and_options(tiny, wake, tmp_path, images, method, safe):
    options = {
        "lora": dict(rank=4, num_branches=3, density=0.4, targets=["key"]),
        "adapter": dict(bottleneck=4, placement="sequential", pattern="sign"),
        "prefix": dict(prefix_length=3, pattern="complementary"),
        "prompt": dict(prompt_length=3, bottleneck=2),
    }[method]
    model = wake(tiny(method, mask_seed=11, **options))
    save_for_hf(model, tmp_path / "folder", safe_serialization=safe)
    torch.manual_seed(99)
    again = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    assert torch.equal(again(images), model(images))
    assert again.pretrained_cfg["architecture"] == f"vit_tiny_capaboost_{method}"
    record = again.capaboost["methods"][0]
    assert {key: record[key] for key in options} == options
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    untrained = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=False).eval()
    assert not torch.equal(untrained(images), model(images))


@pytest.mark.parametrize("family", [family for family in SMALL if family != "test_vit"])
def test_a_saved_folder_of_every_family_gives_the_same_logits(wake, tmp_path, family):
    for method in ("lora", "adapter"):
        model = wake(timm.create_model(f"{family}_capaboost_{method}", num_classes=5, **SMALL[family])).eval()
        folder = tmp_path / method
        save_for_hf(model, folder, safe_serialization=True)
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        x = torch.randn(2, *resolve_input_data_config(model)["input_size"])
        assert torch.equal(again(x), model(x))


def test_a_saved_folder_loads_at_another_size_and_number_of_classes(tiny, wake, tmp_path):
    model = wake(tiny("lora", num_classes=5))
    save_for_hf(model, tmp_path, safe_serialization=True)
    larger = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=64, num_classes=3)
    assert larger.pos_embed.shape == (1, 65, 32)
    assert larger.head.weight.shape == (3, 32)
    stored = model.state_dict()
    equal = [name for name, tensor in larger.state_dict().items() if torch.equal(tensor, stored[name])]
    assert set(stored) - set(equal) == {"pos_embed", "head.weight", "head.bias"}


def test_a_saved_folder_as_features_only_holds_the_saved_weights(tiny, wake, tmp_path, images):
    model = wake(tiny("lora"))
    save_for_hf(model, tmp_path, safe_serialization=True)
    net = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True, out_indices=(0, 2)).eval()
    expected = model.forward_intermediates(images, indices=(0, 2), intermediates_only=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(net(images), expected, strict=True))


# --- features_only ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [dict(out_indices=2), dict(out_indices=(0, 1)), dict(out_indices=(-1,))])
def test_features_only_equals_the_base_s_features(tiny, images, method, options):
    empty = {"prefix": dict(prefix_length=0), "prompt": dict(prompt_length=0)}.get(method, {})
    base, net = tiny(features_only=True, **options), tiny(method, features_only=True, **options, **empty)
    assert type(net) is type(base)
    assert net.feature_info.channels() == base.feature_info.channels()
    assert net.feature_info.reduction() == base.feature_info.reduction()
    assert [f.shape for f in net(images)] == [f.shape for f in base(images)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(net(images), base(images), strict=True))
    assert net.pretrained_cfg.keys() == base.pretrained_cfg.keys()


@pytest.mark.parametrize("options", [dict(norm=True), dict(output_fmt="NLC"), dict(norm=True, output_fmt="NLC")])
def test_features_only_passes_norm_and_layout_to_timm_s_getter(tiny, images, options):
    expected = tiny().forward_intermediates(images, indices=(0, 2), intermediates_only=True, **options)
    net = tiny("lora", features_only=True, out_indices=(0, 2), **options)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(net(images), expected, strict=True))


@pytest.mark.parametrize("family", [family for family in SMALL if family != "test_vit"])
def test_features_only_of_every_family_equals_the_base_s_and_sees_the_branches(wake, liven, family):
    base_name = FAMILIES[family][0]
    kwargs = dict(SMALL[family], features_only=True)
    if "swin" not in family:
        kwargs["out_indices"] = (0, 1)
    for method in ("lora", "adapter"):
        torch.manual_seed(0)
        base = liven(timm.create_model(base_name, **kwargs)).eval()
        torch.manual_seed(0)
        net = liven(timm.create_model(f"{family}_capaboost_{method}", **kwargs)).eval()
        x = torch.randn(1, 3, kwargs["img_size"], kwargs["img_size"])
        expected = base(x)
        assert type(net) is type(base)
        assert net.feature_info.channels() == base.feature_info.channels()
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-6)
        wake(net)
        assert all((ours - theirs).abs().max() > 1e-4 for ours, theirs in zip(net(x), expected, strict=True))
        assert net.in_chans == base.in_chans
        assert resolve_input_data_config(net) == resolve_input_data_config(base)


def test_feature_cls_getter_works_on_swin():
    torch.manual_seed(0)
    kwargs = dict(SMALL["swin_tiny"], features_only=True, feature_cls="getter", out_indices=(0, 1))
    net = timm.create_model("swin_tiny_capaboost_lora", **kwargs).eval()
    torch.manual_seed(0)
    base = timm.create_model("swin_tiny_patch4_window7_224", **kwargs).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(net(x), base(x))


# --- what we rely on in timm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SMALL)
def test_timm_builds_the_feature_net_that_we_build(family):
    from timm.models import FeatureListNet
    from timm.models._features import FeatureGetterNet

    kwargs = dict(SMALL[family]) if "swin" in family else dict(SMALL[family], out_indices=(0, 1))
    net = timm.create_model(FAMILIES[family][0], features_only=True, **kwargs)
    assert type(net) is (FeatureListNet if "swin" in family else FeatureGetterNet)


def test_timm_keeps_factory_arguments_and_traits_where_we_read_them(tiny):
    base = tiny(drop_path_rate=0.1)
    assert base._model_args["embed_dim"] == 32
    assert base._traits["img_size"] == (32, 32)
    assert get_model_args(base)["num_classes"] == 5
    assert "drop_path_rate" not in get_model_args(base)
    net = tiny(features_only=True)
    assert net._traits["img_size"] == (32, 32)
    assert net.in_chans == 3


@pytest.mark.parametrize("family", SMALL)
def test_timm_s_modules_carry_the_checkpoint_filter_that_we_look_up(family):
    from capaboost_vit.vision.weights import checkpoint_filter

    model = timm.create_model(FAMILIES[family][0], **SMALL[family])
    filter_fn = checkpoint_filter(model)
    assert filter_fn is not None
    filtered = filter_fn(dict(model.state_dict()), model)
    assert {name for name, _ in model.named_parameters()} <= set(filtered)
    assert checkpoint_filter(nn.Linear(2, 2)) is None


def save_weights(model: nn.Module, path) -> str:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    else:
        torch.save(model.state_dict(), path)
    return str(path)


def assert_holds_base(model: nn.Module, base: nn.Module, *, without_head: bool = False) -> None:
    held = capaboost_vit.detach(model).state_dict()
    expected = base.state_dict()
    assert held.keys() == expected.keys()
    for name, tensor in expected.items():
        if not (without_head and name.startswith("head.")):
            assert torch.equal(held[name], tensor), name
