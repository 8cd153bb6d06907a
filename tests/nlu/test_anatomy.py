"""Roles name the expected modules in every family; what has no roles takes name patterns; heads are what is new."""

from __future__ import annotations

import pytest
import torch
import transformers
from small import FAMILIES, ONE_EACH, SMALL, build, examples, padded, wake

from capaboost_vit.core.inject import branches, find
from capaboost_vit.core.names import get
from capaboost_vit.nlu import adapt, anatomy_of
from capaboost_vit.nlu.anatomy import head_names

# names within a layer, BERT's; DeBERTa-v2 calls its projections *_proj
WITHIN = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attn_out": "attention.output.dense",
    "mlp_in": "intermediate.dense",
    "mlp_hidden": "intermediate",
    "mlp_out": "output.dense",
}
BY_USE = {
    ("attn", "prefix"): "attention.self",
    ("attn", "sequential"): "attention.output.dense",
    ("attn", "parallel"): "attention.output",
    ("mlp", "sequential"): "output.dense",
    ("mlp", "parallel"): "output",
}


def names(model, role, use=None):
    return [place.name for place in find(model, role, anatomy_of(model), use=use)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("within", ["", "encoder of a classifier"])
def test_every_role_names_the_expected_modules(family, within):
    model = build(family, "SequenceClassification" if within else "Model")
    above = f"{model.base_model_prefix}." if within else ""
    for role, name in WITHIN.items():
        deberta = "_proj" if family.startswith("deberta") and role in ("query", "key", "value") else ""
        assert names(model, role) == [f"{above}encoder.layer.{i}.{name}{deberta}" for i in (0, 1)]
    for (role, use), name in BY_USE.items():
        assert names(model, role, use) == [f"{above}encoder.layer.{i}.{name}" for i in (0, 1)]
    assert names(model, "block") == [f"{above}encoder"]
    norms = [f"{above}encoder.layer.{i}.{part}output.LayerNorm" for i in (0, 1) for part in ("attention.", "")]
    assert [name for name in names(model, "norm") if ".layer." in name] == norms
    assert names(model, "norm")[0] == f"{above}embeddings.LayerNorm"
    assert set(anatomy_of(model).roles) == {*WITHIN, "attn", "mlp", "block", "norm"}


@pytest.mark.parametrize(
    ("method", "options", "added"),
    [
        ("adapter", dict(placement="sequential", targets=["attn", "mlp"]), {"attention.output.dense", "output.dense"}),
        ("adapter", dict(placement="parallel", targets=["attn", "mlp"]), {"attention.output", "output"}),
        ("adapter", dict(), {"output"}),
        ("prefix", {}, {"attention.self"}),
        ("ia3", {}, {"attention.self.key", "attention.self.value", "output.dense"}),
    ],
)
def test_each_method_stands_where_it_belongs(method, options, added):
    model = adapt(build("bert"), method, **options)
    wrapped = {name.removeprefix("encoder.layer.0.").rpartition(".")[0] for name in branches(model) if ".0." in name}
    assert {name.removesuffix(".scales") for name in wrapped} == added


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "prompt", "ia3", "unipelt"])
def test_roles_are_the_same_before_and_after(method):
    model = build("bert", "SequenceClassification")
    before = {role: names(model, role) for role in WITHIN}
    adapt(model, method)
    assert {role: names(model, role) for role in WITHIN} == before
    assert anatomy_of(model).prefix_attention is not None


@pytest.mark.parametrize("family", ONE_EACH)
def test_an_unknown_target_is_refused_with_what_there_is(family):
    model = build(family)
    layers = list(model.state_dict())
    text = (
        r"target 'querry' matches nothing in \w+ \(did you mean 'query'\?\); roles there: query, key, .*block, norm; "
    )
    with pytest.raises(ValueError, match=text + r"linear layers there: .*encoder\.layer\.\*\.attention\.self\."):
        adapt(model, "lora", targets=["querry"])
    assert list(model.state_dict()) == layers


# heads


@pytest.mark.parametrize(
    ("family", "task", "expected"),
    [
        ("bert", "SequenceClassification", ("classifier",)),
        ("bert", "QuestionAnswering", ("qa_outputs",)),
        ("bert", "TokenClassification", ("classifier",)),
        ("roberta", "SequenceClassification", ("classifier",)),
        ("electra", "SequenceClassification", ("classifier",)),
        ("electra", "QuestionAnswering", ("qa_outputs",)),
        ("deberta-v3", "SequenceClassification", ("pooler", "classifier")),
        ("deberta-v3", "QuestionAnswering", ("qa_outputs",)),
    ],
)
@pytest.mark.parametrize("method", [None, "lora", "unipelt"])
def test_the_head_is_what_stands_beside_the_encoder(family, task, expected, method):
    model = build(family, task)
    if method is not None:
        adapt(model, method)
        trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert trained == {model.base_model_prefix, *expected}
    assert head_names(model) == expected


@pytest.mark.parametrize("family", ONE_EACH)
@pytest.mark.parametrize("task", ["Model", "MaskedLM"])
def test_a_bare_encoder_and_a_language_model_have_no_new_head(family, task):
    model = build(family, task)
    assert head_names(model) == ()
    adapt(model, "lora")
    assert all("branches" in name for name, p in model.named_parameters() if p.requires_grad)


