"""LayerNorm-tuning and SSF on encoders of transformers."""

from __future__ import annotations

import pytest
import torch
from small import ONE_EACH, build, examples, padded, wake

from capaboost_vit.core.inject import branches, find
from capaboost_vit.core.merge import merge
from capaboost_vit.nlu import adapt, load_adapter, save_adapter
from capaboost_vit.nlu.anatomy import anatomy_of

PLACES = ["query", "key", "value", "attn_out", "mlp_in", "mlp_out", "norm"]


def outputs(model):
    return model(**padded(model, examples())).logits


@pytest.mark.parametrize("family", ONE_EACH)
@torch.no_grad()
def test_norm_trains_every_layer_norm_and_the_head_and_its_file_holds_them(family, tmp_path):
    model = adapt(build(family, "SequenceClassification"), "norm")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    norms = {name for name, _ in model.named_parameters() if "LayerNorm" in name}
    heads = {name for name, _ in model.named_parameters() if name.startswith(anatomy_of(model).head)}
    assert trained.keys() == norms | heads
    assert len(norms) >= 2 * 5
    for parameter in trained.values():
        parameter.add_(0.1)
    path = save_adapter(model, tmp_path / "norm.safetensors")
    again = load_adapter(build(family, "SequenceClassification"), path)
    assert torch.equal(outputs(again), outputs(model))
    assert not torch.equal(outputs(again), outputs(build(family, "SequenceClassification")))
    assert torch.equal(outputs(merge(model)), outputs(model))


@pytest.mark.parametrize("family", ONE_EACH)
@torch.no_grad()
def test_ssf_starts_as_the_base_merges_exactly_and_comes_back_from_its_file(family, tmp_path):
    base = build(family, "SequenceClassification").double()
    model = adapt(build(family, "SequenceClassification").double(), "ssf", targets=PLACES)
    assert torch.equal(outputs(model), outputs(base))
    assert len(branches(model)) == 2 * 6 + len(find(base, "norm", anatomy_of(base)))
    expected = outputs(wake(model))
    assert (expected - outputs(base)).abs().max() > 1e-2
    assert (outputs(merge(model)) - expected).abs().max() <= 1e-11 * expected.abs().max()
    path = save_adapter(model, tmp_path / "ssf.safetensors")
    again = load_adapter(build(family, "SequenceClassification").double(), path)
    assert torch.equal(outputs(again), expected)


def test_ssf_without_targets_has_all_places_but_those_of_patches():
    chosen = adapt(build("bert", "SequenceClassification"), "ssf", targets=PLACES)
    assert branches(adapt(build("bert", "SequenceClassification"), "ssf")).keys() == branches(chosen).keys()
    with pytest.raises(
        ValueError, match=r"'patch_embed' matches nothing in Bert.*roles there: query, .*mlp_out, .*norm"
    ):
        adapt(build("bert", "SequenceClassification"), "ssf", targets=["patch_embed", "norm"])
