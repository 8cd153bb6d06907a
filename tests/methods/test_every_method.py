"""What every registered method promises: one test for each promise, over the registry, which a new one gets for free.

`reflection` is there as a method that comes from outside of the package.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
from pathlib import Path

import pytest
import reflection
import texts
import timm
import torch
from oracle import backward_flops
from safetensors.torch import load_file, save_file

import capaboost_vit
from capaboost_vit import METHODS, nlu
from capaboost_vit.core.inject import branches, wrappers
from capaboost_vit.core.merge import unmergeable
from capaboost_vit.core.names import namer
from capaboost_vit.run import train

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "img_size": 16, "num_classes": 3}
X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
# small values of options that several methods have, so that a new method needs no line here
SMALL = {"rank": 2, "bottleneck": 4, "prefix_length": 3, "prompt_length": 3, "prefix_bottleneck": 4}
SMALL |= {"skip_num": 1}  # runs here have models of one block
# where a method does not fit every timm model, or no text encoder, at its defaults
IMAGES = {"unipelt": {"parts": ("lora", "adapter")}}
# passes in training are compared: nothing is drawn
NOT_DRAWN = {"dyt": {"sampled": False}, "e2vpt": {"dropout": 0.0}}
# what the loss of the logits does not move: the mask of tokens that the head does not read
UNMOVED = {"dyt": ("blocks.2.gates.mlp.bias",)}
NO_TEXTS = {
    "dyt": "no token dispatch is known for BertForSequenceClassification",
    "das": "no skipping of blocks is known for BertForSequenceClassification",
}
TEXTS = {"ssf": {"targets": ("query", "key", "value", "attn_out", "mlp_in", "mlp_out", "norm")}}
# other paths through a method than its defaults take
MORE = [("prefix", {"bottleneck": 4, "shared": True}), ("prompt", {"deep": False}), ("lora", {"freeze_down": True})]
MORE += [
    ("lora", {"coefficients": "rank", "pattern": "sign", "share_blocks": 2}),
    ("adapter", {"coefficients": "branch"}),
    ("e2vpt", {"pruned_tokens": 0.5, "pruned_segments": 0.5}),
    ("deep_lora", {"compress": True}),
]
CASES = [(name, {}) for name in METHODS] + MORE
every_method = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=["-".join([name, *options]) for name, options in CASES]
)


def small(name, **options):
    fields = METHODS[name].__dataclass_fields__
    return {**{option: value for option, value in SMALL.items() if option in fields}, **options}


def with_biases(model):
    """Biases that are not zero, as those of pretrained models are."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.05)
    return model.eval()


def plain():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **TINY)
    with torch.no_grad():
        model.head.weight.normal_(std=0.3)  # timm's starts at zero
    return with_biases(model)


def adapted(name, **options):
    options = {**IMAGES.get(name, {}), **NOT_DRAWN.get(name, {}), **small(name, **options)}
    return capaboost_vit.adapt(plain(), name, **options)


def trained_a_little(model, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    return model.eval()


@every_method
def test_step_0_is_the_base_where_the_method_says_so(name, options):
    close = torch.allclose(adapted(name, **options)(X), plain()(X), rtol=0, atol=1e-5)
    assert close == METHODS[name].starts_as_base


@every_method
def test_every_trained_parameter_moves_and_nothing_else_does(name, options):
    model = adapted(name, **options).train()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    trained_a_little(model)
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    expected = {key for key, p in model.named_parameters() if p.requires_grad and p.numel()}
    assert moved == expected - set(UNMOVED.get(name, ()))
    assert moved


@every_method
def test_all_that_a_wrapper_adds_is_trained_unless_it_says_otherwise(name, options):
    model = adapted(name, **options)
    for slot, wrapper in wrappers(model):
        trained = {id(p) for p in wrapper.trained()}
        assert trained <= {id(p) for p in wrapper.added_parameters()}, slot
        assert all(p.requires_grad == (id(p) in trained) for p in wrapper.added_parameters()), slot


@every_method
def test_copies_are_equal_independent_and_tied_as_the_original(name, options):
    model = trained_a_little(adapted(name, **options))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(X), model(X))
        assert len(list(twin.parameters())) == len(list(model.parameters()))  # each shared one once
        before = model(X)
        trained_a_little(twin.train(), steps=1)
        assert torch.equal(model(X), before)