def test_fresh_modules_are_part_of_the_head_and_named_once():
    model = build("bert", "SequenceClassification")
    model.fresh_modules = ("bert.pooler", "classifier")
    assert head_names(model) == ("classifier", "bert.pooler")
    assert adapt(model, "lora").bert.pooler.dense.weight.requires_grad


# models whose modules have other names


def bloom():
    torch.manual_seed(0)
    config = transformers.BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2, pad_token_id=0)
    model = transformers.BloomForSequenceClassification(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape))
    return model


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", dict(rank=4, targets=["h.*.self_attention.query_key_value", "mlp.dense_h_to_4h"])),
        ("adapter", dict(placement="sequential", targets=["h.*.mlp"])),
        ("adapter", dict(placement="parallel", targets=["h.*.mlp"])),
        ("ia3", dict(targets=["query_key_value"], inputs=["mlp.dense_4h_to_h"])),
        ("bitfit", {}),
        ("head", {}),
    ],
)
def test_a_model_without_roles_takes_name_patterns(method, options):
    model, base = adapt(bloom(), method, **options), bloom()
    batch = padded(model, examples())
    torch.testing.assert_close(model(**batch).logits, base(**batch).logits)
    if branches(model):
        assert (wake(model)(**batch).logits - base(**batch).logits).abs().max() > 1e-3
    model(**batch).logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert "score" in {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        ("prefix", {}, r"no prefix attention is known for BloomForSequenceClassification: use lora or adapter"),
        ("lora", {}, r"target 'query' matches nothing in Bloom.*roles there: norm; linear layers there: .*query_key"),
        ("prompt", {}, r"no prompt is known for Bloom"),
        ("ssf", {}, r"target 'query' matches nothing in Bloom"),
        ("unipelt", {}, r"target 'query' matches nothing in Bloom"),
        ("ia3", {}, r"target 'key' matches nothing in Bloom"),
    ],
)
def test_a_model_without_roles_refuses_them_in_one_line_and_stays_as_it_was(method, options, text):
    model = bloom()
    state = list(model.state_dict())
    with pytest.raises(ValueError, match=text) as refusal:
        adapt(model, method, **options)
    assert "\n" not in str(refusal.value)
    assert list(model.state_dict()) == state
    assert all(p.requires_grad for p in model.parameters())
    assert not hasattr(model, "capaboost")


def longformer():
    config = transformers.LongformerConfig(**SMALL, attention_window=4, max_position_embeddings=40, pad_token_id=1)
    return transformers.LongformerModel(config).eval()


@pytest.mark.parametrize(
    ("method", "options", "error", "text"),
    [
        ("prefix", {}, ValueError, "no prefix attention is known for LongformerModel"),
        ("prompt", {}, ValueError, "no prompt is known for LongformerModel"),
        ("unipelt", {}, ValueError, "no prefix attention is known for LongformerModel"),
        (
            "unipelt",
            dict(parts=["lora", "adapter"]),
            TypeError,
            "gates have to know the padding, but the masks of LongformerSelfAttention are not known",
        ),
    ],
)
def test_an_attention_with_masks_of_its_own_takes_neither_prefix_nor_gates_and_stays_as_it_was(
    method, options, error, text
):
    model = longformer()
    state = list(model.state_dict())
    with pytest.raises(error, match=text):
        adapt(model, method, **options)
    assert list(model.state_dict()) == state
    adapt(model, "lora")
    assert {name.rpartition(".branches")[0] for name in branches(model)} == {
        f"encoder.layer.{i}.attention.self.{part}{kind}"
        for i in (0, 1)
        for part in ("query", "value")
        for kind in ("", "_global")
    }


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        ("prefix", {}, "no prefix attention is known for BertLMHeadModel"),
        ("prompt", {}, "no prompt is known for BertLMHeadModel"),
        ("head", {}, "method 'head' trains nothing of this BertLMHeadModel: name modules with head=, or take lora or"),
        ("unipelt", dict(parts=["lora"]), "gates have to know the padding"),
    ],
)
def test_a_decoder_takes_nothing_that_its_later_tokens_would_tell_the_earlier_ones(method, options, text):
    model = transformers.BertLMHeadModel(transformers.BertConfig(**SMALL, is_decoder=True)).eval()
    state = list(model.state_dict())
    with pytest.raises((ValueError, TypeError), match=text):
        adapt(model, method, **options)
    assert list(model.state_dict()) == state
    assert branches(adapt(model, "lora"))


@pytest.mark.parametrize(
    ("method", "text"), [("prompt", "no prompt is known for"), ("head", "trains nothing"), ("bitfit", "trains nothing")]
)
def test_a_model_without_bias_and_head_refuses_what_would_crash_or_train_nothing(method, text):
    config = transformers.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    model = transformers.T5EncoderModel(config)
    with pytest.raises(ValueError, match=f"{text}.* T5EncoderModel"):
        adapt(model, method)
    assert all(p.requires_grad for p in model.parameters())


def test_an_attention_called_self_that_stands_in_no_layer_gives_no_roles():
    model = torch.nn.ModuleDict({"attention": torch.nn.ModuleDict({"self": torch.nn.Linear(4, 4)})})
    assert not anatomy_of(model).roles
    adapt(model, "lora", targets=["attention.self"], head=())
    assert get(model, "attention.self") is not None
