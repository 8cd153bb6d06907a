"""A folder for PEFT is read by PEFT as what the model computes, and what has no such form is refused in one line."""

from __future__ import annotations

import json
import math
import sys

import bases
import pytest
import small
import timm
import torch
from bases import LINEAR, adapt, build, difference, load, train
from registered import OWN

import capaboost_vit

PLAIN = {"num_branches": 1, "density": 1.0}
CASES = [
    ("vit", {}),
    ("vit", {"targets": LINEAR, "rank": 3, "num_branches": 3, "pattern": "sign"}),
    ("vit", {"targets": ("key", "value", "mlp_in"), "alpha": 3, "density": 0.5, "rescale": "norm", "dropout": 0.2}),
    ("vit", {**PLAIN, "alpha": 16, "freeze_down": True}),
    ("convnext", {"targets": ("blocks.*.mlp.fc1",), "pattern": "complementary", "rank": 2}),
    ("convnext", {"targets": ("stem.0", "blocks.*.mlp.fc2", "downsample.1"), "rank": 2}),
    ("bert SequenceClassification", {"targets": ("query", "value", "mlp_out")}),
    ("roberta SequenceClassification", {"pattern": "sign", "num_branches": 3, "rank": 2}),
    ("deberta-v3 QuestionAnswering", PLAIN),
    ("bert Model", {}),
    ("gpt2", {"targets": ("c_attn", "c_fc"), "rank": 4}),
    ("llama", {"targets": ("q_proj", "down_proj"), "rank": 3, "alpha": 60}),
    ("hf vit", {"targets": ("q_proj", "v_proj"), "rank": 3}),
    ("vit", {"coefficients": "rank", "pattern": "sign", "coefficient_lr_ratio": 3.0}),
    ("bert SequenceClassification", {"share_blocks": 2, "pattern": "sign", "num_branches": 1, "use_rslora": True}),
]


def settings(folder):
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_peft_computes_what_the_trained_model_computes(tmp_path, name, options):
    model = train(adapt(build(name), **options))
    folder = capaboost_vit.export_peft(model, tmp_path / "adapter")
    theirs = load(name, folder)
    assert difference(model, build(name)) > 1e-3
    assert difference(model, theirs) < 1e-5
    assert difference(model, theirs.merge_and_unload()) < 1e-5
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        ("convnext", ("blocks.*.conv_dw",), "conv_dw' has groups, dilation or other padding"),
        (
            "attention",
            ("self_attn",),
            "'layers.0.self_attn' is a MultiheadAttention of .*PEFT updates otherwise",
        ),
    ],
)
def test_layers_that_peft_updates_otherwise_are_refused(tmp_path, model, targets, message):
    torch.manual_seed(0)
    block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = build(model) if model == "convnext" else torch.nn.TransformerEncoder(block, 1)
    capaboost_vit.adapt(model, targets=targets, head=())
    with pytest.raises(ValueError, match=message + ".*merge writes it into the weights"):
        capaboost_vit.export_peft(model, tmp_path / "adapter")


def test_several_methods_on_one_model_are_one_adapter(tmp_path):
    """Of several ranks and scalings, one layer twice; norms are trained and stand beside the head."""
    model = adapt(build("vit"), rank=2, alpha=8)
    for block, alpha in enumerate((1, 7)):
        adapt(model, targets=[f"blocks.{block}.mlp.fc1"], rank=3 + block, alpha=alpha)
    outer = capaboost_vit.core.AdaptedLinear(
        model.blocks[1].mlp.fc1, {"all": capaboost_vit.core.LowRankBranch(16, 64, 5, scaling=0.3, path="more")}
    )
    model.blocks[1].mlp.fc1 = outer
    adapt(model, "norm")
    train(model)
    outer.branches["all"].up.weight.data.normal_()
    model.requires_grad_(False)  # as one does for inference: what was trained is in the record
    folder = capaboost_vit.export_peft(model, tmp_path / "adapter")
    assert difference(model, load("vit", folder)) < 1e-5
    assert settings(folder)["rank_pattern"] == {
        r"^blocks\.0\.mlp\.fc1": 6,
        r"^blocks\.1\.mlp\.fc1": 18,
    }
    norms = [name for name, module in build("vit").named_modules() if isinstance(module, torch.nn.LayerNorm)]
    assert settings(folder)["modules_to_save"] == ["head", *norms]


