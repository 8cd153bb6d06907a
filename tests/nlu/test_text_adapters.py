"""Adapter files of text models: round trips for every method and family, tied tensors once, canonical names."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small import ADDED, LITTLE, adapted, build, each_family, examples, padded, wake

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.core.inject import branches, detach
from capaboost_vit.core.merge import merge
from capaboost_vit.methods.adapter_file import load_adapter_file, write_adapter_file
from capaboost_vit.methods.apply import fold
from capaboost_vit.methods.header import AdapterFileError
from capaboost_vit.methods.load import load_into
from capaboost_vit.nlu import adapt, save_adapter
from capaboost_vit.nlu.anatomy import head_names
from capaboost_vit.nlu.models import create_text_model, quiet
from capaboost_vit.vision import adapters as vision

FILE = "adapter.safetensors"


def save(model, folder):
    return write_adapter_file(folder / FILE, model, {"base": model.capaboost["base"]}, head=head_names(model))


def load(model, path, **options):
    load_into(model, path, architecture=type(model).__name__, adapt=adapt, head_names=head_names, **options)
    return model


@torch.no_grad()
def trained(family, name, task="SequenceClassification"):
    """A model with additions, head and whatever else is trained far from their start."""
    model = wake(adapted(build(family, task), name))
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@each_family(ADDED)
@torch.no_grad()
def test_a_file_loads_into_a_fresh_model_which_computes_the_same(family, name, tmp_path):
    model = trained(family, name)
    batch = padded(model, examples())
    expected = model(**batch).logits
    path = save(model, tmp_path)
    fresh = build(family, "SequenceClassification")
    assert (fresh(**batch).logits - expected).abs().max() > 1e-3
    load(fresh, path)
    assert torch.equal(fresh(**batch).logits, expected)
    assert fresh.capaboost == model.capaboost
    assert [n for n, p in fresh.named_parameters() if p.requires_grad] == [
        n for n, p in model.named_parameters() if p.requires_grad
    ]
    assert torch.equal(load(fresh, path)(**batch).logits, expected)  # and into one that carries them already


@pytest.mark.parametrize("name", ["unipelt-all", "prefix-shared", "ia3", "lora+prompt+prefix"])
def test_what_is_stored_is_what_was_added_and_the_head_each_once(name, tmp_path):
    model = trained("bert", name)
    with safe_open(save(model, tmp_path), framework="pt") as file:
        shapes = {key: tuple(file.get_tensor(key).shape) for key in file.keys() if not key.endswith(".mask")}  # noqa: SIM118
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert all(".base" not in key for key in shapes)
    assert {key for key in shapes if "classifier" in key} == {"classifier.weight", "classifier.bias"}
    if name == "prefix-shared":
        first, second = (f"bert.encoder.layer.{i}.attention.self.tokens" for i in (0, 1))
        assert f"{first}.table.weight" in shapes
        assert f"{first}.mlp.down.weight" in shapes
        assert not {key for key in shapes if key.startswith((f"{second}.table", f"{second}.mlp.down"))}
    if name == "unipelt-all":
        layer = "bert.encoder.layer.0"
        for key in (
            f"{layer}.attention.self.value.branches.all.down.weight",
            f"{layer}.attention.self.value.branches_2.all.down.weight",
            f"{layer}.attention.self.value.scales.all.weight",
            f"{layer}.attention.self.value.scales_2.all.gate.bias",
            f"{layer}.output.dense.branch_2.gate.weight",
            f"{layer}.attention.self.tokens_2.mlp.up.weight",
            "bert.encoder.tokens.table.weight",
            "bert.encoder.tokens_2.table.weight",
        ):
            assert key in shapes


@pytest.mark.parametrize("name", ["unipelt-all", "unipelt-3"])
def test_names_of_stacked_wrappers_are_distinct_and_are_those_of_the_base_for_the_base(name):
    from capaboost_vit.core.names import namer

    model, base = adapted(build("bert"), name), build("bert")
    canonical = namer(model)
    names = [canonical(key) for key in model.state_dict()]
    assert len(set(names)) == len(names)
    assert set(base.state_dict()) <= set(names)


@pytest.mark.parametrize("method", ["full", "bitfit", "lora"])
@torch.no_grad()
def test_the_tied_matrix_of_a_language_model_is_stored_once_or_not_at_all(method, tmp_path):
    for family in ("bert", "roberta"):
        model = adapt(build(family, "MaskedLM"), method)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
        path = save(model, tmp_path)
        with safe_open(path, framework="pt") as file:
            large = [key for key in file.keys() if tuple(file.get_slice(key).get_shape()) == (60, 16)]  # noqa: SIM118
        assert large == ([f"{family}.embeddings.word_embeddings.weight"] if method == "full" else [])
        batch = padded(model, examples())
        fresh = load(build(family, "MaskedLM"), path)
        assert torch.equal(fresh(**batch).logits, model(**batch).logits)
        assert fresh.get_output_embeddings().weight is fresh.get_input_embeddings().weight


@torch.no_grad()
def test_a_folded_file_loads_into_a_fresh_model_and_an_unfolded_one_refuses_it(tmp_path):
    for name in ("prefix-shared", "prompt-mlp", "unipelt-all"):
        model = trained("bert", name)
        batch = padded(model, examples())
        expected = model(**batch).logits
        path = save(fold(model), tmp_path)
        fresh = load(build("bert", "SequenceClassification"), path)
        torch.testing.assert_close(fresh(**batch).logits, expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(fresh(**batch).logits, model(**batch).logits)
        assert all(b.mlp is None for b in branches(fresh).values() if hasattr(b, "mlp"))
        unfolded = trained("bert", name)
        with pytest.raises(
            AdapterFileError, match=r"does not fit this BertForSequenceClassification: .* tensors missing"
        ):
            load(unfolded, path)


@torch.no_grad()
def test_fresh_modules_of_the_encoder_are_in_the_file(tmp_path):
    model = build("bert", "SequenceClassification")
    model.fresh_modules = ("bert.pooler",)
    adapt(model, "lora").bert.pooler.dense.weight.add_(1)
    path = save(model, tmp_path)
    other = build("bert", "SequenceClassification")
    other.fresh_modules = ("bert.pooler",)
    other.bert.pooler.dense.weight.mul_(-1)  # it was drawn anew
    assert torch.equal(load(other, path).bert.pooler.dense.weight, model.bert.pooler.dense.weight)
    pretrained = build("bert", "SequenceClassification")
    assert torch.equal(load(pretrained, path, force=True).bert.pooler.dense.weight, model.bert.pooler.dense.weight)


# the folders of transformers


@each_family(["lora", "unipelt", "prompt", "parallel"])
@torch.no_grad()
def test_a_folder_of_transformers_reads_as_the_base_and_holds_the_branches(family, name, tmp_path):
    import transformers

    base = build(family, "SequenceClassification")
    model, batch = wake(adapted(copy.deepcopy(base), name)), padded(base, examples())
    with quiet():
        copy.deepcopy(model).save_pretrained(tmp_path, state_dict=model.state_dict())  # as its Trainer says it
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(plain(**batch).logits, base(**batch).logits)
    other = adapted(build(family, "SequenceClassification"), name)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(**batch).logits, model(**batch).logits)
    with pytest.raises(
        ValueError, match=r"holds what was added to its base, such as .*encoder.*save what capaboost_vit\.m"
    ):
        create_text_model(str(tmp_path), "classification", classes=("a", "b"))


def test_what_was_put_before_save_pretrained_goes_with_the_branches(tmp_path):
    model = trained("bert", "lora")
    for plain in (merge(model), detach(copy.deepcopy(model)), pickle.loads(pickle.dumps(merge(model)))):
        assert "save_pretrained" not in vars(plain)
        assert b"capaboost_vit" not in pickle.dumps(plain)  # but a note of what was merged, in plain words
    assert pickle.loads(pickle.dumps(model)).save_pretrained.args[0] is not model
    with pytest.raises(ValueError, match=r"'bert.encoder' carries a prompt several times, .*: use save_adapter\(model"):
        trained("bert", "unipelt-all").save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_of_transformers_or_timm_names_the_function_that_reads_it(tmp_path):
    texts = save_adapter(trained("bert", "lora"), tmp_path / "texts.safetensors", task="rte", class_names=["a", "b"])
    vit = timm.create_model("test_vit", num_classes=3)
    images = capaboost_vit.save_adapter(capaboost_vit.adapt(vit, "lora"), tmp_path / "images.safetensors")
    for function in ("load_adapter", "create_from_adapter"):
        of_bert = rf"made for BertForSeq.* of transformers: use it with that, by capaboost_vit\.{function}"
        with pytest.raises(AdapterFileError, match=of_bert):
            getattr(vision, function)(*([vit] if "load" in function else []), texts)
        of_vit = rf"was made for test_vit of timm: use it with that, by capaboost_vit\.{function}"
        with pytest.raises(AdapterFileError, match=of_vit):
            getattr(nlu, function)(*([build("bert")] if "load" in function else []), images)


# what does not fit


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: build("roberta", "SequenceClassification"),
            "made for BertForSequenceClassification, this model is Ro",
        ),
        (lambda: build("bert", "QuestionAnswering"), "made for BertForSequenceClassification, this model is BertForQ"),
        (lambda: build("bert", "SequenceClassification", num_labels=5), "num_classes differs"),
        (lambda: build("bert", "SequenceClassification", num_hidden_layers=3), "does not fit .* missing"),
        (lambda: build("bert", "SequenceClassification", seed=1), "trained on other base weights"),
        (lambda: adapted(build("bert", "SequenceClassification"), "unipelt"), "does not fit .* tensors"),
        (
            lambda: adapt(
                build("bert", "SequenceClassification"), "unipelt", **{**LITTLE, "rank": 2}, num_branches=2, density=0.5
            ),
            "another architecture or options",
        ),
        (lambda: adapted(build("bert", "SequenceClassification"), "lora"), "does not fit"),
    ],
)
def test_another_model_is_refused_and_stays_as_it_was(make, text, tmp_path):
    path = save(trained("bert", "unipelt-masked"), tmp_path)
    model = make()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = [p.requires_grad for p in model.parameters()]
    with pytest.raises(AdapterFileError, match=text):
        load(model, path)
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert [p.requires_grad for p in model.parameters()] == grads


def test_other_parts_or_inputs_are_another_method(tmp_path):
    path = save(trained("bert", "ia3"), tmp_path)
    with pytest.raises(AdapterFileError, match="does not fit"):
        load(adapt(build("bert", "SequenceClassification"), "ia3", inputs=["mlp_in"]), path)
    same_tensors = build("bert", "SequenceClassification")
    adapt(same_tensors, "ia3", targets=["key", "value", "mlp_out"], inputs=[])
    with pytest.raises(AdapterFileError, match=r"does not fit|made with other options"):
        load_adapter_file(same_tensors, path, head=("classifier",))


def test_the_record_is_plain_json(tmp_path):
    for name in ADDED:
        record = adapted(build("bert"), name).capaboost
        assert json.loads(json.dumps(record)) == record
