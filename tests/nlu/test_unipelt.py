"""UniPELT: every gate by hand, over the real tokens alone; compositions, copies, masks; parameters to the digit."""

from __future__ import annotations

import pytest
import torch
import transformers
from small import ADDED, KINDS, LITTLE, MASKED, adapted, build, each_kind, examples, padded, wake
from written import Written, assert_as_written

from capaboost_vit.core.gate import Gate
from capaboost_vit.core.inject import branches
from capaboost_vit.methods.apply import fold
from capaboost_vit.nlu import adapt

NAMES = [name for name in ADDED if name.startswith("unipelt")]


@each_kind("name", NAMES)
def test_it_computes_what_is_written_out(family, attention, name):
    assert_as_written(family, attention, name)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["lora"], {"query.branches.all", "value.branches.all"}),
        (["prefix"], {"tokens"}),
        (["adapter"], {"output.dense.branch"}),
        (["ia3"], {"key.scales.all", "value.scales.all", "intermediate.scales.all"}),
    ],
)
def test_each_part_stands_where_it_belongs_with_a_gate_of_the_width_of_what_it_is_fed_with(parts, expected):
    model = adapt(build("bert"), "unipelt", **LITTLE, parts=parts)
    found = {name: branch for name, branch in branches(model).items() if ".0." in name}
    assert {name.removeprefix("encoder.layer.0.").removeprefix("attention.self.") for name in found} == expected
    assert all(branch.gate.weight.shape == (16,) and branch.gate.bias.shape == (1,) for branch in found.values())
    assert len({id(branch.gate.padding) for branch in branches(model).values()}) == 1


@pytest.mark.parametrize("rank", [2, 8])
def test_the_gates_of_lora_stand_for_alpha_by_rank(rank):
    model = adapt(build("bert"), "unipelt", parts=["lora", "adapter"], rank=rank)
    assert {branch.scaling for branch in branches(model).values()} == {1.0}


def test_a_prompt_has_no_gate_and_every_other_part_has():
    model = adapted(build("bert"), "unipelt-all")
    assert {name for name, branch in branches(model).items() if branch.gate is None} == {
        "encoder.tokens",
        "encoder.tokens_2",
    }


def test_gates_start_near_a_half_each_from_numbers_of_its_own():
    model = adapted(build("bert"), "unipelt-3")
    gates = [branch.gate for branch in branches(model).values()]
    assert len(gates) == 3 * 2 * 4
    assert len({tuple(gate.weight.tolist()) for gate in gates}) == len(gates)
    assert all(gate.bias.item() == 0 for gate in gates)
    assert 0.015 < torch.cat([gate.weight for gate in gates]).std() < 0.025
    again, other = adapted(build("bert"), "unipelt-3"), adapt(build("bert"), "unipelt", **LITTLE, init_seed=1)
    name = "encoder.layer.0.output.dense.branch"
    assert torch.equal(branches(again)[name].gate.weight, branches(model)[name].gate.weight)
    assert not torch.equal(branches(other)[name].gate.weight, branches(model)[name].gate.weight)


@pytest.mark.parametrize(("family", "attention"), [("bert", "eager"), ("bert", "sdpa"), ("deberta-v3", "eager")])
@pytest.mark.parametrize("name", ["unipelt", "unipelt-prompt", "unipelt-3"])
@torch.no_grad()
def test_a_gate_is_the_mean_over_the_real_tokens_and_the_prompt(family, attention, name):
    model = wake(adapted(build(family, attention=attention), name))
    seen = []
    for gate in (module for module in model.modules() if isinstance(module, Gate)):
        gate.register_forward_hook(lambda gate, args, g: seen.append((gate, args[0], g)))
    batch = padded(model, examples(), 9)
    model(**batch)
    front = 2 if name == "unipelt-prompt" else 0
    checked = 0
    for gate, x, g in seen:
        if len(x) == 1:  # DeBERTa's table of positions
            expected = torch.sigmoid(x[0] @ gate.weight + gate.bias).mean()
            torch.testing.assert_close(g.flatten(), expected.expand(1), rtol=1e-5, atol=1e-6)
            continue
        assert x.shape[1] == 9 + front
        for row, ids in enumerate(examples()):
            real = x[row, : front + len(ids)]
            expected = torch.sigmoid(real @ gate.weight + gate.bias).mean()
            torch.testing.assert_close(g[row].flatten(), expected.expand(1), rtol=1e-5, atol=1e-6)
            all_positions = torch.sigmoid(x[row] @ gate.weight + gate.bias).mean()
            checked += bool((all_positions - expected).abs() > 1e-3)
    assert checked > 10, "padding makes no difference here"