def test_plain_lora_keeps_its_rank_and_alpha_so_that_peft_trains_it_further_as_we_would(tmp_path):
    model = adapt(build("roberta SequenceClassification"), rank=4, alpha=12, **PLAIN)
    found = settings(capaboost_vit.export_peft(model, tmp_path / "adapter"))
    assert (found["r"], found["lora_alpha"], found["rank_pattern"], found["alpha_pattern"]) == (4, 12, {}, {})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit", ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", None, ["head"])),
        ("roberta SequenceClassification", ("owner/name", "SEQ_CLS", ["classifier"])),
        ("bert QuestionAnswering", ("owner/name", "QUESTION_ANS", ["qa_outputs"])),
        ("bert Model", ("owner/name", None, None)),
        ("gpt2", (None, "SEQ_CLS", ["score"])),
    ],
)
def test_the_settings_name_the_base_the_kind_of_task_and_the_head(tmp_path, name, expected):
    model = build(name)
    if expected[0] == "owner/name":
        model.config._name_or_path = model.name_or_path = "owner/name"
    options = {"targets": ["c_attn"]} if name == "gpt2" else {}
    found = settings(capaboost_vit.export_peft(adapt(model, **options), tmp_path / "adapter"))
    assert (found["base_model_name_or_path"], found["task_type"], found["modules_to_save"]) == expected
    assert (found["auto_mapping"] is None) == (expected[1] is not None)
    assert found["inference_mode"]


def test_the_model_is_left_as_it_was_and_the_same_model_gives_the_same_bytes(tmp_path):
    model = train(adapt(build("bert SequenceClassification")))
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    first, second = (capaboost_vit.export_peft(model, tmp_path / name) for name in "ab")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_precision(tmp_path, dtype):
    model = train(adapt(build("vit").to(dtype)))
    folder = capaboost_vit.export_peft(model, tmp_path / "adapter")
    theirs = bases.peft.PeftModel.from_pretrained(build("vit").to(dtype), str(folder), autocast_adapter_dtype=False)
    assert difference(model, theirs.eval().to(dtype)) < (1e-12 if dtype == torch.float64 else 0.05)


