"""Prompts in text models: concatenated to the embeddings, the mask extended; the first token stands first again."""

from __future__ import annotations

import pytest
import torch
from small import KINDS, ONE_EACH, adapted, build, each_kind, examples, padded, wake
from written import Written, assert_as_written, tokens_of

from capaboost_vit.core.inject import branches
from capaboost_vit.nlu import adapt


@each_kind("name", ["prompt", "prompt-mlp", "lora+prompt+prefix"])
def test_it_computes_what_is_written_out(family, attention, name):
    assert_as_written(family, attention, name)


@pytest.mark.parametrize("family", ONE_EACH)
@torch.no_grad()
def test_it_is_the_base_on_embeddings_with_the_prompt_in_front(family):
    """By hand: the encoder of the base, called with [p; x] and a mask with P more ones."""
    model, base = wake(adapted(build(family), "prompt")), build(family)
    batch = padded(model, examples())
    ids, mask = batch["input_ids"], batch["attention_mask"]
    prompt = tokens_of(branches(model)["encoder.tokens"]).expand(3, -1, -1)
    x = base.embeddings(ids, **({"mask": mask} if family.startswith("deberta") else {}))
    x = base.embeddings_project(x) if hasattr(base, "embeddings_project") else x
    longer = torch.cat([torch.ones(3, 3, dtype=mask.dtype), mask], dim=1)
    if not family.startswith("deberta"):
        longer = torch.where(longer.bool(), 0.0, torch.finfo(torch.float32).min)[:, None, None]
    expected = base.encoder(torch.cat([prompt, x], dim=1), longer).last_hidden_state[:, 3:]
    found = model(**batch).last_hidden_state
    for row, example in enumerate(examples()):
        torch.testing.assert_close(found[row, : len(example)], expected[row, : len(example)], rtol=1e-5, atol=1e-5)
    assert found.shape == (3, 7, 16)


@each_kind("options", [{}, dict(bottleneck=4), dict(deep=False)])
@torch.no_grad()
def test_length_zero_is_the_base_and_padding_is_still_ignored(family, attention, options):
    model, base = build(family, attention=attention), build(family, attention=attention)
    adapt(model, "prompt", prompt_length=0, **options)
    for length in (7, 12):
        batch = padded(base, examples(), length)
        assert torch.equal(model(**batch).last_hidden_state, base(**batch).last_hidden_state)


@pytest.mark.parametrize(("family", "attention"), KINDS)
@torch.no_grad()
def test_more_padding_and_no_padding_give_the_same(family, attention):
    model = wake(adapted(build(family, attention=attention), "prompt"))
    long = model(**padded(model, examples(), 15)).last_hidden_state
    for row, ids in enumerate(examples()):
        alone = model(input_ids=ids[None]).last_hidden_state[0]
        torch.testing.assert_close(long[row, : len(ids)], alone, rtol=1e-5, atol=1e-5)


@each_kind("name", ["prompt", "unipelt-all"])
@torch.no_grad()
def test_hidden_states_have_no_prompt_in_them_and_the_first_token_first(family, attention, name):
    model = wake(adapted(build(family, attention=attention).double(), name))
    written = Written(build(family).double(), branches(model))
    ids = examples()
    out = model(**padded(model, ids), output_hidden_states=True)
    assert [tuple(state.shape) for state in out.hidden_states] == [(3, 7, 16)] * 3
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    for row, example in enumerate(ids):
        for found, expected in zip(out.hidden_states, written(example), strict=True):
            torch.testing.assert_close(found[row, : len(example)], expected, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_a_tuple_as_output_and_some_of_the_hidden_states_are_the_same():
    for family in ("bert", "deberta-v3"):
        model = wake(adapted(build(family), "prompt"))
        batch = padded(model, examples())
        expected = model(**batch, output_hidden_states=True)
        first, *others = model(**batch, output_hidden_states=True, return_dict=False)
        assert torch.equal(first, expected.last_hidden_state)
        states = next(value for value in others if isinstance(value, tuple))
        assert all(torch.equal(*pair) for pair in zip(states, expected.hidden_states, strict=True))


@pytest.mark.parametrize("family", ONE_EACH)
@torch.no_grad()
def test_the_classifier_sees_the_first_token_and_answers_stay_where_they_are(family):
    model, base = (build(family, "SequenceClassification") for _ in range(2))
    wake(adapt(model, "prompt", prompt_length=3))
    batch = padded(model, examples())
    inner = getattr(model, model.base_model_prefix)(**batch)
    pooled = getattr(inner, "pooler_output", None)
    if family == "bert":
        torch.testing.assert_close(pooled, base.bert.pooler(inner.last_hidden_state))
        expected = base.classifier(pooled)
    elif family == "deberta-v3":
        expected = base.classifier(base.pooler(inner.last_hidden_state))
    else:
        expected = base.classifier(inner.last_hidden_state)
    torch.testing.assert_close(model(**batch).logits, expected)
    spans = adapt(build(family, "QuestionAnswering"), "prompt", prompt_length=3)(**batch)
    assert spans.start_logits.shape == spans.end_logits.shape == batch["input_ids"].shape


@torch.no_grad()
def test_two_prompts_are_both_seen():
    model = wake(adapt(build("bert").double(), "unipelt", parts=["prompt"], copies=2, prompt_length=2))
    assert set(branches(model)) == {"encoder.tokens", "encoder.tokens_2"}
    (ids,) = examples((5,))
    expected = Written(build("bert").double(), branches(model))(ids)[-1]
    torch.testing.assert_close(model(input_ids=ids[None]).last_hidden_state[0], expected, rtol=1e-9, atol=1e-9)


def test_a_second_prompt_is_refused():
    model = adapted(build("bert"), "prompt")
    with pytest.raises(ValueError, match="'encoder' carries a prompt already"):
        adapt(model, "prompt")
    with pytest.raises(ValueError, match="must be at least 0"):
        adapt(build("bert"), "prompt", prompt_length=-2)