@every_method
def test_a_file_has_each_tensor_once_and_loads_into_a_plain_model(name, options, tmp_path):
    model = trained_a_little(adapted(name, **options))
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    stored = load_file(path)
    state = [tensor for _, wrapper in wrappers(model) for tensor in wrapper.added_state().values()]
    added = {id(tensor): tensor.numel() for tensor in state if tensor.is_floating_point()}
    if not METHODS[name].trains_all and not list(capaboost_vit.make_method(name).base_parameters(model)):
        head = sum(p.numel() for p in model.head.parameters())
        assert sum(t.numel() for t in stored.values() if t.is_floating_point()) == sum(added.values()) + head
    for fresh in (plain(), adapted(name, **options)):
        loaded = capaboost_vit.load_adapter(fresh, path).eval()
        torch.testing.assert_close(loaded(X), model(X))
        assert len(list(loaded.parameters())) == len(list(model.parameters()))
        trained_a_little(loaded.train(), steps=1)  # what was shared is shared again: one step moves it everywhere


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_beside_a_low_precision_base_branches_and_head_are_float32_unless_told_otherwise(
    name, options, dtype, tmp_path
):
    def low(**further):
        model = plain().to(dtype)
        return capaboost_vit.adapt(model, name, **{**IMAGES.get(name, {}), **small(name, **options), **further})

    model, x = low(), X.to(dtype)
    base = {id(p) for p in capaboost_vit.make_method(name).base_parameters(model)}
    base |= {id(p) for p in model.parameters()} if METHODS[name].trains_all else set()
    trained_head = METHODS[name].trains_head and not METHODS[name].trains_all
    head = {id(p) for p in model.head.parameters()} if trained_head else set()
    wide = [key for key, p in model.named_parameters() if p.requires_grad and id(p) not in base - head]
    parameters = dict(model.named_parameters())
    assert {parameters[key].dtype for key in wide} <= {torch.float32}
    added = {id(p) for _, wrapper in wrappers(model) for p in wrapper.added_parameters()}
    assert {p.dtype for p in model.parameters() if not p.requires_grad and id(p) not in added} <= {dtype}
    close = {"rtol": 0.02, "atol": 0.05}
    if METHODS[name].starts_as_base:
        torch.testing.assert_close(model(x), plain().to(dtype)(x), **close)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = torch.optim.AdamW([parameters[key] for key in wide] or [torch.zeros(1)], lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        y = model(x)
        assert y.dtype == dtype
        scaler.scale(y.float().square().mean()).backward()
        if wide:  # an AssertionError of the scaler's where it has seen no gradient, and no float16 is taken
            scaler.step(optimizer)
            scaler.update()
    expected = model.eval()(x).detach()
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    stored = load_file(path)
    canonical = namer(model)
    assert {stored[canonical(key)].dtype for key in wide if parameters[key].numel()} <= {torch.float32}
    torch.testing.assert_close(capaboost_vit.load_adapter(plain().to(dtype), path)(x), expected, rtol=0, atol=0)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    if not unmergeable(model):
        merged = capaboost_vit.merge(model)
        assert {p.dtype for p in merged.parameters()} == {dtype}
        torch.testing.assert_close(merged(x), expected, **close)
    narrow = low(autocast_adapter_dtype=False)
    assert {p.dtype for p in narrow.parameters()} == {dtype}
    assert narrow(x).dtype == dtype


@every_method
def test_it_merges_into_a_plain_model_or_says_why_not(name, options):
    model = trained_a_little(adapted(name, **options))
    if refusals := unmergeable(model):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(capaboost_vit.CannotMerge, match=next(iter(refusals))):
            capaboost_vit.merge(model, inplace=True)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        return
    merged = capaboost_vit.merge(model)
    assert not list(wrappers(merged))
    torch.testing.assert_close(merged(X), model(X), rtol=0, atol=2e-5)
    fresh = plain()
    fresh.load_state_dict(merged.state_dict())
    torch.testing.assert_close(fresh(X), model(X), rtol=0, atol=2e-5)


@every_method
def test_folding_changes_no_output_and_the_file_says_it(name, options, tmp_path):
    model = trained_a_little(adapted(name, **options))
    expected = model(X).detach()
    capaboost_vit.fold(model)
    torch.testing.assert_close(model(X), expected)
    path = capaboost_vit.save_adapter(model, tmp_path / "adapter.safetensors")
    torch.testing.assert_close(capaboost_vit.load_adapter(plain(), path).eval()(X), expected)


@every_method
def test_the_summary_counts_each_parameter_once(name, options):
    model = adapted(name, **options)
    summary = capaboost_vit.summary(model, flops=False, verbose=False)
    base = {id(p) for p in capaboost_vit.make_method(name).base_parameters(model)}
    rest = 0 if METHODS[name].trains_all else sum(p.numel() for p in model.parameters() if id(p) in base)
    counted = sum(counts.trained for counts in summary.roles.values())
    if METHODS[name].trains_all:
        assert summary.trained == summary.total
    elif rest == 0:
        assert counted == summary.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert not any("." in role for role in summary.roles if role.startswith("blocks"))  # a role, not a place


# gradients


def in_the_last_block(model, adapt, name, options):
    """Adapted in its last block and head alone: by targets where the method has them, else all the rest is frozen."""
    adapted = adapt(copy.deepcopy(model), name, **options)
    numbers = [part for key, _ in model.named_parameters() for part in key.split(".") if part.isdigit()]
    last = f".{max(numbers, key=int)}."
    if "targets" in METHODS[name].__dataclass_fields__:
        places = {slot: None for slot, _ in wrappers(adapted) if last in f"{slot}."}
        others = {"inputs": ()} if name == "ia3" else {}
        return adapt(model, name, **{**options, **others, "targets": tuple(places)})
    for key, parameter in adapted.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and (last in key or key.startswith(("head.", "classifier."))))
    return adapted