@pytest.mark.parametrize(("family", "attention"), KINDS)
@pytest.mark.parametrize("name", ["unipelt-masked", "unipelt-all"])
@torch.no_grad()
def test_an_example_alone_and_in_a_padded_batch_gives_the_same(family, attention, name):
    model = wake(adapted(build(family, attention=attention), name))
    batches = [model(**padded(model, examples(), length)).last_hidden_state for length in (7, 15)]
    for row, ids in enumerate(examples()):
        alone = model(input_ids=ids[None]).last_hidden_state[0]
        for batch in batches:
            torch.testing.assert_close(batch[row, : len(ids)], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [7, 8, 9])
@torch.no_grad()
def test_a_single_padded_example_as_long_as_the_table_of_positions_is_no_table(length):
    """DeBERTa's table has 8 rows here, and enters the projections of the words as a batch of one."""
    model = wake(adapted(build("deberta-v3"), "unipelt"))
    (ids,) = examples((5,))
    alone = model(input_ids=ids[None]).last_hidden_state
    found = model(**padded(model, [ids], length)).last_hidden_state[:, :5]
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_left_padding_has_no_part_in_a_gate():
    model = wake(adapted(build("deberta-v3"), "unipelt-masked"))
    right = model(**padded(model, examples(), 9)).last_hidden_state
    left = model(**padded(model, examples(), 9, left=True)).last_hidden_state
    for row, ids in enumerate(examples()):
        torch.testing.assert_close(left[row, -len(ids) :], right[row, : len(ids)], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_example_of_nothing_but_padding_harms_nobody():
    model = wake(adapted(build("bert"), "unipelt"))
    batch = padded(model, examples())
    expected = model(**batch).last_hidden_state
    batch["attention_mask"][2] = 0
    found = model(**batch).last_hidden_state
    torch.testing.assert_close(found[:2], expected[:2])
    assert found.isfinite().all()


@pytest.mark.parametrize("parts", [["lora", "adapter"], ["ia3"], ["lora", "adapter", "ia3"]])
@pytest.mark.parametrize("family", ["bert", "deberta-v3"])
@torch.no_grad()
def test_without_tokens_it_is_the_base_at_step_0(family, parts):
    model, base = adapt(build(family), "unipelt", parts=parts, copies=2), build(family)
    batch = padded(model, examples())
    torch.testing.assert_close(model(**batch).last_hidden_state, base(**batch).last_hidden_state, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_lengths_of_zero_are_the_base():
    for family in ("bert", "deberta-v2"):
        parts = ["prefix", "prompt"]
        model = adapt(build(family), "unipelt", parts=parts, prefix_length=0, prompt_length=0)
        batch = padded(model, examples())
        expected = build(family)(**batch).last_hidden_state
        torch.testing.assert_close(model(**batch).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_second_call_is_a_second_copy():
    for family in ("bert", "deberta-v3"):
        once = wake(adapt(build(family), "unipelt", **LITTLE, **MASKED, copies=2))
        twice = adapt(build(family), "unipelt", **LITTLE, **MASKED)
        wake(adapt(twice, "unipelt", **LITTLE, **MASKED, mask_seed=1, init_seed=1))
        assert branches(once).keys() == branches(twice).keys()
        batch = padded(once, examples())
        torch.testing.assert_close(once(**batch).last_hidden_state, twice(**batch).last_hidden_state)


@torch.no_grad()
def test_one_branch_at_density_1_has_no_masks_and_two_at_a_half_have_them_in_lora_adapter_and_mlp():
    plain, masked = adapted(build("bert"), "unipelt"), adapted(build("bert"), "unipelt-masked")
    assert not [name for name in plain.state_dict() if name.endswith(".mask")]
    names = {name.removesuffix(".mask") for name in masked.state_dict() if name.endswith(".mask")}
    assert {name.rpartition(".")[2] for name in names} == {"up", "down"}
    assert any(".mlp." in name for name in names)
    assert any(".branches." in name for name in names)
    assert any(".branch." in name for name in names)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            dict(parts=["lora", "adaptor"]),
            "parts of method 'unipelt' must be lora, .* or prompt, got 'adaptor'",
        ),
        (dict(parts=[]), "unipelt has the parts .*, got none"),
        (dict(copies=0), "copies of method 'unipelt' must be at least 1, got 0"),
        (dict(prefix_length=-1), "must be at least 0"),
        (dict(pattern="2:4", num_branches=2, density=None, bottleneck=6), "divisible by 4"),
    ],
)
def test_what_is_refused_leaves_the_model_as_it_was(options, text):
    model, base = build("bert"), build("bert")
    with pytest.raises(ValueError, match=text):
        adapt(model, "unipelt", **options)
    assert list(model.state_dict()) == list(base.state_dict())
    assert not hasattr(model, "capaboost")
    assert all(p.requires_grad for p in model.parameters())


