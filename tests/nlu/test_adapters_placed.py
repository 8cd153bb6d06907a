"""LoRA, adapters (Pfeiffer, Houlsby, parallel), IA3, BitFit in text models: as written out, and the base at first."""

from __future__ import annotations

import pytest
import torch
from small import ADDED, PLAIN, adapted, build, each_family, each_kind, examples, padded, wake
from torch import nn
from written import Written, assert_as_written

from capaboost_vit.core.inject import branches
from capaboost_vit.nlu import adapt

IDENTICAL = ["lora", "lora-d3", "lora-plain", "pfeiffer", "houlsby", "parallel", "ia3", "bitfit"]
IA3 = dict(scaled_inputs=tuple(f"encoder.layer.{i}.output.dense" for i in (0, 1)))


@each_kind("name", ["lora", "lora-d3", "pfeiffer", "houlsby", "parallel", "ia3"])
def test_it_computes_what_is_written_out(family, attention, name):
    assert_as_written(family, attention, name, **(IA3 if name == "ia3" else {}))


@each_family(IDENTICAL)
@torch.no_grad()
def test_at_step_0_it_is_the_base(family, name):
    model, base = adapted(build(family), name), build(family)
    batch = padded(model, examples())
    torch.testing.assert_close(model(**batch).last_hidden_state, base(**batch).last_hidden_state)


@torch.no_grad()
def test_a_parallel_adapter_of_bert_by_hand():
    """`LN(dense(gelu(h)) + x + 4 * up relu(down x))`: fed with the sub-layer's input, added before the norm."""
    model = wake(adapt(build("bert"), "adapter", placement="parallel", scale=4.0, bottleneck=6, **PLAIN))
    layer, base = model.encoder.layer[1], build("bert").encoder.layer[1]
    branch = branches(model)["encoder.layer.1.output.branch"]
    x, h = torch.randn(2, 5, 16), torch.randn(2, 5, 24)
    low = torch.relu(x @ branch.down.weight.T + branch.down_bias)
    delta = 4 * (low @ branch.up.weight.T + branch.up_bias)
    expected = nn.functional.layer_norm(
        base.output.dense(h) + x + delta, (16,), base.output.LayerNorm.weight, base.output.LayerNorm.bias, 1e-12
    )
    torch.testing.assert_close(layer.output(h, x), expected, rtol=1e-5, atol=1e-5)
    behind = base.output(h, x) + delta
    assert (behind - expected).abs().max() > 0.1, "before or behind the norm makes no difference here"


@torch.no_grad()
def test_a_sequential_adapter_stands_before_dropout_and_residual():
    model = wake(adapt(build("bert"), "adapter", placement="sequential", bottleneck=6, **PLAIN))
    base = build("bert").encoder.layer[0].output
    branch = branches(model)["encoder.layer.0.output.dense.branch"]
    x, h = torch.randn(2, 5, 16), torch.randn(2, 5, 24)
    y = base.dense(h)
    y = y + torch.relu(y @ branch.down.weight.T + branch.down_bias) @ branch.up.weight.T + branch.up_bias
    torch.testing.assert_close(model.encoder.layer[0].output(h, x), base.LayerNorm(y + x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_sequential_adapter_and_lora_share_the_slot_of_the_last_linear_layer_in_either_order():
    """Adapters act on what the slot gave before, so the second one stands around the first."""
    adapter = dict(bottleneck=6, placement="sequential")
    lora = dict(rank=4, targets=["mlp_out"])
    for order in (["adapter", "lora"], ["lora", "adapter"]):
        model = build("bert").double()
        for method in order:
            adapt(model, method, **(adapter if method == "adapter" else lora))
        wake(model)
        kinds = tuple({"adapter": "branch", "lora": "branches.all"}[method] for method in order)
        written = Written(build("bert"), branches(model), order=kinds)
        (ids,) = examples((6,))
        torch.testing.assert_close(model(ids[None]).last_hidden_state[0], written(ids)[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_padding_changes_nothing(attention):
    for name in ("lora", "houlsby", "parallel", "ia3"):
        model = wake(adapted(build("bert", attention=attention), name))
        short = model(**padded(model, examples())).last_hidden_state
        long = model(**padded(model, examples(), 15)).last_hidden_state
        for row, ids in enumerate(examples()):
            torch.testing.assert_close(long[row, : len(ids)], short[row, : len(ids)], rtol=1e-5, atol=1e-6)


def test_bitfit_trains_every_bias_and_the_head_and_nothing_else():
    model = adapt(build("bert", "SequenceClassification"), "bitfit")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    biases = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    assert trained == biases | {"classifier.weight"}
    assert not branches(model)


@pytest.mark.parametrize("name", ["lora", "houlsby", "parallel", "ia3"])
def test_adapting_the_same_place_twice_is_refused_also_under_another_method(name):
    model = adapted(build("bert"), name)
    method, options = ADDED[name][0]
    for other in (None, ("ia3", {}), ("lora", dict(targets=["mlp_out"]))):
        if other is not None:
            if other[0] == method:
                continue
            adapt(model, other[0], **other[1])
        state = list(model.state_dict())
        with pytest.raises(ValueError, match="already"):
            adapt(model, method, **options)
        assert list(model.state_dict()) == state
