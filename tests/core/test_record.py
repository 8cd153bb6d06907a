"""Models behind wrappers and inside larger ones; and verbs on what they can do nothing with."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.core.record import adapted_part, plain_model

SIZES = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    return timm.create_model(name, **{**SIZES, "num_classes": 3, **options})


def trained(model):
    """With other values of everything that is trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator))
    return model


class Detector(nn.Module):
    """A backbone with layers in front and behind."""

    def __init__(self, backbone=None):
        super().__init__()
        self.backbone = backbone or vit(num_classes=0)
        torch.manual_seed(1)
        self.stem, self.boxes = nn.Conv2d(3, 3, 1), nn.Linear(16, 4)

    def forward(self, x):
        return self.boxes(self.backbone(self.stem(x)))


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        DistributedDataParallel,
        lambda model: torch.compile(model, backend="eager"),
        lambda model: torch.compile(DistributedDataParallel(model), backend="eager"),
        lambda model: DistributedDataParallel(torch.compile(model, backend="eager")),
    ],
    ids=["DataParallel", "DDP", "compiled", "compiled DDP", "DDP of compiled"],
)
def test_verbs_look_through_wrappers_but_a_method_goes_below_them(wrap, process_group, tmp_path):
    model = trained(capaboost_vit.adapt(vit(), "lora", rank=2))
    path = capaboost_vit.save_adapter(model, tmp_path / "plain.safetensors")
    wrapped = wrap(model)
    assert plain_model(wrapped) is model
    assert capaboost_vit.save_adapter(wrapped, tmp_path / "wrapped.safetensors").read_bytes() == path.read_bytes()
    other = wrap(capaboost_vit.adapt(vit(), "lora", rank=2))
    assert capaboost_vit.load_adapter(other, path) is other
    assert torch.equal(plain_model(other)(IMAGES), model(IMAGES))
    assert capaboost_vit.summary(wrapped, flops=False, verbose=False).trained > 0
    merged = capaboost_vit.merge(wrapped)
    assert type(merged) is type(model)
    assert not [*capaboost_vit.branches(merged)]
    torch.testing.assert_close(merged(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)
    assert capaboost_vit.detach(wrapped) is model
    with pytest.raises(
        ValueError, match=r"this \w+ wraps a VisionTransformer: adapt that first, and wrap it afterwards"
    ):
        capaboost_vit.adapt(wrapped, "lora")


def test_the_shards_of_fsdp_are_refused(tmp_path):
    sharded = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # whose constructor wants an accelerator
    nn.Module.__init__(sharded)
    sharded._fsdp_wrapped_module = capaboost_vit.adapt(vit(), "lora")
    outer = nn.Sequential(sharded)
    for verb in (
        lambda: capaboost_vit.save_adapter(outer, tmp_path / "a.safetensors"),
        lambda: capaboost_vit.merge(outer),
        lambda: capaboost_vit.adapt(outer, "lora"),
        lambda: capaboost_vit.load_adapter(outer, tmp_path / "a.safetensors"),
    ):
        with pytest.raises(ValueError, match=r"is sharded by FullyShardedDataParallel, .* take \S+fully_shard$"):
            verb()


def test_a_model_that_contains_the_adapted_one_is_saved_with_all_that_is_trained(tmp_path):
    model = Detector()
    capaboost_vit.adapt(model.backbone, "lora", rank=2)
    trained(model)
    assert adapted_part(model) == ("backbone", model.backbone)
    path = capaboost_vit.save_adapter(model, tmp_path / "detector.safetensors")
    header = capaboost_vit.read_header(path)
    assert (header["inside"], header["base"]["architecture"]) == ("backbone", "Detector")
    plain, alike = Detector(), Detector()
    capaboost_vit.adapt(alike.backbone, "lora", rank=2)
    for other in (plain, alike):
        capaboost_vit.load_adapter(other, path)
        assert torch.equal(other(IMAGES), model(IMAGES))
    torch.testing.assert_close(capaboost_vit.merge(model)(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        ValueError, match="was made for the 'backbone' of Detector, which this VisionTransformer has not"
    ):
        capaboost_vit.load_adapter(vit(), path)


def test_several_adapted_models_in_one_are_no_adapter_file(tmp_path):
    model = nn.ModuleList([capaboost_vit.adapt(vit(), "lora"), capaboost_vit.adapt(vit(), "lora")])
    with pytest.raises(ValueError, match=r"this ModuleList carries several adapted models, model\.0 and model\.1"):
        capaboost_vit.save_adapter(model, tmp_path / "a.safetensors")
    outer = Detector(capaboost_vit.adapt(vit(num_classes=0), "lora"))
    with pytest.raises(ValueError, match=r"model\.backbone is adapted already, .* give that, or detach it first"):
        capaboost_vit.adapt(outer, "adapter")
    assert not hasattr(outer, "capaboost")


@pytest.mark.parametrize("kind", ["list", "getter"])
@pytest.mark.parametrize("named", [False, True], ids=["by hand", "by name"])
def test_a_net_of_features_is_saved_and_loaded(kind, named, tmp_path):
    name = "vit_tiny_capaboost_lora" if named else "vit_tiny_patch16_224"
    options = {**SIZES, "features_only": True, "feature_cls": kind, "out_indices": (0, 1)}
    if kind == "list":
        name = "swin_tiny_capaboost_lora" if named else "swin_tiny_patch4_window7_224"
        size = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (1, 1)}
        options = {**size, "num_heads": (1, 1), "features_only": True, "out_indices": (0, 1)}

    def build(seed=0):
        torch.manual_seed(seed)
        return timm.create_model(name, **options)

    model = trained(build() if named else capaboost_vit.adapt(build(), "lora"))
    path = capaboost_vit.save_adapter(model, tmp_path / "features.safetensors")
    again = capaboost_vit.load_adapter(build(), path)
    for ours, expected in zip(again(IMAGES), model(IMAGES), strict=True):
        assert torch.equal(ours, expected)
    with pytest.raises(ValueError, match="timm cannot build: build it, then use load_adapter"):
        capaboost_vit.create_from_adapter(path, pretrained=False)


def test_what_apply_method_has_added_is_saved_with_its_base(tmp_path):
    model = timm.create_model("test_vit", num_classes=3)
    capaboost_vit.apply_method(model, capaboost_vit.anatomy_of(model), capaboost_vit.make_method("lora"))
    path = capaboost_vit.save_adapter(trained(model), tmp_path / "a.safetensors")
    base = capaboost_vit.read_header(path)["base"]
    assert (base["architecture"], base["tag"]) == ("test_vit", "r160_in1k")
    capaboost_vit.create_from_adapter(path, pretrained=False, force=True)


NOTHING = "carries nothing to {}: call capaboost_vit.adapt first"


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        (capaboost_vit.merge, NOTHING.format("merge")),
        (capaboost_vit.detach, NOTHING.format("take off")),
        (capaboost_vit.fold, NOTHING.format("fold")),
        (lambda model: capaboost_vit.save_adapter(model, "never"), r"carries no adapter: call capaboost_vit\.adapt"),
        (capaboost_vit.ranks, r"ranks takes a matrix \(out, in\), such as branch\.delta_weight\(\), got Vision"),
    ],
)
def test_a_verb_that_has_nothing_to_do_says_so(verb, text):
    with pytest.raises((ValueError, TypeError), match=text):
        verb(vit())


