"""Which modules are the head of a model of each kind, what is said of it, and what is trained then."""

from __future__ import annotations

import copy
import logging
import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn

import capaboost_vit
from capaboost_vit.core.heads import find_head

SIZES = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}


def vit(**options):
    return timm.create_model("vit_tiny_patch16_224", **{**SIZES, "num_classes": 3, **options})


class Net(nn.Module):
    """A module of a user's with these children, called one after the other."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


def frozen(model):
    return model.requires_grad_(False)


def torchvision_model(name, **options):
    module = next(m for m in (torchvision.models, *KINDS) if hasattr(m, name))
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # of two models' own start values
        return getattr(module, name)(weights=None, **options)


KINDS = (torchvision.models.segmentation, torchvision.models.detection, torchvision.models.optical_flow)
BARE = {"weights_backbone": None}


@pytest.mark.parametrize(
    ("build", "head"),
    [
        (vit, ("head",)),
        (lambda: vit(num_classes=0), ()),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224", **SIZES), ("head", "head_dist")),
        (lambda: timm.create_model("vit_tiny_patch16_224", features_only=True, out_indices=1, **SIZES), ()),
        (lambda: timm.create_model("resnet10t", features_only=True), ()),
        (lambda: Net(net=vit(), loss=nn.CrossEntropyLoss()), ("net.head",)),
        (lambda: Net(net=vit(num_classes=0)), ()),
        (lambda: Net(net=vit(num_classes=0), out=nn.Linear(16, 3)), ("out",)),
        (lambda: Net(net=vit(num_classes=8), arc=nn.Linear(8, 3)), ("net.head", "arc")),
        (lambda: Net(student=vit(), teacher=frozen(vit())), ("student.head",)),
        (
            lambda: Net(net=Net(body=vit(num_classes=0), neck=nn.Linear(16, 8)), top=nn.Linear(8, 3)),
            ("net.neck", "top"),
        ),
        (lambda: Net(net=vit(num_classes=0), tops=nn.ModuleList([nn.Linear(16, 2), nn.ReLU()])), ("tops.0",)),
        (lambda: Net(net=vit(num_classes=0), tops=nn.ModuleDict({"a": nn.Linear(16, 2)})), ("tops.a",)),
        (lambda: frozen(Net(net=vit(num_classes=0), out=nn.Linear(16, 3))), None),
        (lambda: Net(body=nn.Linear(4, 4), classifier=nn.Linear(4, 2)), ("classifier",)),
        (lambda: Net(body=nn.Linear(4, 4), multihead=nn.Linear(4, 2)), None),
        (lambda: Net(head=nn.Linear(4, 2)), None),
        (lambda: Net(net=Net(encoder=nn.Linear(4, 4), decoder=nn.Linear(4, 4))), None),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), None),
        (lambda: nn.Linear(4, 4), None),
        (lambda: torchvision_model("resnet18"), ("fc",)),
        (lambda: torchvision_model("vit_b_16"), ("heads",)),
        (lambda: torchvision_model("swin_t"), ("head",)),
        (lambda: torchvision_model("convnext_tiny"), ("classifier",)),
        (lambda: torchvision_model("inception_v3"), ("AuxLogits", "fc")),
        (lambda: torchvision_model("deeplabv3_resnet50", aux_loss=True, **BARE), ("classifier", "aux_classifier")),
        (lambda: torchvision_model("fasterrcnn_resnet50_fpn", **BARE), ("rpn", "roi_heads")),
        (lambda: torchvision_model("retinanet_resnet50_fpn", **BARE), ("head",)),
        (lambda: torchvision_model("raft_small"), None),
    ],
)
def test_the_head_is_what_the_kind_of_model_calls_so(build, head):
    model = build()
    assert find_head(model) == head
    assert find_head(model) == head  # nothing is changed


def test_head_and_branches_are_trained_and_stored_and_the_rest_is_frozen(tmp_path):
    build = lambda: Net(net=vit(num_classes=0), out=nn.Linear(16, 3))  # noqa: E731
    torch.manual_seed(0)
    model = capaboost_vit.adapt(build(), "lora", rank=2)
    assert model.capaboost["head"] == ["out"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"out.weight", "out.bias"} < trained
    assert all("branches" in name for name in trained - {"out.weight", "out.bias"})
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in trained:
                p.add_(torch.randn_like(p))
    path = capaboost_vit.save_adapter(model, tmp_path / "a.safetensors")
    torch.manual_seed(0)
    again = capaboost_vit.load_adapter(build(), path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    assert again.capaboost == model.capaboost
    assert {name for name, p in again.named_parameters() if p.requires_grad} == trained


def test_the_log_says_in_one_line_what_is_trained(caplog):
    model = vit()
    with caplog.at_level(logging.INFO, logger="capaboost_vit"):
        capaboost_vit.adapt(model, "lora", rank=2)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = f"lora trains {trained:,} of {total:,} parameters of this VisionTransformer: 1 adapted modules, head: head"
    assert [record.getMessage() for record in caplog.records] == [text]


def test_a_file_is_loaded_with_one_line_in_the_log(caplog, tmp_path):
    path = capaboost_vit.save_adapter(capaboost_vit.adapt(vit(), "lora"), tmp_path / "a.safetensors")
    with caplog.at_level(logging.INFO, logger="capaboost_vit"):
        capaboost_vit.load_adapter(vit(), path, force=True)
    assert len(caplog.records) == 1


def test_where_no_head_is_found_one_warning_says_what_to_type_at_the_line_of_the_caller():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    text = r"^no head was found in this Sequential, so all but what lora adds is frozen: name .* head=\('2',\), or "
    with pytest.warns(UserWarning, match=text) as caught:
        capaboost_vit.adapt(model, "lora", targets=["0"], rank=2)
    (warning,) = caught
    assert warning.filename == __file__


@pytest.mark.parametrize("head", [(), ("2",), "2"])
def test_a_head_that_is_named_or_not_wanted_needs_no_warning(head):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    capaboost_vit.adapt(model, "lora", targets=["0"], rank=2, head=head)
    assert model[2].weight.requires_grad == bool(head)
    assert model.capaboost["head"] == list(head)


def test_a_second_method_keeps_the_head_of_the_first():
    model = Net(net=vit(num_classes=0), out=nn.Linear(16, 3))
    capaboost_vit.adapt(model, "lora", head=("net.norm",))
    capaboost_vit.adapt(model, "adapter")
    assert model.net.norm.weight.requires_grad
    assert not model.out.weight.requires_grad
    assert model.capaboost["head"] == ["net.norm"]


def test_a_parameter_of_the_module_itself_is_not_frozen_silently():
    model = Net(net=vit(num_classes=0), out=nn.Linear(16, 3))
    model.scale = nn.Parameter(torch.ones(()))
    with pytest.warns(UserWarning, match=r"^lora freezes scale of this Net itself: call model\.scale\.requires_grad_"):
        capaboost_vit.adapt(model, "lora")


@pytest.mark.parametrize("head", ["head", "fc_norm"])
def test_a_head_without_parameters_is_refused(head):
    model = vit(num_classes=0)
    with pytest.raises(ValueError, match=f"head='{head}' names nothing with parameters in this VisionTransformer"):
        capaboost_vit.adapt(model, "lora", head=(head,))
    assert not hasattr(model, "capaboost")


@pytest.mark.parametrize(
    ("build", "method", "head", "text"),
    [
        (lambda: vit(num_classes=0), "head", None, "trains nothing of this VisionTransformer: name modules with head="),
        (vit, "head", (), "trains nothing of this VisionTransformer: name modules with head="),
        (lambda: timm.create_model("resnet10t", num_classes=0), "head", None, "trains nothing of this ResNet: name"),
        (lambda: nn.Sequential(nn.Linear(2, 2, bias=False)), "bitfit", None, "trains nothing of this Sequential: name"),
        (
            lambda: nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2)),
            "bitfit",
            "1",
            "trains nothing of this Sequential beside its head: take head, lora or full",
        ),
        (lambda: nn.Sequential(nn.Linear(2, 2)), "norm", "0", "no normalisation layer with parameters: take bitfit"),
        (
            lambda: nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2)),
            "norm",
            "0",
            "beside its head: take head, lora or full",
        ),
    ],
)
def test_a_method_that_would_train_nothing_but_the_head_is_refused(build, method, head, text):
    model = build()
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=text):
        capaboost_vit.adapt(model, method, head=head)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_lora_without_a_head_trains_its_branches():
    model = capaboost_vit.adapt(vit(), "lora", head=())
    assert {id(p) for p in model.parameters() if p.requires_grad} == {
        id(p) for branch in capaboost_vit.branches(model).values() for p in branch.parameters()
    }


def test_a_bfloat16_head_that_takes_and_gives_lists_is_trained_in_float32():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(16, 3)

        def forward(self, features):
            return {"logits": [self.out(x) for x in features]}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.both = vit(num_classes=0), Both()

        def forward(self, x):
            return self.both([self.net(x), self.net(x)])

    torch.manual_seed(0)
    exact = Model().bfloat16()
    model = capaboost_vit.adapt(copy.deepcopy(exact), "lora", rank=2)
    assert model.both.out.weight.dtype == torch.float32
    x = torch.randn(2, 3, 32, 32, dtype=torch.bfloat16)
    ours, expected = model(x)["logits"], exact(x)["logits"]
    for logits, others in zip(ours, expected, strict=True):
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits, others, rtol=0.02, atol=0.02)
