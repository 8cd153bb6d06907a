"""Prefixes in text models: `softmax(q [K_p; K]) [V_p; V]` written out, with padding; a length of zero is the base."""

from __future__ import annotations

import pytest
import torch
import transformers
from oracle import virtual_tokens
from small import KINDS, adapted, build, each_kind, examples, padded, wake
from torch import nn
from written import assert_as_written

from capaboost_vit.core.inject import branches
from capaboost_vit.core.names import get
from capaboost_vit.nlu import adapt
from capaboost_vit.nlu.attention import PrefixAttention
from capaboost_vit.nlu.encoder import real_positions, with_keys, with_tokens


@each_kind("name", ["prefix", "prefix-mlp", "prefix-shared"])
def test_it_computes_what_is_written_out(family, attention, name):
    assert_as_written(family, attention, name)


@each_kind("options", [{}, dict(bottleneck=4), dict(bottleneck=4, shared=True)])
@torch.no_grad()
def test_length_zero_is_the_base_and_padding_is_still_ignored(family, attention, options):
    model, base = build(family, attention=attention), build(family, attention=attention)
    adapt(model, "prefix", prefix_length=0, **options)
    for length in (7, 12):
        batch = padded(base, examples(), length)
        found, expected = model(**batch).last_hidden_state, base(**batch).last_hidden_state
        if family.startswith("deberta"):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(found, expected)
    alone = base(input_ids=examples()[1][None]).last_hidden_state[0]
    torch.testing.assert_close(found[1, : len(alone)], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
@pytest.mark.parametrize("name", ["prefix", "prefix-shared", "lora+prompt+prefix"])
@torch.no_grad()
def test_eager_and_sdpa_agree_with_and_without_a_mask(family, name):
    eager, sdpa = (wake(adapted(build(family, attention=kind), name)) for kind in ("eager", "sdpa"))
    batch = padded(eager, examples())
    for inputs in (batch, {"input_ids": batch["input_ids"]}):
        found, expected = sdpa(**inputs).last_hidden_state, eager(**inputs).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "attention"), KINDS)
@torch.no_grad()
def test_more_padding_and_no_padding_give_the_same(family, attention):
    model = wake(adapted(build(family, attention=attention), "prefix"))
    short = model(**padded(model, examples())).last_hidden_state
    long = model(**padded(model, examples(), 15)).last_hidden_state
    for row, ids in enumerate(examples()):
        alone = model(input_ids=ids[None]).last_hidden_state[0]
        for batch in (short, long):
            torch.testing.assert_close(batch[row, : len(ids)], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_left_padding_is_ignored_where_positions_are_relative():
    model = wake(adapted(build("deberta-v3"), "prefix"))
    right = model(**padded(model, examples(), 9)).last_hidden_state
    left = model(**padded(model, examples(), 9, left=True)).last_hidden_state
    for row, ids in enumerate(examples()):
        torch.testing.assert_close(left[row, -len(ids) :], right[row, : len(ids)], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_shared_prefix_is_one_table_and_one_first_layer_with_an_output_for_each_layer():
    model = adapt(build("bert"), "prefix", prefix_length=3, bottleneck=4, shared=True)
    first, second = branches(model).values()
    assert first.table is second.table
    assert first.mlp.down is second.mlp.down
    assert first.mlp.down_bias is second.mlp.down_bias
    assert first.mlp.up is not second.mlp.up
    assert tuple(first.table.weight.shape) == (3, 16)  # a vector of the model's width, as in prefix tuning
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3 * 16 + 4 * (16 + 1) + 2 * 32 * (4 + 1)
    apart = adapt(build("bert"), "prefix", prefix_length=3, bottleneck=4)
    assert tuple(branches(apart)["encoder.layer.0.attention.self.tokens"].table.weight.shape) == (3, 32)


@torch.no_grad()
def test_attention_weights_have_the_prefix_in_front():
    for family in ("bert", "deberta-v3"):
        model = wake(adapted(build(family), "prefix"))
        batch = padded(model, examples())
        for weights in model(**batch, output_attentions=True).attentions:
            assert weights.shape == (3, 2, 7, 10)
            torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 7))
            assert (weights[..., :3] > 0).all()
            assert weights[1, :, :4, 7:].abs().max() == 0  # keys of padding


