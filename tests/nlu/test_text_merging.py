"""Merging text models: exact, plain transformers afterwards; what no weight can express is refused."""

from __future__ import annotations

import pytest
import torch
from small import ONE_EACH, adapted, build, each_family, examples, padded, wake

from capaboost_vit.core.inject import branches
from capaboost_vit.core.merge import merge
from capaboost_vit.core.names import get
from capaboost_vit.methods.apply import fold
from capaboost_vit.methods.header import AdapterFileError
from capaboost_vit.nlu import adapt, create_from_adapter, save_adapter

LORA = ("lora", dict(rank=4, targets=["query", "key", "value", "attn_out", "mlp_in", "mlp_out"]))
MERGED = {
    "lora": [LORA],
    "ia3": [("ia3", {})],
    "lora, then ia3": [LORA, ("ia3", {})],
    "ia3, then lora": [("ia3", {}), LORA],
    "bitfit": [("bitfit", {})],
}


def made(family, name, task="SequenceClassification", dtype=torch.float32):
    model = build(family, task).to(dtype)
    for method, options in MERGED[name]:
        adapt(model, method, **options)
    return wake(model)


def stacked(model):
    """LoRA around LoRA, as UniPELT's copies without gates."""
    wake(adapt(model, "unipelt", parts=["lora", "ia3"], copies=2, rank=4, num_branches=2, density=0.5))
    for addition in branches(model).values():
        addition.gate = None
    return model


def same(found, expected, relative):
    assert (found - expected).abs().max() <= relative * expected.abs().max()


@each_family(MERGED)
@torch.no_grad()
def test_the_merged_model_computes_the_same_and_is_plain(family, name):
    for dtype, relative in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model = made(family, name, dtype=dtype)
        batch = padded(model, examples(), 9)
        expected = model(**batch).logits
        merged = merge(model)
        same(merged(**batch).logits, expected, relative)
        assert torch.equal(model(**batch).logits, expected), "the model itself is left alone"
        base = build(family, "SequenceClassification")
        assert [type(m) for m in merged.modules()] == [type(m) for m in base.modules()]
        assert list(merged.state_dict()) == list(base.state_dict())
        assert {p.dtype for p in merged.parameters()} == {dtype}
        assert not hasattr(merged, "capaboost")


@pytest.mark.parametrize("family", ["bert", "deberta-v3"])
@torch.no_grad()
def test_every_merged_layer_is_exact(family):
    for name in MERGED:
        model = made(family, name)
        merged = merge(model)
        for layer, plain in merged.named_modules():
            if isinstance(plain, torch.nn.Linear) and "layer.0" in layer:
                x = torch.randn(7, plain.in_features)
                same(plain(x), get(model, layer)(x), 1e-6)


@torch.no_grad()
def test_stacked_low_rank_updates_and_scales_of_linear_layers_merge():
    model = stacked(build("bert", "SequenceClassification").double())
    for layer in model.bert.encoder.layer:
        layer.attention.self = layer.attention.self.base  # it has told the gates of the padding
    with pytest.raises(ValueError, match=r"'.*layer\.0\.intermediate': a BertIntermediate has no weight of its own"):
        merge(model)  # scales behind the activation of the MLP have no weight
    for layer in model.bert.encoder.layer:
        layer.intermediate = layer.intermediate.base.base
    batch = padded(model, examples())
    same(merge(model)(**batch).logits, model(**batch).logits, 1e-12)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unipelt", "cannot merge 'encoder.*: .* and likewise at"),
        ("unipelt-ia3", "cannot merge 'encoder.*: .* and likewise at"),
        ("pfeiffer", "cannot merge 'encoder.layer.0.output.dense': an adapter .* at 1 other"),
        ("parallel", "an adapter is no change of a weight, and likewise at 3 other"),
        ("prefix", "cannot merge 'encoder.layer.0.attention.self': a prefix is no change of a weight.* at 1 other"),
        ("prompt", "cannot merge 'encoder': a prompt is no change of a weight$"),
        ("lora+prompt+prefix", "and likewise at 2 other"),
    ],
)
def test_what_no_weight_can_express_is_refused_in_one_line_and_the_model_stays(name, text):
    model = wake(adapted(build("bert"), name))
    state = list(model.state_dict())
    for inplace in (False, True):
        with pytest.raises(ValueError, match=text) as refusal:
            merge(model, inplace=inplace)
        assert "\n" not in str(refusal.value)
        assert list(model.state_dict()) == state


def test_folding_does_not_make_a_prefix_mergeable():
    with pytest.raises(ValueError, match="a prefix is no change of a weight"):
        merge(fold(adapted(build("bert"), "prefix-shared")))


FRESH = """
import sys, torch
from transformers import AutoModelForSequenceClassification
folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(folder)
assert not [name for name in sys.modules if name.startswith("capaboost")]
with torch.no_grad():
    torch.save(model(**torch.load(f"{folder}/batch.pt")).logits, f"{folder}/logits.pt")
"""


@torch.no_grad()
def test_a_merged_model_is_saved_and_loaded_by_transformers(tmp_path):
    for family in ONE_EACH:
        merged = merge(made(family, "lora, then ia3"))
        batch = padded(merged, examples(), 9)
        merged.save_pretrained(tmp_path / family)
        again = type(merged).from_pretrained(tmp_path / family).eval()
        torch.testing.assert_close(again(**batch).logits, merged(**batch).logits, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_merged_model_is_one_of_transformers_alone(ready, tmp_path):
    model = made("roberta", "lora, then ia3")
    batch = padded(model, examples(), 9)
    merged = merge(model)
    merged.save_pretrained(tmp_path)
    torch.save(batch, tmp_path / "batch.pt")
    ready.run(["python", "-c", FRESH, tmp_path], package=False, check=True)
    logits = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(logits, merged(**batch).logits, rtol=1e-5, atol=1e-6)
    same(logits, model(**batch).logits, 1e-5)


def test_an_adapter_of_a_merged_model_says_what_its_base_is(tmp_path):
    model = build("roberta", "SequenceClassification")
    model.config._name_or_path = "FacebookAI/roberta-base"
    merged = merge(wake(adapt(model, "lora", rank=4)))
    path = save_adapter(wake(adapt(merged, "prompt")), tmp_path / "prompt.safetensors", task="rte")
    whole = "FacebookAI/roberta-base with capaboost-lora r4 d2 merged in: name its weights, model=FOLDER"
    with pytest.raises(AdapterFileError, match=rf"trained on RobertaForSequenceClassification.{whole}"):
        create_from_adapter(path)
