"""The frozen front of texts: front and rest come to the bits of the whole, and what is kept changes no bit of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import texts
import torch
from safetensors.torch import load_file
from small import FAMILIES, build, examples, padded, wake

from capaboost_vit.nlu import adapt, logits_only
from capaboost_vit.nlu.frozen_front import divide
from capaboost_vit.run import build_job, train
from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.frozen_front import Whole

LAST = {"name": "lora", "rank": 4, "targets": ["layer.2.attention.output.dense", "layer.2.output.dense"]}
LABELS = torch.tensor([0, 1, 1])


def classifier(family, method, **options):
    model = build(family, "SequenceClassification", num_hidden_layers=3, **options)
    arguments = dict(method)
    return wake(adapt(model, arguments.pop("name"), **arguments))


@pytest.mark.parametrize("class_row", [False, True])
@pytest.mark.parametrize("method", [LAST, {"name": "head"}], ids=["last", "head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_front_and_rest_come_to_the_bits_of_the_whole_and_its_gradients(family, method, class_row):
    model = classifier(family, method)
    network = logits_only(model) if class_row else model
    divided = divide(network)
    # the rest of DeBERTa keeps a layer, which it needs for its output
    all_in_front = method["name"] == "head" and not family.startswith("deberta")
    assert divided.what == f"{3 if all_in_front else 2} of 3 layers"
    batch = padded(model, examples(), 8)

    def gradients(network, inputs):
        model.zero_grad()
        output = network(**inputs, labels=LABELS)
        output.loss.backward()
        return output.logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    logits, of_whole = gradients(network, batch)
    with torch.no_grad():
        rows = divided.rows(divided.front(batch))
    assert [len(row) for row in rows] == ([1, 1, 1] if all_in_front and class_row else [7, 4, 1])
    found, of_rest = gradients(divided.rest, divided.batch(rows))
    assert torch.equal(found, logits)
    assert of_rest.keys() == of_whole.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(of_rest[name], of_whole[name]) for name in of_whole)


def test_the_rest_alone_is_trained_and_the_front_keeps_its_mode():
    model = classifier("deberta-v2", LAST, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    divided = divide(model)
    batch = padded(model, examples(), 8)
    whole = Whole(divided).train()
    states = divided.front(batch)["inputs_embeds"]
    assert torch.equal(states, divided.front(batch)["inputs_embeds"])
    assert not torch.equal(whole(**batch).logits, whole(**batch).logits)
    expected = divided.rest.eval()(**divided.front(batch)).logits
    assert torch.equal(model.eval()(**batch).logits, expected)


BEFORE_LAYERS = {"name": "lora", "targets": ["embeddings_project"]}
EVERYWHERE = [{"name": name} for name in ("lora", "prefix", "prompt", "norm", "full")]


@pytest.mark.parametrize("method", [*EVERYWHERE, BEFORE_LAYERS], ids=str)
def test_what_trains_something_in_the_first_layer_or_before_has_no_front(method):
    assert divide(classifier("electra", method)) is None


def test_other_models_have_none():
    assert divide(torch.nn.Linear(2, 2)) is None


# runs


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: str(texts.write_encoder(folder / kind, kind, num_hidden_layers=3)) for kind in ("bert", "roberta")}


@pytest.fixture
def options(text_material, tmp_path, encoders, without_pictures):
    """Configures a run."""

    def configured(kind, encoder="bert", name="run", **options):
        values = {"epochs": 2, "dropout": 0.1, "model": encoders[encoder]}
        return texts.configure(text_material, kind, tmp_path / name, **{**values, **options})

    return configured


@pytest.mark.parametrize(
    ("kind", "encoder", "method"),
    [("pairs", "bert", LAST), ("scores", "roberta", {"name": "head"}), ("questions", "bert", LAST)],
    ids=["pairs", "scores", "questions"],
)
def test_a_run_has_the_same_bits_whatever_is_kept_of_the_front(options, kind, encoder, method):
    results = []
    for cache in ("auto", "none"):
        config = options(kind, encoder, cache, cache=cache, method=method)
        train(config)
        folder = Path(config.output)
        results.append((load_file(folder / "adapter.safetensors"), (folder / "summary.csv").read_text()))
    (kept, table), (computed, other) = results
    assert table == other
    assert kept.keys() == computed.keys()
    assert all(torch.equal(kept[name], computed[name]) for name in kept)


@pytest.mark.parametrize("method", [LAST, {"name": "head"}], ids=["last", "head"])
def test_an_example_has_the_same_bits_alone_and_among_others(options, tmp_path, method):
    """At a size at which products of few rows are rounded in another way than those of many."""
    model = texts.write_encoder(tmp_path / "wide", num_hidden_layers=3, hidden_size=128, intermediate_size=256)
    job = build_job(options("opinions", model=str(model), method=method), ProcessGroup(), torch.device("cpu"))
    job.front.cache, job.front.filled = "none", True
    places = [(index, True) for index in range(len(job.front))]
    (together, _), *alone = job.front.batches([places, *([place] for place in places)])
    for among, (inputs, _) in zip(together["inputs_embeds"], alone, strict=True):
        states = inputs["inputs_embeds"][0, : inputs["attention_mask"].sum()]
        assert torch.equal(states, among[: len(states)])


@pytest.mark.parametrize("method", [LAST, {"name": "head"}, {"name": "lora"}], ids=["last", "head", "everywhere"])
def test_without_anything_random_short_cuts_change_a_run_by_rounding(options, method):
    weights = []
    for short_cuts in (True, False):
        config = options("opinions", name=str(short_cuts), short_cuts=short_cuts, method=method, dropout=0.0)
        train(config)
        weights.append(load_file(f"{config.output}/adapter.safetensors"))
    short, whole = weights
    assert short.keys() == whole.keys()
    for name in whole:
        torch.testing.assert_close(short[name], whole[name], rtol=1e-3, atol=1e-4)


def test_a_run_says_which_short_cuts_it_takes(options):
    class_row = "short cuts: the last block for the tokens alone that the head reads"
    frozen = "in front in evaluation mode, as they are frozen"
    for kind, method, line in (
        ("opinions", {"name": "head"}, f"{class_row}; 3 of 3 layers {frozen}"),
        ("opinions", LAST, f"{class_row}; 2 of 3 layers {frozen}"),
        ("opinions", {"name": "lora"}, class_row),
        (
            "questions",
            LAST,
            "short cuts: none of the last block, as it is not known how a BertForQuestionAnswering comes from its last "
            f"layer to the logits; 2 of 3 layers {frozen}",
        ),
    ):
        assert build_job(options(kind, method=method), ProcessGroup(), torch.device("cpu")).lines == [line]