@pytest.mark.parametrize("family", ["bert", "deberta-v3"])
@torch.no_grad()
def test_a_prefix_around_a_prefix_is_one_long_prefix(family):
    model = wake(adapt(adapt(build(family), "unipelt", parts=["prefix"], prefix_bottleneck=None, copies=2), "head"))
    for tokens in branches(model).values():
        tokens.gate = None
    batch = padded(model, examples())
    stacked = model(**batch).last_hidden_state
    joined = adapt(build(family), "prefix", prefix_length=20, num_branches=1, density=1)
    for i in (0, 1):
        name = f"encoder.layer.{i}.attention.self.tokens"
        tables = [branches(model)[name + suffix].table.weight for suffix in ("", "_2")]
        branches(joined)[name].table.weight.copy_(torch.cat(tables))
    torch.testing.assert_close(stacked, joined(**batch).last_hidden_state, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_cache_of_its_own_is_kept_behind_the_prefix():
    model = wake(adapted(build("bert"), "prefix"))
    attention, tokens = (
        get(model, "encoder.layer.0.attention.self"),
        branches(model)["encoder.layer.0.attention.self.tokens"],
    )
    x, earlier = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    base = attention.base
    cache = transformers.DynamicCache()
    heads = [part(earlier).unflatten(-1, (2, 8)).transpose(1, 2) for part in (base.key, base.value)]
    cache.update(*heads, 0)
    found = attention(x, None, **{attention.cache_keyword: cache})[0]
    assert cache.get_seq_length() == 8
    keys, values = (
        tokens().unflatten(-1, (2, 2, 8)).movedim(1, 0).transpose(1, 2).unsqueeze(1).expand(-1, 2, -1, -1, -1)
    )
    both = torch.cat([earlier, x], dim=1)
    k, v = (part(both).unflatten(-1, (2, 8)).transpose(1, 2) for part in (base.key, base.value))
    q = base.query(x).unflatten(-1, (2, 8)).transpose(1, 2)
    expected = nn.functional.scaled_dot_product_attention(q, torch.cat([keys, k], 2), torch.cat([values, v], 2))
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(2), rtol=1e-5, atol=1e-5)


def test_attention_dropout_acts_in_training_only():
    for family in ("bert", "deberta-v3"):
        model = adapt(build(family, attention_probs_dropout_prob=0.5), "prefix")
        batch = padded(model, examples())
        assert torch.equal(model(**batch).last_hidden_state, model(**batch).last_hidden_state)
        model.train()
        assert not torch.equal(model(**batch).last_hidden_state, model(**batch).last_hidden_state)


def test_it_fits_a_model_with_lora_in_its_projections():
    for family in ("bert", "deberta-v3"):
        model = wake(adapt(build(family), "lora", rank=4))
        batch = padded(model, examples())
        expected = model(**batch).last_hidden_state
        adapt(model, "prefix", prefix_length=0)
        torch.testing.assert_close(model(**batch).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


# what is refused


def test_a_second_prefix_in_the_same_place_is_refused_whatever_stands_around_the_first():
    model = adapted(build("bert"), "prefix")
    with pytest.raises(ValueError, match=r"'encoder.layer.0.attention.self' carries a prefix already"):
        adapt(model, "prefix")
    watched = adapted(build("bert"), "unipelt")
    with pytest.raises(ValueError, match="carries a prefix already"):
        adapt(watched, "prefix")
    only_gated = adapt(build("bert"), "unipelt", parts=["lora"])
    adapt(only_gated, "prefix")
    assert isinstance(get(only_gated, "encoder.layer.0.attention.self"), PrefixAttention)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (dict(shared=True), ValueError, "a shared prefix is that of one reparameterisation MLP: say its width"),
        (dict(prefix_length=-1), ValueError, "must be at least 0, got -1"),
        (dict(targets=["mlp_in"]), TypeError, "an encoder's attention layer that takes a cache, got Linear"),
    ],
)
def test_wrong_options_are_refused_and_the_model_stays_as_it_was(options, error, text):
    model = build("bert")
    state = list(model.state_dict())
    with pytest.raises(error, match=text):
        adapt(model, "prefix", **options)
    assert list(model.state_dict()) == state


def test_prefix_attention_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="prefixes need an encoder's attention layer that takes a cache, got Linear"):
        PrefixAttention(nn.Linear(4, 4), lambda width: virtual_tokens(2, width))


# masks

KEPT = torch.tensor([[True, True, True], [True, False, False]])
ADDED_TO_SCORES = torch.where(KEPT, 0.0, torch.finfo(torch.float32).min)[:, None, None].expand(2, 1, 3, 3)


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        (KEPT, True),
        (KEPT.long(), 1),
        (KEPT.float(), 1.0),
        (KEPT[:, None, None].expand(2, 1, 3, 3), True),
        (ADDED_TO_SCORES, 0.0),
        (ADDED_TO_SCORES.double(), 0.0),
        (KEPT.long()[:, None].expand(2, 3, 3), 1),
    ],
)
def test_masks_of_every_kind_get_keys_and_tokens_in_front_and_tell_the_padding(mask, seen):
    longer = with_keys(mask, 2)
    assert longer.dtype == mask.dtype
    assert (longer[..., :2] == seen).all()
    assert torch.equal(longer[..., 2:], mask)
    tokens = with_tokens(mask, 2)
    if mask.dim() > 2:
        assert tokens.shape[-2:] == (5, 5)
        assert torch.equal(tokens[..., 2:, :], longer)
        assert torch.equal(tokens[..., 0, :], longer[..., 0, :])
    else:
        assert torch.equal(tokens, longer)
    assert torch.equal(real_positions(mask), KEPT)
    assert with_keys(mask, 0) is mask
    assert with_tokens(mask, 0) is mask


def test_no_mask_hides_nothing_and_a_mask_that_is_no_tensor_is_refused():
    assert with_keys(None, 3) is None
    assert with_tokens(None, 3) is None
    assert real_positions(None) is None
    with pytest.raises(TypeError, match="a dict as mask cannot be made longer: load the model with attn_impl"):
        with_keys({}, 3)


def test_what_only_some_queries_see_is_no_padding():
    causal = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    assert real_positions(causal).all()
    padding_in_front = causal & torch.tensor([False, True, True, True])
    assert real_positions(padding_in_front).tolist() == [[False, True, True, True]]