def eva():
    """Its attention reads the weight of qkv."""
    options = {"img_size": 28, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    return timm.create_model("eva02_tiny_patch14_224", **options)


def carrying(name, *methods):
    def make():
        model = build(name)
        for method, options in methods:
            adapt(model, method, **options)
        return model

    return make


def gated():
    model = adapt(build("vit"))
    model.blocks[0].attn.qkv.branches["v"].gate = capaboost_vit.core.Gate(16)
    return model


LORA = ("lora", {"rank": 2})
REFUSED = {
    "adapter": (
        carrying("vit", ("adapter", {})),
        "'blocks.0.mlp' carries an adapter, for which PEFT's LoRA has no form: save",
    ),
    "prefix": (carrying("vit", LORA, ("prefix", {"prefix_length": 2})), "carries a prefix, for which .*: save_adapter"),
    "prompt": (carrying("vit", ("prompt", {"prompt_length": 2})), "'blocks.0' carries a prompt, for which .*: save_ad"),
    "ia3": (
        carrying("vit", LORA, ("ia3", {})),
        "for which PEFT's LoRA has no form: merge writes it into the weights, sav",
    ),
    "hira": (
        carrying("vit", ("hira", {})),
        "carries a dense update, for which .* no form: merge writes it into the wei",
    ),
    "snell": (
        carrying("vit", LORA, ("snell", {})),
        "carries a dense update, for which .* no form: merge writes it into",
    ),
    "unipelt": (
        carrying("bert Model", ("unipelt", small.LITTLE)),
        "'encoder.layer.0.attention.self' carries .*: save_ad",
    ),
    "gate": (
        gated,
        "'blocks.0.attn.qkv' carries a low-rank branch behind a gate, for which PEFT's LoRA has no form: save_",
    ),
    "bitfit": (
        carrying("vit", LORA, ("bitfit", {})),
        "'patch_embed.proj.bias' is trained, and PEFT saves whole modules",
    ),
    "full": (
        carrying("vit", LORA, ("full", {})),
        "'cls_token' is trained, and PEFT saves whole modules without LoRA: merge",
    ),
    "head": (carrying("vit", ("head", {})), "this VisionTransformer carries no LoRA, and PEFT's format is for that"),
    "in head": (
        carrying("roberta SequenceClassification", ("lora", {"targets": ["classifier.dense"]})),
        "'classifier.dense.weight' is trained, and PEFT saves whole modules without LoRA: merge",
    ),
    "nothing": (carrying("vit"), "this VisionTransformer carries no adapter: call capaboost_vit.adapt"),
    "silent": (
        lambda: adapt(eva(), rank=2),
        "this Eva reads the weight of 'blocks.0.attn.qkv' and never calls it, so PEFT's LoRA would do nothing there: m",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_form_in_peft_is_refused_in_one_line(tmp_path, case):
    make, text = REFUSED[case]
    with pytest.raises(ValueError, match=text) as caught:
        capaboost_vit.export_peft(make(), tmp_path / "adapter")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", OWN)
def test_each_method_is_what_peft_computes_or_is_refused_with_what_to_do_instead(tmp_path, method):
    model = train(adapt(build("vit"), method, **OWN[method]))
    if method in ("lora", "mlae"):
        folder = capaboost_vit.export_peft(model, tmp_path / "adapter")
        assert difference(model, load("vit", folder)) < 1e-5
        return
    with pytest.raises(
        ValueError, match=r"(PEFT's LoRA has no form|this VisionTransformer carries no LoRA).*save_adap"
    ):
        capaboost_vit.export_peft(model, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_what_the_rules_of_peft_for_names_would_lose_is_refused(tmp_path):
    """The head of the outer model and a module of the inner one end alike, and `modules_to_save` means both."""
    model = torch.nn.Sequential()
    model.body = torch.nn.Sequential()
    model.body.proj, model.body.head, model.head = (torch.nn.Linear(4, 4) for _ in range(3))
    capaboost_vit.adapt(model, "lora", targets=["body.proj"], head=["head"], rank=2)
    with pytest.raises(
        ValueError, match=r"PEFT's rules for names would lose or miss 'body.head.bias': use save_adapter"
    ):
        capaboost_vit.export_peft(model, tmp_path / "adapter")


def test_a_layer_that_peft_does_not_know_is_refused(tmp_path):
    class Doubling(torch.nn.Module):
        in_features = out_features = 4

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(4))

        def forward(self, x):
            return x @ self.weight.t()

    model = capaboost_vit.adapt(torch.nn.Sequential(Doubling()), "lora", targets=["0"], rank=2, head=())
    with pytest.raises(ValueError, match=r"PEFT cannot adapt this Sequential: .*Doubling") as caught:
        capaboost_vit.export_peft(model, tmp_path / "adapter")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_taken_and_a_missing_client_are_refused(tmp_path, monkeypatch):
    model = adapt(build("vit"))
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="taken exists: choose another, or remove it"):
        capaboost_vit.export_peft(model, tmp_path / "taken")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package peft, .*: pip install 'capaboost_vit\[peft\]'"):
        capaboost_vit.export_peft(model, tmp_path / "adapter")


def test_lora_on_the_head_itself_leaves_the_head_out_of_the_modules_to_save(tmp_path):
    model = train(adapt(build("vit"), targets=("head", "query"), head=()))
    folder = capaboost_vit.export_peft(model, tmp_path / "adapter")
    assert difference(model, load("vit", folder)) < 1e-5
    assert settings(folder)["modules_to_save"] is None


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, of the older weight norm
def test_a_base_whose_weights_hooks_compute(tmp_path):
    def build_normed():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.utils.weight_norm(torch.nn.Linear(4, 4)), torch.nn.Linear(4, 4)).eval()

    model, x = capaboost_vit.adapt(build_normed(), "lora", targets=["0"], rank=2, head=()), torch.randn(3, 4)
    torch.nn.init.normal_(model[0].branches["all"].up.weight)
    folder = capaboost_vit.export_peft(model, tmp_path / "adapter")
    assert settings(folder)["base_model_name_or_path"] is None
    with torch.no_grad():
        found = bases.peft.PeftModel.from_pretrained(build_normed(), str(folder)).eval()(x)
        torch.testing.assert_close(found, model(x), rtol=1e-5, atol=1e-6)


def test_a_scaling_that_no_float_divides_evenly(tmp_path):
    model = adapt(build("vit"), rank=7, alpha=math.pi)
    for branch in capaboost_vit.branches(model).values():
        torch.nn.init.normal_(branch.up.weight)
    assert difference(model, load("vit", capaboost_vit.export_peft(model, tmp_path / "pi"))) < 1e-5
