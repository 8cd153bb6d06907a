"""What is measured: images for a ViT, tokens for a text encoder of the shape that its name stands for."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch

from capaboost_vit.bench.config import SETS, SHAPES, Workload
from capaboost_vit.bench.models import TEXT, VISION, family_of, make_subject
from capaboost_vit.cli import main

# parameters of the models on the hub, with the pooler where they have one
PARAMETERS = {
    "roberta-base": 124_645_632,
    "bert-base-uncased": 109_482_240,
    "deberta-v3-base": 183_831_552,
    "all-MiniLM-L6-v2": 22_713_216,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_parameters_of_the_model_on_the_hub(name):
    import transformers

    kind, options = SHAPES[name]
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(getattr(transformers, kind)(**options))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_every_family_has_every_set_of_layers():
    for family in (VISION, TEXT):
        assert tuple(family.targets) == SETS


@pytest.mark.parametrize(("model", "family"), [("vit_tiny_patch16_224", VISION), *((name, TEXT) for name in SHAPES)])
def test_the_name_tells_the_family(model, family):
    assert family_of(Workload(model=model)) is family


def test_images_are_counted_one_by_one(subject):
    assert subject.inputs["x"].shape == (4, 3, 16, 16)
    assert (subject.items, subject.size, subject.family.items) == (4, "16 px", "images")


@pytest.mark.parametrize("name", SHAPES)
def test_texts_are_full_unless_they_are_padded(name, workloads):
    workload = dataclasses.replace(workloads["tokens"], model=name)
    full = make_subject(dataclasses.replace(workload, padding=0.0))
    assert full.inputs.keys() == {"input_ids"}
    assert full.inputs["input_ids"].shape == (4, 6)
    assert (full.items, full.size, full.family.items) == (24, "6 tokens", "tokens")
    pad = full.base.config.pad_token_id
    assert full.inputs["input_ids"].min() > pad
    assert full.inputs["input_ids"].max() < full.base.config.vocab_size == 40
    padded = make_subject(workload)  # 0.3 of 6 tokens
    assert padded.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0]] * 4
    assert torch.equal(padded.inputs["input_ids"] == pad, padded.inputs["attention_mask"] == 0)
    assert padded.items == 16
    assert padded.size == "6 tokens"


def test_padding_changes_no_answer(workloads):
    """What is padding is never looked at: other tokens there, the same answer."""
    subject = make_subject(workloads["tokens"])
    model = subject.base.eval()
    other = {
        **subject.inputs,
        "input_ids": subject.inputs["input_ids"].masked_fill(subject.inputs["attention_mask"] == 0, 7),
    }
    with torch.no_grad():
        torch.testing.assert_close(model(**subject.inputs).logits, model(**other).logits)


def test_a_text_of_the_usual_length_has_128_tokens(workloads):
    subject = make_subject(dataclasses.replace(workloads["tokens"], seq_len=None, padding=0.0))
    assert subject.inputs["input_ids"].shape == (4, 128)


def test_a_text_as_long_as_the_model_takes_is_taken(workloads):
    long = dataclasses.replace(workloads["tokens"], seq_len=512, batch_size=1, padding=0.0)
    subject = make_subject(long)
    with torch.no_grad():
        assert subject.base(**subject.inputs).logits.shape == (1, 3)


@pytest.mark.parametrize("items", ["images", "tokens"])
def test_a_batch_follows_the_seed_and_leaves_the_global_generator_alone(items, workloads, subjects):
    workload, subject = workloads[items], subjects[items]
    before = torch.get_rng_state()
    again, other = make_subject(workload), make_subject(dataclasses.replace(workload, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    head = subject.family.anatomy(subject.base).head[0]
    for name, value in subject.inputs.items():
        assert torch.equal(again.inputs[name], value)
    name = next(iter(subject.inputs))
    assert not torch.equal(other.inputs[name], subject.inputs[name])
    weights, same = (next(b.base.get_submodule(head).parameters()) for b in (subject, again))
    assert torch.equal(weights, same)


def test_places_are_named_once_and_in_the_order_of_the_targets(subjects):
    images, texts = subjects["images"], subjects["tokens"]
    assert VISION.places(images.base, ("query", "value")) == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    assert len(VISION.places(images.base, VISION.targets["all-linears"])) == 8
    first, second = (f"roberta.encoder.layer.{i}.attention.self.query" for i in (0, 1))
    assert TEXT.places(texts.base, ("query",)) == [first, second]
    assert len(TEXT.places(texts.base, TEXT.targets["all-linears"])) == 12


def test_the_layers_of_the_first_block_are_named_by_what_adapts_them(subjects):
    images, texts = subjects["images"].base, subjects["tokens"].base
    assert VISION.first_layers(images, ("query", "value")) == {"query, value": "blocks.0.attn.qkv"}
    assert TEXT.first_layers(texts, ("value", "mlp_out")) == {
        "value": "roberta.encoder.layer.0.attention.self.value",
        "mlp_out": "roberta.encoder.layer.0.output.dense",
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"model": "roberta-bas"}, r"--model: timm has no 'roberta-bas' \(did you mean 'roberta-base'\?\); text enc"),
        ({"model": "vit_tinny_patch16_224"}, r"did you mean 'vit_tiny_patch16_224'"),
        ({"seq_len": 513}, "--seq-len 513: roberta-base takes at most 512 tokens"),
        ({"img_size": 32}, "--img-size 32: roberta-base is no model for it, as its inputs are tokens"),
        ({"model": "vit_tiny_patch16_224", "model_kwargs": {}}, "--seq-len 6: .* its inputs are images"),
        ({"model_kwargs": {"num_layers": 2}}, r"no option 'num_layers' \(did you mean 'num_hidden_layers'\?\)"),
        ({"device": "nowhere"}, "--device nowhere"),
    ],
    ids=str,
)
def test_wrong_workloads_are_refused(options, text, workloads):
    with pytest.raises(ValueError, match=text):
        make_subject(dataclasses.replace(workloads["tokens"], **options))


def test_relative_positions_have_no_longest_text(workloads):
    long = dataclasses.replace(workloads["tokens"], model="deberta-v3-base", seq_len=600, batch_size=1)
    assert make_subject(long).inputs["input_ids"].shape == (1, 600)


def test_without_transformers_a_text_encoder_is_refused_and_a_vit_is_not(workloads, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match="transformers"):
        make_subject(workloads["tokens"])
    make_subject(workloads["images"])
    assert main(["bench", "speed", "--model", "roberta-base", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "transformers" in said
    assert said.endswith("; pip install 'capaboost_vit[nlu]'\n")
    assert said.count("\n") == 1