def test_a_refused_second_method_leaves_the_first():
    model = wake(adapted(build("bert"), "unipelt"))
    batch = padded(model, examples())
    state, expected = list(model.state_dict()), model(**batch).last_hidden_state
    with pytest.raises(ValueError, match="divisible by 4"):
        adapt(model, "unipelt", pattern="2:4", num_branches=2, density=None, bottleneck=6)
    assert list(model.state_dict()) == state
    assert torch.equal(model(**batch).last_hidden_state, expected)


# parameters on the configuration of roberta-base


def roberta_base(**options):
    config = transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        model = transformers.RobertaModel(config)
    assert sum(p.numel() for p in model.parameters()) == 124_645_632
    return adapt(model, "unipelt", **options)


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(), 11_083_376),
        (dict(parts=["lora", "prefix", "adapter", "prompt"]), 11_091_056),
        (dict(parts=["ia3", "prefix", "adapter"]), 10_852_988),
        (dict(parts=["prefix"]), 9_857_024 + 12 * 769),
        (dict(parts=["adapter"]), 894_528 + 12 * 769),
        (dict(parts=["lora"]), 294_912 + 24 * 769),
        (dict(num_branches=2, density=0.5), 11_083_376),
        (dict(copies=3), 33_250_128),
    ],
)
def test_parameters_on_roberta_base_are_the_published_ones(options, expected):
    assert trained(roberta_base(**options)) == expected


def test_the_folded_prefix_on_roberta_base_is_184320_values():
    model = fold(roberta_base(parts=["prefix"]))
    assert trained(model) == 184_320 + 12 * 769
    assert sum(tokens.table.weight.numel() for tokens in branches(model).values()) == 184_320


@torch.no_grad()
def test_what_is_written_out_without_its_gates_is_another_model():
    """The oracle itself: it fails where a gate, a mask or a part is forgotten."""
    model = wake(adapted(build("bert").double(), "unipelt-masked"))
    (ids,) = examples((6,))
    expected = Written(build("bert").double(), branches(model))(ids)[-1]
    found = model(input_ids=ids[None]).last_hidden_state[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for branch in branches(model).values():
        branch.gate = None
    assert (model(input_ids=ids[None]).last_hidden_state[0] - expected).abs().max() > 1e-2
