"""Building text models: heads by the kind of task, fresh modules, and one clear error for what cannot be loaded."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers
from small import build, examples, padded

from capaboost_vit.nlu import adapt, create_text_model
from capaboost_vit.nlu.anatomy import head_names
from capaboost_vit.nlu.models import create_tokenizer, model_length


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Weights of small encoders: with and without a pooler, of a language model, without weights, without anything."""
    root = tmp_path_factory.mktemp("models")
    build("bert").save_pretrained(root / "bert")
    plain = build("bert")
    plain.pooler = None
    plain.save_pretrained(root / "no pooler")
    build("bert", "MaskedLM").save_pretrained(root / "masked")
    build("deberta-v3").save_pretrained(root / "deberta")
    build("roberta").save_pretrained(root / "roberta")
    build("bert", "SequenceClassification", num_labels=5).save_pretrained(root / "five")
    shutil.copytree(root / "bert", root / "no weights")
    (root / "no weights" / "model.safetensors").unlink()
    (root / "nothing").mkdir()
    shutil.copytree(root / "deberta", root / "wrong weights")
    shutil.copy(root / "bert" / "config.json", root / "wrong weights" / "config.json")
    return root


@pytest.mark.parametrize(
    ("folder", "kind", "options", "cls", "head", "outputs"),
    [
        ("bert", "classification", dict(classes=["no", "yes"]), "BertForSequenceClassification", "classifier", 2),
        ("bert", "classification", dict(classes=list("abc")), "BertForSequenceClassification", "classifier", 3),
        ("bert", "regression", {}, "BertForSequenceClassification", "classifier", 1),
        ("bert", "questions", {}, "BertForQuestionAnswering", "qa_outputs", 2),
        ("roberta", "regression", {}, "RobertaForSequenceClassification", "classifier", 1),
        ("deberta", "classification", dict(classes=["no", "yes"]), "DebertaV2ForSequenceClassification", "pooler", 2),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_the_head_is_that_of_the_kind_of_task(folders, folder, kind, options, cls, head, outputs, pretrained):
    model = create_text_model(str(folders / folder), kind, pretrained=pretrained, **options)
    assert type(model).__name__ == cls
    assert head_names(model)[0] == head
    assert not model.training
    assert model.dtype == torch.float32
    out = model(**padded(model, examples()))
    assert (out.start_logits if kind == "questions" else out.logits).shape == (
        (3, 7) if kind == "questions" else (3, outputs)
    )
    if kind == "classification":
        assert model.config.id2label == dict(enumerate(options["classes"]))
        assert model.config.label2id == {name: i for i, name in enumerate(options["classes"])}
    if kind == "regression":
        assert model.config.problem_type == "regression"
        loss = model(**padded(model, examples()), labels=torch.tensor([0.5, 1.0, 2.0])).loss
        torch.testing.assert_close(loss, (out.logits[:, 0] - torch.tensor([0.5, 1.0, 2.0])).square().mean())


def test_the_weights_are_loaded_or_random(folders):
    expected = build("bert").state_dict()
    for pretrained in (True, False):
        model = create_text_model(str(folders / "bert"), "questions", pretrained=pretrained)
        same = [torch.equal(model.bert.state_dict()[name], expected[name]) for name in model.bert.state_dict()]
        assert all(same) if pretrained else not all(same)


@pytest.mark.parametrize(
    ("folder", "kind", "fresh", "head"),
    [
        ("bert", "classification", {"classifier"}, ("classifier",)),
        ("no pooler", "classification", {"bert.pooler", "classifier"}, ("classifier", "bert.pooler")),
        ("no pooler", "questions", {"qa_outputs"}, ("qa_outputs",)),
        ("masked", "classification", {"bert.pooler", "classifier"}, ("classifier", "bert.pooler")),
        ("masked", "masked", set(), ()),
        ("bert", "masked", {"cls"}, ("cls",)),
        ("deberta", "classification", {"classifier", "pooler"}, ("pooler", "classifier")),
        ("five", "classification", {"classifier"}, ("classifier",)),
    ],
)
def test_what_the_weights_lack_is_fresh_and_trained(folders, folder, kind, fresh, head):
    classes = ["no", "yes"] if kind == "classification" else []
    model = create_text_model(str(folders / folder), kind, classes=classes)
    assert set(model.fresh_modules) == fresh
    assert head_names(model) == head
    adapt(model, "lora")
    for name in head:
        assert all(p.requires_grad for p in model.get_submodule(name).parameters())
    assert all(
        not p.requires_grad for p in model.get_submodule(f"{model.base_model_prefix}.embeddings").parameters()
    ) == ("cls" not in head)


def test_a_stored_classifier_of_as_many_classes_is_kept(folders):
    model = create_text_model(str(folders / "five"), "classification", classes=list("abcde"))
    assert model.fresh_modules == ()
    expected = build("bert", "SequenceClassification", num_labels=5).classifier.weight
    assert torch.equal(model.classifier.weight, expected)


def test_options_reach_the_configuration(folders):
    model = create_text_model(str(folders / "bert"), "questions", hidden_dropout_prob=0.25, attn_implementation="eager")
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0, 0.25}
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("folder", "kind", "options", "text"),
    [
        (
            "bert",
            "clasification",
            {},
            "unknown kind of task 'clasification': choose from classification, regression, multi-label",
        ),
        ("bert", "classification", {}, r'needs the names of its classes, such as classes=\("no", "yes"\)'),
        (
            "none",
            "questions",
            {},
            r"cannot load .*none.*; give a folder with config.json",
        ),
        (
            "nothing",
            "questions",
            {},
            "cannot load .*nothing.*; the folder needs config.json",
        ),
        (
            "no weights",
            "questions",
            {},
            "cannot load .*no weights.*; the folder needs config.json",
        ),
        (
            "wrong weights",
            "questions",
            {},
            r"does not hold the weights of a BertForQuestionAnswering: bert.embeddings is",
        ),
        ("bert", "questions", dict(num_hidden_layers=3), "does not hold the weights .*: bert.encoder is missing"),
        (
            "bert",
            "questions",
            dict(max_position_embeddings=1024),
            r"has bert.embeddings.position_embeddings.weight of shape \(512, 16\), these options ask for \(1024, 16\)",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(folders, folder, kind, options, text):
    with pytest.raises(ValueError, match=text) as refusal:
        create_text_model(str(folders / folder), kind, **options)
    assert "\n" not in str(refusal.value)


def test_a_name_that_the_local_cache_does_not_know_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = "cannot load .*nobody/nothing.*; give a folder with config.json"  # no hub id would help
    with pytest.raises(ValueError, match=text) as refusal:
        create_text_model("nobody/nothing", "questions")
    assert "\n" not in str(refusal.value)


def test_a_model_without_such_a_head_is_refused(folders, tmp_path):
    transformers.TimesformerConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot load .*: Unrecognized configuration class"):
        create_text_model(str(tmp_path), "questions", pretrained=False)


def test_loading_leaves_the_verbosity_of_transformers_as_it_was(folders):
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    for folder in ("bert", "no weights"):
        try:
            create_text_model(str(folders / folder), "questions")
        except ValueError:
            assert folder == "no weights"
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bar)


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [
        ("bert", {}, 512),
        ("bert", dict(max_position_embeddings=40), 40),
        ("roberta", {}, 38),  # 40 less the padding's position and that before it
        ("electra", {}, 512),
        ("deberta-v2", {}, 32),
        ("deberta-v3", {}, None),
    ],
)
@torch.no_grad()
def test_the_longest_input_is_taken_and_a_longer_one_is_not(family, options, expected):
    model = build(family, **options)
    assert model_length(model.config) == expected
    length = expected or 64
    assert model(input_ids=torch.full((1, length), 5)).last_hidden_state.shape == (1, length, 16)
    if expected is not None:
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model(input_ids=torch.full((1, length + 1), 5))


def test_a_folder_without_a_tokenizer_is_one_clear_line(folders):
    with pytest.raises(ValueError, match=r"bert.*the folder needs .*tokenizer.json"):
        create_tokenizer(str(folders / "bert"))
