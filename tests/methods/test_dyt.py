"""DyT: routed tokens against a naive reference, its gate's gradient by hand, its losses, what it saves."""

from __future__ import annotations

import copy
import io
import json
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from vits import vit as made

import capaboost_vit
from capaboost_vit import core
from capaboost_vit.core.dispatcher import TokenDispatcher, complete, dispatchers, realised_rate
from capaboost_vit.methods import Pass, make_method
from capaboost_vit.run import train
from capaboost_vit.vision.dispatched_block import DispatchedBlock

X = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def vit(**options):
    return made(**{"img_size": 16, "depth": 3, **options})


def awake(model, std=0.3):
    """Gates and adapters that do something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for block in (m for m in model.modules() if isinstance(m, DispatchedBlock)):
            for parameter in block.added_parameters():
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model


def dyt(depth=3, **options):
    return awake(capaboost_vit.adapt(vit(depth=depth), "dyt", bottleneck=4, **options)).double().eval()


def masks(model, x=X):
    """M of each block (B, N), by the hook of nobody: the blocks one by one."""
    found = []
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    for block in model.blocks:
        base = block.base
        behind = tokens + base.attn(base.norm1(tokens))
        gate = block.gates["mlp"]
        mask = behind @ gate.weight + gate.bias > 0
        mask[:, 0] = True
        found.append(mask)
        tokens = block(tokens)
    return found


def naive(model, x=X):
    """The definition, token by token."""
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    for block in model.blocks:
        base, gate, adapter = block.base, block.gates["mlp"], block.adapter
        tokens = tokens + base.attn(base.norm1(tokens))
        rows = []
        for example in tokens:
            for place, token in enumerate(example):
                hidden = torch.relu(adapter.down.weight @ token + adapter.down_bias)
                y = token + adapter.scaling * (adapter.up.weight @ hidden + adapter.up_bias)
                if place == 0 or gate.weight @ token + gate.bias > 0:
                    y = y + base.mlp(base.norm2(token))
                rows.append(y)
        tokens = torch.stack(rows).view_as(tokens)
    return model.forward_head(model.norm(tokens))


def test_gathered_masked_and_naive_are_the_same():
    model = dyt(scale=0.7)
    with torch.no_grad():
        gathered = model(X)
    torch.testing.assert_close(gathered, naive(model), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gathered, model(X), rtol=1e-10, atol=1e-12)  # masked, as gradients are wanted
    chosen = torch.stack(masks(model))[..., 1:].double().mean()
    assert 0.1 < chosen < 0.9
    for size in (1, 2):
        with torch.no_grad():
            torch.testing.assert_close(model(X[:size]), gathered[:size], rtol=1e-10, atol=1e-12)


def naive_of_one(model, image, dispatch):
    """The other forms for one image: what is selected is cut out, computed, and put back."""
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(image[None]))))[0]
    for block in model.blocks:
        base, gates, adapter = block.base, block.gates, block.adapter

        def chosen(name, tokens, gates=gates):
            if name not in gates:
                return torch.arange(len(tokens))
            hard = tokens @ gates[name].weight + gates[name].bias > 0
            hard[0] = True
            return hard.nonzero()[:, 0]

        def added(tokens, adapter=adapter):
            hidden = torch.relu(tokens @ adapter.down.weight.T + adapter.down_bias)
            return adapter.scaling * (hidden @ adapter.up.weight.T + adapter.up_bias)

        if dispatch == "layer":
            rows, y = chosen("layer", tokens), tokens.clone()
            y[rows] = base(tokens[rows][None])[0]
            tokens = y + added(tokens)
            continue
        rows, x = chosen("attn", tokens), tokens.clone()
        x[rows] = tokens[rows] + base.attn(base.norm1(tokens[rows][None]))[0]
        rows, y = chosen("mlp", x), x.clone()
        y[rows] = x[rows] + base.mlp(base.norm2(x[rows]))
        tokens = y + added(x)
    return model.forward_head(model.norm(tokens[None]))[0]


@pytest.mark.parametrize("dispatch", ["mlp", "attn", "attn-mlp", "layer"])
def test_other_forms_of_dispatch_are_their_definition_gathered_or_masked(dispatch):
    model = dyt(dispatch=dispatch, sampled=False)
    assert [*model.blocks[0].gates] == dispatch.split("-")
    with torch.no_grad(), realised_rate(model) as rate:
        expected = torch.stack([naive_of_one(model, image, dispatch) for image in X])
        torch.testing.assert_close(model(X), expected, rtol=1e-10, atol=1e-12)
        assert 0.1 < float(rate) < 0.9
    torch.testing.assert_close(model(X), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.train()(X), expected, rtol=1e-10, atol=1e-12)
    fixed = dyt(dispatch=dispatch, capacity=0.5)
    with torch.no_grad():
        gathered = fixed(X)
    torch.testing.assert_close(gathered, fixed(X), rtol=1e-10, atol=1e-12)


def test_attention_sees_the_selected_tokens_alone():
    model, seen = dyt(dispatch="layer"), []
    model.blocks[0].base.attn.qkv.register_forward_hook(lambda m, inputs, y: seen.append(inputs[0].shape))
    with torch.no_grad(), realised_rate(model):
        model(X)
        hard = masks_of_first(model)
    assert seen == [(3, int(hard.sum(1).max()), 16)]


def masks_of_first(model):
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(X))))
    gate = model.blocks[0].gates["layer"]
    return gate.selected(gate.logits(tokens))


@pytest.mark.parametrize("bias", [-1e9, 1e9])
def test_gates_that_are_all_shut_or_open(bias):
    model = dyt()
    for gate in dispatchers(model):
        gate.bias.data.fill_(bias)
    with torch.no_grad(), realised_rate(model) as rate:
        torch.testing.assert_close(model(X), naive(model), rtol=1e-10, atol=1e-12)
        assert float(rate) == (bias > 0)
    if bias > 0:
        with complete(model):
            expected = model(X)
        assert torch.equal(model.train()(X), expected)  # whatever is drawn


def test_with_no_token_at_all_the_mlp_sees_none():
    gate = TokenDispatcher(8)
    gate.bias.data.fill_(-1e9)
    block = timm.models.vision_transformer.Block(8, 2)
    wrapper = DispatchedBlock(block, {"mlp": gate}, core.LowRankBranch(8, 8, 2, act="relu", bias=True)).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(wrapper(x), x + block.attn(block.norm1(x)))


def test_the_complete_model_is_the_base_at_step_0_bit_for_bit():
    model = capaboost_vit.adapt(vit(), "dyt").double().eval()
    base = vit().double().eval()
    with complete(model):
        assert torch.equal(model(X), base(X))
    assert not torch.allclose(model(X), base(X))


def test_noise_comes_from_the_global_stream_and_the_complete_pass_draws_none():
    model = dyt().train()
    torch.manual_seed(3)
    first = model(X)
    torch.manual_seed(3)
    assert torch.equal(model(X), first)
    assert not torch.equal(model(X), first)
    state = torch.get_rng_state()
    with complete(model):
        model(X)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_losses_are_those_of_the_definition():
    method = make_method("dyt", rate=0.3, rate_weight=1.5, complete_weight=0.8, kl_weight=0.6)
    model = dyt().train()
    forward = Pass(model, lambda y, t: F.cross_entropy(y, t, reduction="sum"), model)
    targets = torch.tensor([0, 2, 1])
    outputs = model(X)
    drawn = [gate.mask.clone() for gate in dispatchers(model)]
    assert [mask.shape for mask in drawn] == [(3, 4)] * len(model.blocks)
    value = method.losses(forward, X, outputs, targets)
    with complete(model):
        full = model(X).detach()
    p, q = full.softmax(-1), outputs.softmax(-1)
    kl = (p * (p / q).log()).sum()
    rate = torch.cat([mask.flatten() for mask in drawn]).mean()
    expected = 3 * 1.5 * (rate - 0.3) ** 2 + 0.8 * F.cross_entropy(full, targets, reduction="sum") + 0.6 * kl
    torch.testing.assert_close(value, expected.double(), rtol=1e-5, atol=1e-6)
    # nothing reaches the complete pass by the KL term, and the gates by the rate
    weights = [p for p in model.parameters() if p.requires_grad]
    of_kl = make_method("dyt", rate_weight=0.0, complete_weight=0.0).losses(forward, X, outputs.detach(), targets)
    assert all(g is None or not g.any() for g in torch.autograd.grad(of_kl, weights, allow_unused=True))
    only_rate = make_method("dyt", complete_weight=0.0, kl_weight=0.0)
    outputs = model(X)
    calls = Pass(model, forward.loss, model)
    gates = [gate.bias for gate in dispatchers(model)]
    assert all(g.any() for g in torch.autograd.grad(only_rate.losses(calls, None, outputs, targets), gates))


def test_the_task_gives_the_gate_of_the_last_block_no_gradient():
    model = dyt().train()
    gates = [gate.weight for gate in dispatchers(model)]
    *others, last = torch.autograd.grad(model(X).square().sum(), gates)
    assert not last.any()
    assert all(g.any() for g in others)


def count_mlp(model):
    """Tokens that reach each MLP."""
    seen = []

    def note(module, inputs, output):
        seen.append(inputs[0].shape[:-1].numel())

    handles = [core.unwrap(block.base.mlp).fc2.register_forward_hook(note) for block in model.blocks]
    with torch.no_grad():
        model(X)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("capacity", [None, 0.5])
def test_the_mlp_sees_the_tokens_of_the_formula(capacity):
    model = dyt(capacity=capacity)
    with torch.no_grad(), realised_rate(model) as rate:
        model(X)
        by_gate = rate.by_gate()
    if capacity is None:
        expected = [3 + round(12 * share) for share in by_gate]
        assert expected == [int(mask.sum()) for mask in masks(model)]
    else:
        expected = [3 * (1 + 2)] * len(by_gate)
    assert count_mlp(model) == expected


def test_a_fixed_capacity_gathers_the_same_numbers():
    model = dyt(capacity=0.5)
    with torch.no_grad():
        gathered = model(X)
    torch.testing.assert_close(gathered, model(X), rtol=1e-10, atol=1e-12)
    whole, unlimited = dyt(capacity=1.0), dyt()
    with torch.no_grad():
        torch.testing.assert_close(whole(X), unlimited(X), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("dispatch", "capacity"), [("mlp", None), ("mlp", 0.5), ("attn-mlp", None), ("layer", 0.5)])
def test_it_is_exported_and_compiled_in_one_graph(dispatch, capacity):
    model = dyt(dispatch=dispatch, capacity=capacity, depth=2)
    with torch.no_grad():
        expected = model(X)
        exported = torch.export.export(model, (X,), strict=False).module()
        torch.testing.assert_close(exported(X), expected, rtol=1e-10, atol=1e-12)
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(X), expected, rtol=1e-10, atol=1e-12)


def test_a_mask_that_was_drawn_is_in_no_copy_and_no_file():
    model = dyt().train()
    model(X)
    assert all(gate.mask is not None for gate in dispatchers(model))
    assert all(gate.mask is None for gate in dispatchers(copy.deepcopy(model)))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert not any("mask" in key for key in model.state_dict() if "gates" in key)


def test_without_noise_training_computes_what_evaluation_does():
    model = dyt(sampled=False)
    assert torch.equal(model.train()(X), model.eval()(X))


def test_refusals_say_what_to_do():
    with pytest.raises(
        ValueError, match="no token dispatch is known for Eva: dyt takes ViTs of timm with plain blocks"
    ):
        capaboost_vit.adapt(timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1), "dyt")
    with pytest.raises(TypeError, match=r"token dispatch needs timm's plain Block, got Prompted of .*: leave it out"):
        capaboost_vit.adapt(capaboost_vit.adapt(vit(), "prompt"), "dyt")
    with pytest.raises(ValueError, match="dispatch='layer' needs a token that takes part in every attention, and this"):
        capaboost_vit.adapt(vit(class_token=False, global_pool="avg"), "dyt", dispatch="layer")
    with pytest.raises(ValueError, match="dispatch of attention takes no attention mask"):
        dyt(dispatch="attn")(X, attn_mask=torch.ones(5, 5, dtype=torch.bool))
    model = dyt()
    with pytest.raises(capaboost_vit.NoShortCut, match="trains the rate of all tokens, in the last block too"):
        capaboost_vit.logits_only(model)
    with pytest.raises(capaboost_vit.CannotMerge, match="which tokens are dispatched depends on the input"):
        capaboost_vit.merge(model)
    job = SimpleNamespace(config=SimpleNamespace(grad_checkpointing=True), objective=SimpleNamespace(confusion=False))
    with pytest.raises(ValueError, match="cannot tell the two passes of dyt apart: train without --grad-checkpointing"):
        make_method("dyt").stages(job)
    job.config.grad_checkpointing = False
    with pytest.raises(
        ValueError, match=r"the KL term of dyt is of classes, and these are none: say --method\.kl-weight 0"
    ):
        make_method("dyt").stages(job)
    assert make_method("dyt", kl_weight=0.0).stages(job) == ()


def test_models_without_a_class_token_and_with_registers():
    model = vit(class_token=False, global_pool="avg")
    assert {gate.always for gate in dispatchers(capaboost_vit.adapt(model, "dyt"))} == {0}
    model = vit(reg_tokens=3)
    assert {gate.always for gate in dispatchers(capaboost_vit.adapt(model, "dyt"))} == {4}


def test_a_run_moves_its_rate_and_reports_what_is_realised(configure, tmp_path, without_pictures):
    method = {"name": "dyt", "bottleneck": 4, "rate": 1.0, "rate_weight": 50.0}
    options = {"model": "vit_tiny_patch16_224", "method": method, "output": str(tmp_path / "run")}
    result = train(configure(**options, epochs=2, lr=0.02))
    table = [row.split(",") for row in (tmp_path / "run/summary.csv").read_text().splitlines()]
    assert float(table[-1][table[0].index("val_rate")]) == pytest.approx(result["val_rate"])
    assert 0.75 < result["test_rate"] <= 1


def test_recomputed_blocks_are_refused_before_a_run_begins(configure, tmp_path):
    options = {"model": "vit_tiny_patch16_224", "method": {"name": "dyt"}, "output": str(tmp_path / "run")}
    with pytest.raises(ValueError, match="train without --grad-checkpointing"):
        train(configure(**options, grad_checkpointing=True))


def macs(model):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(X)
    return counter.get_total_flops() // 2


def test_the_multiply_adds_that_are_saved_are_those_of_the_formula():
    model = dyt()
    with torch.no_grad(), realised_rate(model) as rate:
        model(X)
        seen, all_patches = rate.counts()
    found = macs(model)
    with complete(model):
        whole = macs(model)
    gates = 3 * 5 * 16 * 3  # images, tokens, width, blocks
    assert whole + gates - found == (all_patches - seen) * 8 * 16**2


def test_tokens_are_gathered_beside_lora_and_masked_beside_what_looks_at_all_of_them():
    model = awake(capaboost_vit.adapt(capaboost_vit.adapt(vit(), "lora", targets=("mlp_in", "query")), "dyt"))
    model = model.double().eval()
    for branch in (m for m in model.modules() if isinstance(m, core.LowRankBranch)):
        branch.up.weight.data.normal_(std=0.3)
    assert sum(count_mlp(model)) < 3 * 15
    with torch.no_grad():
        gathered = model(X)
    torch.testing.assert_close(gathered, model(X), rtol=1e-10, atol=1e-12)
    model = capaboost_vit.adapt(vit(), "unipelt", parts=("lora", "adapter"), bottleneck=4)
    model = awake(capaboost_vit.adapt(model, "dyt")).double().eval()
    assert count_mlp(model) == [3 * 5] * 3


def test_under_autocast_the_mask_is_exact():
    model = capaboost_vit.adapt(vit(), "dyt").train()
    with torch.autocast("cpu", torch.bfloat16):
        model(X.float()).square().sum().backward()
    for gate in dispatchers(model):
        assert set(gate.mask.flatten().tolist()) <= {0.0, 1.0}
        assert gate.weight.grad is not None


@pytest.mark.slow
def test_a_compiled_model_has_the_losses_of_the_plain_one():
    model, method, targets = dyt(sampled=False).train(), make_method("dyt"), torch.tensor([0, 2, 1])
    torch.compiler.reset()
    weights, found = [p for p in model.parameters() if p.requires_grad], []
    for network in (model, torch.compile(model, backend="aot_eager")):
        forward = Pass(model, lambda y, t: F.cross_entropy(y, t, reduction="sum"), network)
        value = method.losses(forward, X, network(X), targets)
        found.append((value.detach(), *torch.autograd.grad(value, weights, allow_unused=True)))
    torch.testing.assert_close(*found)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(configure, tmp_path, ready, without_pictures):
    method = {"name": "dyt", "bottleneck": 4, "sampled": False, "rate_weight": 0.0}
    options = {"model": "vit_tiny_patch16_224", "method": method, "max_steps": 2, "drop_path": 0.0}
    train(configure(**options, output=str(tmp_path / "one")))
    command = ["train", "--config", str(tmp_path / "one/config.yaml"), "--output", str(tmp_path / "two")]
    code = "import sys; from capaboost_vit.cli import main; sys.exit(main(sys.argv[1:]))"
    done = ready.run(["python", "-c", code, *command], ranks=2)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / run / "adapter.safetensors") for run in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in ("one", "two")]
    assert results[0]["test_rate"] == pytest.approx(results[1]["test_rate"], abs=0.1)