@pytest.mark.parametrize(
    "verb",
    [
        capaboost_vit.merge,
        capaboost_vit.detach,
        capaboost_vit.fold,
        capaboost_vit.summary,
        nlu.adapt,
        lambda model: capaboost_vit.save_adapter(model, "never"),
        lambda model: capaboost_vit.load_adapter(model, "never"),
    ],
)
def test_a_name_is_no_model(verb):
    with pytest.raises(TypeError, match=r"this takes a model \(torch\.nn\.Module\), got str 'vit_tiny'"):
        verb("vit_tiny")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "vit_base_capaboost_lorra",
            r" \(did you mean 'vit_base_capaboost_lora'\?\): make it by timm\.create_model first",
        ),
        ("test_vit", r": make it by timm\.create_model first"),
        ("FacebookAI/roberta-base", ": make it by .* or from_pretrained of transformers first"),
    ],
)
def test_a_name_given_to_adapt_says_how_a_model_is_made(name, text):
    with pytest.raises(TypeError, match=f"^adapt takes a model, got '{name}'{text}$"):
        capaboost_vit.adapt(name)


def test_a_misspelt_name_of_the_package_has_its_nearest():
    with pytest.raises(AttributeError, match=r"has no attribute 'adpat' \(did you mean 'adapt'\?\)"):
        _ = capaboost_vit.adpat


def test_a_summary_says_when_all_was_frozen_since():
    model = capaboost_vit.adapt(vit(), "lora")
    text = "none of these is trained"
    assert text not in str(capaboost_vit.summary(model, flops=False, verbose=False))
    assert text in str(capaboost_vit.summary(model.requires_grad_(False), flops=False, verbose=False))
