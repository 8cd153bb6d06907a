"""A LoRA adapter that PEFT has written is a `lora` of ours that computes the same, and what is none is refused."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from bases import LINEAR, adapt, build, difference, saved, train
from safetensors.torch import load_file, save_file

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.core.inject import wrappers
from capaboost_vit.methods.header import AdapterFileError

PATTERNS = {"rank_pattern": {"blocks.1.attn.qkv": 6}, "alpha_pattern": {"fc1": 3, r"^blocks\.1\.attn\.qkv": 5}}
CASES = [
    ("vit", {"r": 4, "lora_alpha": 7, "target_modules": ["qkv"], "modules_to_save": ["head"]}),
    ("vit", {"r": 4, "lora_alpha": 7, "target_modules": ["qkv", "fc1"], "use_rslora": True, **PATTERNS}),
    ("vit", {"r": 2, "target_modules": "all-linear", "lora_dropout": 0.1}),
    (
        "bert Model",
        {"r": 2, "target_modules": ["query"], "layers_to_transform": [1], "init_lora_weights": "orthogonal"},
    ),
    ("vit", {"r": 2, "target_modules": r".*\.fc[12]", "modules_to_save": ["head", "blocks.1.norm2"]}),
    ("roberta SequenceClassification", {"r": 3, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
    ("deberta-v3 Model", {"r": 3, "target_modules": ["query_proj"]}),
    ("llama", {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}),
    ("hf vit", {"r": 2, "target_modules": ["q_proj", "fc1"], "modules_to_save": ["classifier"]}),
    ("gpt2", {"r": 2, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "task_type": "SEQ_CLS"}),
]


def records(model):
    return [(record["rank"], record["alpha"], len(record["targets"])) for record in model.capaboost["methods"]]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_model_computes_what_that_of_peft_does(tmp_path, monkeypatch, name, options):
    theirs = saved(name, tmp_path, **options)
    assert difference(theirs, build(name)) > 1e-3
    monkeypatch.setitem(sys.modules, "peft", None)  # which is not needed
    model = capaboost_vit.import_peft(build(name), tmp_path)
    assert difference(theirs, model) < 1e-5
    assert difference(theirs, capaboost_vit.merge(model)) < 1e-5
    trained = {n.replace(".base_layer", "") for n, p in theirs.named_parameters() if p.requires_grad}
    assert len(trained) == sum(p.requires_grad for p in model.parameters())


def test_each_rank_and_alpha_is_a_record_of_its_own(tmp_path):
    saved("vit", tmp_path, r=4, lora_alpha=8, target_modules=["qkv", "fc1"], **PATTERNS)
    model = capaboost_vit.import_peft(build("vit"), tmp_path)
    assert sorted(records(model)) == [(4, 3.0, 2), (4, 8.0, 1), (6, 5.0, 1)]
    assert all(record["num_branches"] == 1 and record["density"] == 1 for record in model.capaboost["methods"])


@pytest.mark.parametrize("name", ["vit", "bert SequenceClassification"])
def test_what_was_imported_is_trained_saved_loaded_and_exported_as_any_other(tmp_path, name):
    room = nlu if name != "vit" else capaboost_vit
    target = {"vit": ["qkv"]}.get(name, ["query"])
    head = {"vit": "head"}.get(name, "classifier")
    saved(name, tmp_path / "theirs", r=2, target_modules=target, modules_to_save=[head])
    model = capaboost_vit.import_peft(build(name), tmp_path / "theirs")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    train(model)
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved == {key for key, p in model.named_parameters() if "branches" in key or key.startswith(head)}
    room.save_adapter(model, tmp_path / "adapter.safetensors")
    loaded = room.load_adapter(build(name), tmp_path / "adapter.safetensors")
    again = capaboost_vit.import_peft(build(name), capaboost_vit.export_peft(model, tmp_path / "ours"))
    assert difference(model, loaded) == 0
    assert difference(model, again) == 0
    assert again.capaboost == model.capaboost


def test_masks_become_ranks_and_stay_them(tmp_path):
    """Export, import, export: the second folder is the first."""
    model = train(adapt(build("vit"), rank=3, num_branches=3, pattern="sign", targets=("query", "value", "mlp_in")))
    first = capaboost_vit.export_peft(model, tmp_path / "first")
    again = capaboost_vit.import_peft(build("vit"), first)
    assert sorted(records(again)) == [(9, 24.0, 2), (18, 48.0, 2)]
    assert difference(model, again) < 1e-5
    second = capaboost_vit.export_peft(again, tmp_path / "second")
    assert [path.read_bytes() for path in sorted(first.iterdir())] == [
        path.read_bytes() for path in sorted(second.iterdir())
    ]


def changed(**settings):
    """Other values in adapter_config.json."""

    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return change


def tensors(change):
    """Other tensors."""

    def rewrite(folder):
        path = folder / "adapter_model.safetensors"
        stored = load_file(path)
        change(stored)
        save_file(stored, path)

    return rewrite


A = "base_model.model.blocks.0.attn.qkv.lora_A.weight"
B = A.replace("lora_A", "lora_B")


def damage(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def pickle(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


REFUSED = {
    "method": (changed(peft_type="IA3"), "holds IA3, and only LORA can be imported"),
    "dora": (changed(use_dora=True), "has use_dora=True, which lora has not: load it with PEFT, and merge_and_unload"),
    "bias": (changed(bias="lora_only"), "has bias='lora_only', which lora has not"),
    "start": (changed(init_lora_weights="pissa"), "has init_lora_weights='pissa', which lora has not"),
    "unheard of": (changed(twist={"by": 2}), "has twist={'by': 2}, which lora has not"),
    "no method": (changed(peft_type=None), r"adapter_config.json cannot be used: peft_type must be str, got None"),
    "alpha": (changed(lora_alpha="8"), "adapter_config.json cannot be used: lora_alpha must be float, got '8'"),
    "pattern": (changed(alpha_pattern={"(": 2}), r"cannot be used: missing \), unterminated subpattern"),
    "no json": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json cannot be used: no JSON"),
    "truncated": (damage, "adapter_model.safetensors is truncated or no safetensors file"),
    "no lora": (tensors(lambda t: [t.pop(key) for key in list(t) if "lora" in key]), "holds no LoRA layer"),
    "one factor": (tensors(lambda t: t.pop(B)), "'blocks.0.attn.qkv' maps 16 to 48, which A and B of shapes {'A': "),
    "shape": (tensors(lambda t: t.update({A: torch.ones(2, 8)})), "'blocks.0.attn.qkv' maps 16 to 48, which A and B"),
    "rank": (tensors(lambda t: t.update({A: torch.ones(0, 16), B: torch.ones(48, 0)})), "maps 16 to 48, which A and"),
    "not finite": (tensors(lambda t: t[B].fill_(torch.nan)), "lora_B.weight' with values that are no finite float"),
    "layer": (
        tensors(lambda t: t.update({A.replace("qkv", "qvk"): t.pop(A), B.replace("qkv", "qvk"): t.pop(B)})),
        r"this VisionTransformer has no layer 'blocks.0.attn.qvk' \(did you mean 'blocks.0.attn.qkv'\?\)",
    ),
    "convolution": (
        tensors(lambda t: t.update({A.replace("blocks.0.attn.qkv", "patch_embed.proj"): torch.ones(2, 3, 8, 8)})),
        "'patch_embed.proj' is a Conv2d of torch.nn.modules.conv, and lora takes linear layers",
    ),
    "classes": (
        tensors(lambda t: t.update({"base_model.model.head.weight": torch.ones(7, 16)})),
        r"head.weight is \(7, 16\) in the file and \(3, 16\) in this VisionTransformer: build it with as many classes",
    ),
    "other tensors": (
        tensors(lambda t: t.update({"base_model.model.head.wait": torch.ones(7, 16)})),
        r"this VisionTransformer has no 'head.wait' \(did you mean 'head.weight'\?\)",
    ),
    "a parameter": (tensors(lambda t: t.update({"base_model.model.cls_token": torch.ones(1, 1, 16)})), "'cls_token'"),
}


@pytest.fixture(scope="module")
def folder_of_peft(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft")
    saved("vit", folder, r=2, target_modules=["qkv"], modules_to_save=["head"])
    return folder


@pytest.fixture
def folder(folder_of_peft, tmp_path):
    for path in folder_of_peft.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_refused_in_one_line_and_the_model_left_as_it_was(folder, case):
    change, text = REFUSED[case]
    change(folder)
    model = build("vit")
    with pytest.raises(AdapterFileError, match=text) as caught:
        capaboost_vit.import_peft(model, folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert list(wrappers(model)) == []
    assert not hasattr(model, "capaboost")
    assert all(p.requires_grad for p in model.parameters())


def test_files_that_are_not_there_are_named_and_a_pickle_is_not_read(folder):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere holds no adapter_config.json, as PEFT's save_pretrained writes"
    ):
        capaboost_vit.import_peft(build("vit"), folder / "nowhere")
    pickle(folder)
    text = (
        "no adapter_model.safetensors, .*; adapter_model.bin is a pickle, which can run code: save it again with PEFT"
    )
    with pytest.raises(FileNotFoundError, match=text):
        capaboost_vit.import_peft(build("vit"), folder)


def test_layers_that_carry_lora_already_are_refused_and_others_are_joined(folder):
    model = adapt(build("vit"), targets=["blocks.1.attn.qkv"])
    with pytest.raises(
        AdapterFileError, match=r"'blocks.1.attn.qkv' carries a low-rank branch already: detach it first"
    ):
        capaboost_vit.import_peft(model, folder)
    assert len(model.capaboost["methods"]) == 1
    joined = capaboost_vit.import_peft(adapt(build("vit"), targets=LINEAR[2:]), folder)
    assert len(joined.capaboost["methods"]) == 2
    assert difference(joined, capaboost_vit.import_peft(build("vit"), folder)) == 0
