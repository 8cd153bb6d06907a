"""HiRA and SNELL on whole models: PEFT's results, sizes, files, models that read the weight, other layers."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn
from torch.nn import functional as F
from vits import IMAGES, SMALL, vit

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.core.base import dense
from capaboost_vit.core.inject import branches
from capaboost_vit.core.meta_models import outlines
from capaboost_vit.methods.initial import start_from

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
METHODS = ("hira", "snell")
every_method = pytest.mark.parametrize("method", METHODS)


@torch.no_grad()
def awake(model):
    for seed, addition in enumerate(branches(model).values()):
        for parameter in addition.parameters():
            parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(seed))
    return model


def test_on_a_text_encoder_hira_computes_trains_and_merges_as_peft_s():
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )

    def encoder():
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config).eval()

    ids = torch.randint(1, 32, (4, 7), generator=torch.Generator().manual_seed(2))
    ours = awake(nlu.adapt(encoder(), "hira", rank=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an attribute by its older name
        theirs = peft.get_peft_model(encoder(), peft.HiraConfig(r=4, target_modules=["query", "value"])).eval()
    pairs = []
    for name, update in branches(ours).items():
        layer = theirs.base_model.model.get_submodule(name.removesuffix(".updates.all"))
        for factor, value in (("hira_A", update.factors.down.weight), ("hira_B", update.factors.up.weight)):
            parameter = getattr(layer, factor)["default"]
            parameter.data.copy_(value)
            pairs.append((value, parameter))
    assert len(pairs) == 8
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)
    gradients = []
    for model in (ours, theirs):
        model(ids).logits.square().sum().backward()
    gradients = [[p.grad for p in side] for side in zip(*pairs, strict=True)]
    torch.testing.assert_close(*gradients)
    merged, plain = capaboost_vit.merge(ours), theirs.merge_and_unload()
    torch.testing.assert_close(merged.state_dict(), plain.state_dict())
    assert not torch.equal(merged.bert.encoder.layer[0].attention.self.query.weight,
                           encoder().bert.encoder.layer[0].attention.self.query.weight)  # fmt: skip
    back = capaboost_vit.detach(ours).state_dict()  # the base is still there
    assert all(torch.equal(value, back[name]) for name, value in encoder().state_dict().items())


def test_with_masks_hira_multiplies_by_the_masked_sum():
    model = awake(capaboost_vit.adapt(vit(), "hira", rank=4, num_branches=3, density=0.5)).double()
    qkv = model.blocks[0].attn.qkv
    expected = qkv.base.weight.clone()
    for part, rows in (("q", slice(0, 16)), ("v", slice(32, 48))):
        factors = qkv.updates[part].factors
        views = zip(factors.up(), factors.down(), strict=True)
        expected[rows] *= 1 + sum(up @ down for up, down in views)
    torch.testing.assert_close(qkv.weight, expected)
    assert model.capaboost["methods"][0]["num_branches"] == 3
    assert capaboost_vit.METHODS["hira"].label({"method": "hira", "rank": 4, "num_branches": 3}) == (
        "capaboost-hira r4 d3"
    )


@every_method
def test_they_have_lora_s_size(method):
    with outlines():
        model = timm.create_model("vit_base_patch16_224")
        capaboost_vit.adapt(model, method)
    added = [p for addition in branches(model).values() for p in addition.parameters()]
    assert len(branches(model)) == 24
    assert sum(p.numel() for p in added) == 294_912


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "beit_base_patch16_224"])
@every_method
@torch.no_grad()
def test_merging_is_exact_also_where_a_model_reads_the_weight(method, name):
    options = {} if name.startswith("vit") else {"patch_size": 8}
    model = awake(capaboost_vit.adapt(vit(name, **options), method, rank=4)).double()
    expected = model(IMAGES.double())
    assert (capaboost_vit.merge(model)(IMAGES.double()) - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert (expected - vit(name, **options).double()(IMAGES.double())).abs().max() > 1e-2


@pytest.mark.parametrize("other", ["lora", "ia3"])
@every_method
@torch.no_grad()
def test_merging_is_exact_in_both_orders_beside_another_method(method, other):
    for order in ((method, other), (other, method)):
        model = vit()
        for name in order:
            capaboost_vit.adapt(model, name)
        model = awake(model).double()
        expected = model(IMAGES.double())
        assert (capaboost_vit.merge(model)(IMAGES.double()) - expected).abs().max() <= 1e-12 * expected.abs().max()


class Quantised(nn.Module):
    """int8 weights and a scale for each row."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, None
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x):
        return F.linear(x, self.weight * self.scale)