@pytest.mark.parametrize("recomputed", [False, True])
@every_method
def test_the_backward_pass_ends_at_the_first_trained_place(name, options, recomputed):
    """Below it there are two blocks, or none: the products that are computed are the same."""
    flops = []
    for depth in (1, 3):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **{**TINY, "depth": depth})
        model = in_the_last_block(model, capaboost_vit.adapt, name, {**IMAGES.get(name, {}), **small(name, **options)})
        model.set_grad_checkpointing(recomputed)
        flops.append(backward_flops(model.train()(X)))
    assert flops[0] == flops[1] > 0


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if case[0] not in ("prompt", *NO_TEXTS)], ids=str
)  # prompts stand in front of all
def test_the_backward_pass_of_a_text_encoder_ends_there_too(name, options, recomputed):
    from transformers import BertConfig, BertForSequenceClassification

    from capaboost_vit.nlu.models import recompute_layers

    flops = []
    for depth in (1, 3):
        shape = {**texts.TINY, "num_hidden_layers": depth}
        config = BertConfig(vocab_size=32, num_labels=3, max_position_embeddings=16, **shape)
        model = BertForSequenceClassification(config)
        options = {**IMAGES.get(name, {}), **small(name, **options), **TEXTS.get(name, {})}
        model = in_the_last_block(model, nlu.adapt, name, options)
        if recomputed:
            recompute_layers(model)
        flops.append(backward_flops(model.train()(input_ids=X.new_ones(4, 7).long()).logits))
    assert flops[0] == flops[1] > 0


@every_method
def test_it_compiles_in_one_graph_with_the_same_gradients(name, options):
    torch.compiler.reset()
    model = adapted(name, **options).train()
    torch.compile(model, fullgraph=True, backend="aot_eager")(X).square().sum().backward()
    found = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model(X).square().sum().backward()
    expected = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@every_method
def test_its_logits_alone_have_the_gradients_of_the_model_or_it_says_why_not(name, options):
    model = trained_a_little(adapted(name, **options)).double().train()
    try:
        twin, reason = capaboost_vit.logits_only(model).train(), ""
    except capaboost_vit.NoShortCut as error:
        twin, reason = None, str(error)
    if twin is None:
        assert any(wrapper.adds in reason for _, wrapper in wrappers(model))
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    expected, found = model(X.double()), twin(X.double())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(logits.square().sum(), trained) for logits in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