class Known(Quantised):
    """One whose dense weight can be had."""


dense.register(Known, lambda layer: layer.weight * layer.scale)


def test_integers_are_refused_by_hira_unless_their_dense_weight_can_be_had():
    linear = nn.Linear(6, 6)
    with pytest.raises(
        TypeError, match=r"^hira is a function of the weight, but the weight of a Quantised is int8: take"
    ):
        capaboost_vit.adapt(nn.Sequential(Quantised(linear)), "hira", targets=["0"], head=[])
    for method, kind in (("hira", Known), ("snell", Quantised)):
        model = awake(capaboost_vit.adapt(nn.Sequential(kind(linear)), method, targets=["0"], head=[], rank=2))
        weight = model[0].base.weight * model[0].base.scale
        (update,) = branches(model).values()
        expected = F.linear(X, weight + update.delta(lambda weight=weight: weight))
        torch.testing.assert_close(model(X), expected)
        with pytest.raises(capaboost_vit.CannotMerge, match="is int8, where an update vanishes"):
            capaboost_vit.merge(model)


@every_method
def test_the_transposed_layers_of_gpt2_are_linear(method):
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = awake(capaboost_vit.adapt(nn.Sequential(conv1d(8, 6)), method, targets=["0"], head=[], rank=2))
    (update,) = branches(model).values()
    weight = model[0].base.weight.T
    expected = F.linear(X, weight + update.delta(lambda: weight), model[0].bias)
    torch.testing.assert_close(model(X), expected)
    torch.testing.assert_close(capaboost_vit.merge(model)(X), expected)


@every_method
def test_what_is_no_linear_layer_is_refused_by_name(method):
    with pytest.raises(TypeError, match=r"only linear layers take a dense update, but 'patch_embed.proj' is a Conv2d"):
        capaboost_vit.adapt(vit(), method, targets=["patch_embed.proj"])


def test_an_odd_rank_makes_no_two_halves():
    with pytest.raises(ValueError, match="rank of method 'snell' must be even, as it makes two halves, got 7"):
        capaboost_vit.adapt(vit(), "snell", rank=7)


def test_snell_is_called_by_what_differs():
    names = {
        "snell r8": {},
        "snell r4 sparsity 0.9 (code)": {"rank": 4, "sparsity": 0.9, "sparsifier": "code"},
        "snell r8 from the paper's start": {"start": "paper"},
    }
    for name, options in names.items():
        assert capaboost_vit.make_method("snell", **options).label({"method": "snell", "rank": 8, **options}) == name


def test_snell_s_start_is_no_part_of_a_file_and_its_seed_must_agree(tmp_path):
    model = awake(capaboost_vit.adapt(vit(), "snell", init_seed=3))
    path = capaboost_vit.save_adapter(model, tmp_path / "snell.safetensors")
    assert torch.equal(capaboost_vit.load_adapter(vit(), path)(IMAGES), model(IMAGES))
    other = capaboost_vit.adapt(vit(), "snell", init_seed=4)
    with pytest.raises(ValueError, match=r"other options .*'init_seed': 3.* in the file"):
        capaboost_vit.load_adapter(other, path)
    with pytest.raises(ValueError, match=r"init_seed 3, of which snell makes .* has 4: say --method.init-seed 3"):
        start_from(other, path)
    same = capaboost_vit.adapt(vit(), "snell", init_seed=3)
    assert start_from(same, path) == 8
    assert torch.equal(same.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)


@every_method
def test_a_saved_folder_gives_the_same_logits(method, tmp_path):
    model = awake(timm.create_model(f"vit_tiny_capaboost_{method}", init_seed=3, rank=4, **SMALL)).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(IMAGES), model(IMAGES))


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_the_paper_s_start_of_snell_is_an_option(sparsity, tmp_path):
    model = capaboost_vit.adapt(vit(), "snell", start="paper", sparsity=sparsity)
    assert not torch.allclose(model(IMAGES), vit()(IMAGES), rtol=0, atol=1e-7)
    path = capaboost_vit.save_adapter(awake(model), tmp_path / "snell.safetensors")
    assert torch.equal(capaboost_vit.load_adapter(vit(), path)(IMAGES), model(IMAGES))
    base = capaboost_vit.adapt(vit(), "snell", sparsity=sparsity)
    torch.testing.assert_close(base(IMAGES), vit()(IMAGES))


def test_snell_in_bfloat16_alone_is_the_base_at_step_0():
    model = capaboost_vit.adapt(vit().bfloat16(), "snell", autocast_adapter_dtype=False)
    assert all(not update.delta(None).any() for update in branches(model).values())