@every_method
def test_it_is_still_a_timm_model(name, options):
    model = adapted(name, **options)
    assert isinstance(model, timm.models.VisionTransformer)
    assert model.forward_features(X).shape[0] == len(X)
    assert model.forward_head(model.forward_features(X)).shape == (4, 3)
    assert model.get_classifier() is model.head
    grouped = timm.models.group_parameters(model, model.group_matcher())
    assert sorted(key for keys in grouped.values() for key in keys) == sorted(k for k, _ in model.named_parameters())
    plain_grad = torch.autograd.grad(model(X).sum(), [p for p in model.parameters() if p.requires_grad])
    model.set_grad_checkpointing(True)
    again = torch.autograd.grad(model.train()(X).sum(), [p for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(again, plain_grad)
    model.reset_classifier(7)
    assert model(X).shape == (4, 7)


@every_method
def test_it_adapts_a_text_encoder(name, options, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    def encoder():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=32, num_labels=3, max_position_embeddings=16, **texts.TINY)
        return with_biases(BertForSequenceClassification(config))

    if name in NO_TEXTS:
        with pytest.raises(ValueError, match=NO_TEXTS[name]):
            nlu.adapt(encoder(), name)
        return
    ids = torch.randint(1, 32, (4, 7), generator=torch.Generator().manual_seed(2))
    model = nlu.adapt(encoder(), name, **{**small(name, **options), **TEXTS.get(name, {})})
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    before = {key: p.detach().clone() for key, p in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=ids).logits.square().sum().backward()
        optimizer.step()
    assert [key for key, p in trained.items() if torch.equal(p, before[key])] == []
    path = nlu.save_adapter(model.eval(), tmp_path / "adapter.safetensors")
    loaded = nlu.load_adapter(encoder(), path).eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


# runs


def settings(name, options):
    method = {"name": name, **IMAGES.get(name, {}), **small(name, **options)}
    return {"model": "vit_tiny_patch16_224", "method": method, "log_interval": 1, "checkpoint_interval": 2}


@every_method
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    name, options, base, configure, tmp_path, killed_behind, without_pictures
):
    config = {**settings(name, options), "model_ema": True, "drop_path": 0.1}
    weights = load_file(base)
    if not METHODS[name].trains_head:  # it has to be in the weights
        weights |= {"head.weight": torch.randn(3, 16), "head.bias": torch.randn(3)}
    if name == "hiwi":  # biases of zeros, as those of timm's start, stay so
        weights |= {key: torch.randn_like(bias) for key, bias in weights.items() if key.endswith("bias")}
    save_file(weights, tmp_path / "weights.safetensors")
    config["initial_checkpoint"] = str(tmp_path / "weights.safetensors")
    train(configure(**config, output=str(tmp_path / "whole")))
    with killed_behind(4):  # in the middle of the second of two epochs of three updates
        train(configure(**config, output=str(tmp_path / "killed")))
    train(configure(**config, output=str(tmp_path / "killed"), resume=True))
    whole, killed = (tmp_path / run / "adapter.safetensors" for run in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    assert (tmp_path / "whole/summary.csv").read_text() == (tmp_path / "killed/summary.csv").read_text()


OUTSIDE = f"import sys; sys.path.insert(0, {str(Path(reflection.__file__).parent)!r}); import reflection"
TWO_PROCESSES = f"""
{OUTSIDE}
import torch
import torch.distributed as dist
import capaboost_vit, timm
from capaboost_vit.training.distributed import ProcessGroup, parallel

dist.init_process_group("gloo")
rank = dist.get_rank()
for name, model, network, x in torch.load(sys.argv[1], weights_only=False):
    model.train()
    half = parallel(network.train(), ProcessGroup(rank, 2), torch.device("cpu"))
    half(x[rank::2]).square().mean().backward()
    found = {{key: p.grad.clone() for key, p in model.named_parameters() if p.requires_grad}}
    model.zero_grad()
    model(x).square().mean().backward()
    expected = {{key: p.grad for key, p in model.named_parameters() if p.requires_grad}}
    torch.testing.assert_close(found, expected, msg=lambda text: f"{{name}}: {{text}}")
    print(name, len(found), flush=True)
"""


def test_two_processes_have_the_gradients_of_one(tmp_path, ready):
    # in float64: RandLoRA multiplies by so much that half a batch and a whole one differ by float32's rounding
    models = [(name, adapted(name, **options).double()) for name, options in CASES]
    cases = [(name, model, model, X.double()) for name, model in models]
    model = trained_a_little(adapted("lora")).double()
    cases.append(("logits_only", model, capaboost_vit.logits_only(model), X.double()))
    torch.save(cases, tmp_path / "cases.pt")
    done = ready.run(["python", "-c", TWO_PROCESSES, str(tmp_path / "cases.pt")], ranks=2)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(cases)


def test_a_penalty_counts_once_however_many_processes_and_parts_there_are(configure, tmp_path, ready, without_pictures):
    """Of the method from outside, in the real loop."""
    config = settings("reflection", {"strength": 5.0})
    outputs = [tmp_path / name for name in ("one", "parts", "two")]
    train(configure(**config, output=str(outputs[0]), max_steps=2, drop_path=0.0))
    train(configure(**config, output=str(outputs[1]), max_steps=2, drop_path=0.0, grad_accum_steps=3))
    command = ["train", "--config", str(outputs[0] / "config.yaml"), "--output", str(outputs[2])]
    code = f"{OUTSIDE}; from capaboost_vit.cli import main; sys.exit(main(sys.argv[1:]))"
    done = ready.run(["python", "-c", code, *command], ranks=2)
    assert done.returncode == 0, done.stderr
    one, *others = (load_file(output / "adapter.safetensors") for output in outputs)
    weak = tmp_path / "weak"
    train(configure(**settings("reflection", {"strength": 0.0}), output=str(weak), max_steps=2, drop_path=0.0))
    name = "blocks.0.mlp.fc2.reflections.u"
    assert not torch.equal(one[name], load_file(weak / "adapter.safetensors")[name])
    for other in others:
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    losses = [float((output / "summary.csv").read_text().splitlines()[1].split(",")[2]) for output in outputs]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


def test_files_load_in_another_process_that_knows_the_method_by_an_entry_point(tmp_path, ready):
    """Of a package whose entry point names `reflection`, in an interpreter that nobody told of it."""
    site = tmp_path / "site"
    info = site / "reflection-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reflection\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[capaboost_vit.methods]\nreflection = reflection\n")
    (site / "reflection.py").write_bytes(Path(reflection.__file__).read_bytes())
    save_file(plain().state_dict(), tmp_path / "base.safetensors")
    expected = {}
    for name in METHODS:
        model = trained_a_little(adapted(name))
        capaboost_vit.save_adapter(model, tmp_path / f"{name}.safetensors")
        expected[name] = model(X).tolist()
    torch.save(X, tmp_path / "x.pt")
    code = f"""
import json, sys
sys.path.insert(0, {str(site)!r})
import capaboost_vit, timm, torch
from safetensors.torch import load_file
folder, names = sys.argv[1], sys.argv[2:]
logits = {{}}
for name in names:
    model = timm.create_model("vit_tiny_patch16_224", **{TINY})
    model.load_state_dict(load_file(f"{{folder}}/base.safetensors"))
    capaboost_vit.load_adapter(model, f"{{folder}}/{{name}}.safetensors")
    logits[name] = model.eval()(torch.load(f"{{folder}}/x.pt")).tolist()
print(json.dumps(logits))
assert timm.is_model("vit_tiny_capaboost_reflection")
from capaboost_vit.cli import main
sys.exit(main(["train", "--model", "vit_tiny_capaboost_reflection", "--method.strength", "-1"]))
"""
    done = ready.run(["python", "-c", code, str(tmp_path), *METHODS], package=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "strength of method 'reflection' must be at least 0, got -1" in done.stderr
    logits = json.loads(done.stdout)
    for name, values in expected.items():
        torch.testing.assert_close(torch.tensor(logits[name]), torch.tensor(values), msg=name)
    assert "reflection" in sys.modules
    assert branches(adapted("reflection")).keys() == {f"blocks.{i}.mlp.fc2.reflections" for i in range(3)}
