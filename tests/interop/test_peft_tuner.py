"""The tuner does what PEFT promises of its tuners, with the masks, start and logits of `capaboost_vit.adapt`."""

from __future__ import annotations

import copy
import enum
import inspect
import json
import logging
import pickle
import re
import runpy
import sys
from pathlib import Path

import bases
import pytest
import torch
from bases import peft, transformers
from peft.utils.peft_types import register_peft_method
from safetensors.torch import load_file, save_file
from torch import nn

import capaboost_vit
from capaboost_vit.peft import CapaBoostConfig, CapaBoostLayer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*KernelPreference.*"),  # of torchao, which bitsandbytes' users have too
]

SMALL = dict(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
LLM = {**SMALL, "num_key_value_heads": 1}
TARGETS = ["q_proj", "down_proj"]
IDS = torch.randint(0, 60, (3, 12), generator=torch.Generator().manual_seed(1))
SIGN = {"pattern": "sign", "target_modules": TARGETS}


def llm(name="Llama", **options):
    """A random decoder, with the same weights whenever it is called."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**LLM | options)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def tuned(model, name="default", **options):
    options = {"r": 4, **options}
    return peft.get_peft_model(model, CapaBoostConfig(task_type="CAUSAL_LM", **options), name).eval()


def ours(model, **options):
    """The same by the function of this library."""
    named = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets"}
    return bases.adapt(model, "lora", head=(), **{named.get(name, name): value for name, value in options.items()})


def scattered(model, seed=1):
    """With values as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, CapaBoostLayer)}


def losses(model, steps):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    found = []
    for _ in range(steps):
        loss = model.train()(input_ids=IDS, labels=IDS).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in trained)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    model.eval()
    return found


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def apart(first, second):
    """The largest difference over the largest entry."""
    return float((first - second).abs().max() / first.abs().max())


# PEFT's list of methods


def test_the_enum_of_peft_is_closed_and_has_one_member_more():
    """If this fails, PEFT has changed: see `add_peft_type`."""
    kind, ready_made = peft.PeftType, peft.PeftType.LORA
    assert "CAPABOOST" not in inspect.getsource(kind)
    with pytest.raises(ValueError, match=r"Unknown PEFT type NOVEL, please add an entry to peft.utils.peft_types"):
        register_peft_method(name="novel", config_cls=CapaBoostConfig, model_cls=None)
    member = kind["CAPABOOST"]
    assert isinstance(member, kind)
    assert issubclass(kind, enum.Enum)
    assert vars(member).keys() >= vars(ready_made).keys()
    assert list(kind)[-1] is member is kind("CAPABOOST") is kind.CAPABOOST is copy.deepcopy(member)
    assert pickle.loads(pickle.dumps(member)) is member
    assert (member == "CAPABOOST", json.dumps(member), member.name) == (True, '"CAPABOOST"', "CAPABOOST")
    assert str(member) == str(ready_made).replace("LORA", "CAPABOOST")


def test_without_peft_the_import_says_what_to_type(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("capaboost_vit.peft")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"this needs the package peft.*pip install 'capaboost_vit\[peft\]'"):
        import capaboost_vit.peft  # noqa: F401


# the same as ours

OPTIONS = [
    ("Llama", SIGN | {"num_branches": 3}),
    ("Qwen2", {"target_modules": TARGETS}),  # the defaults: sign with coefficients
    ("Llama", {"pattern": "2:4", "mask_seed": 5, "init_seed": 3, "use_rslora": True, "target_modules": TARGETS}),
    ("Qwen2", {"density": 0.3, "num_branches": 2, "lora_alpha": 3, "lora_dropout": 0.3, "target_modules": TARGETS}),
    ("Llama", {"num_branches": 1, "density": 1.0, "target_modules": TARGETS}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_masks_start_steps_and_logits_are_those_of_adapt_to_the_bit(name, options):
    options = {"r": 4, **options}
    first, second = tuned(llm(name), **options), ours(llm(name), **options)
    theirs = {path: layer.capaboost_branches["default"] for path, layer in layers(first.get_base_model()).items()}
    assert {f"{path}.all" for path in theirs} == {branch.path for branch in capaboost_vit.branches(second).values()}
    for branch in capaboost_vit.branches(second).values():
        mine = theirs[branch.path.removesuffix(".all")]
        for factor, other in ((mine.down, branch.down), (mine.up, branch.up)):
            assert torch.equal(factor.weight, other.weight)
            assert factor.mask is other.mask is None or torch.equal(factor.mask, other.mask)
    torch.manual_seed(4)
    found = losses(first, 3)
    torch.manual_seed(4)
    assert found == losses(second, 3)
    assert torch.equal(logits(first), logits(second))
    words = {"input_ids": IDS[:1], "max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(first.generate(**words), second.generate(**words))


@pytest.mark.parametrize("name", ["Llama", "Qwen2"])
def test_the_first_step_computes_what_the_base_computes_and_training_moves_every_branch(name):
    base, model = llm(name), tuned(llm(name), **SIGN)
    assert torch.equal(model(IDS).logits, base(IDS).logits)  # with gradients, as a step of training
    assert apart(logits(base), logits(model)) < 1e-6
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = losses(model, 8)
    assert found[-1] < found[0] - 0.02
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if ".capaboost_branches." in key and key.endswith(".weight")}
    assert len(moved) == 2 * len(layers(model)) == 8


# files


def test_an_adapter_is_loaded_under_any_name_and_its_file_holds_digests_instead_of_masks(tmp_path):
    model = scattered(tuned(llm(), **SIGN))
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    path = "base_model.model.model.layers.0.mlp.down_proj.capaboost_branches"
    factors = {f"{path}.{factor}.{kind}" for factor in ("down", "up") for kind in ("weight", "mask_digest")}
    assert {key for key in stored if key.startswith(path)} == factors
    assert not any(key.endswith(".mask") for key in {**stored, **model.state_dict()})
    for name, low in (("default", False), ("another", False), ("down", True)):
        other = peft.PeftModel.from_pretrained(llm(), tmp_path, adapter_name=name, low_cpu_mem_usage=low).eval()
        assert torch.equal(logits(other), logits(model))
        assert not any(parameter.requires_grad for parameter in other.parameters())
    further = peft.PeftModel.from_pretrained(llm(), tmp_path, is_trainable=True)
    assert losses(further, 2) == losses(model, 2)


def test_the_class_for_the_task_finds_the_base_by_itself(tmp_path):
    llm("Qwen2").save_pretrained(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = scattered(tuned(model, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    found = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter")).eval()
    assert torch.equal(logits(found), logits(model))
    assert len(layers(found)) == 14


def settings(**changes):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensors(change):
    def rewrite(folder):
        stored = load_file(folder / "adapter_model.safetensors")
        change(stored, next(key for key in stored if key.endswith("mask_digest")))
        save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    return rewrite


def one_bit(stored, key):
    stored[key][7] ^= 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (settings(mask_seed=1), "are not those"),
        (settings(num_branches=3), "are not those"),
        (settings(pattern="random", density=0.5), "are not those"),
        (settings(r=5), "are not those"),
        (tensors(one_bit), "are not those"),
        (tensors(lambda stored, key: stored.pop(key)), "cannot be compared with those"),
    ],
    ids=["seed", "branches", "pattern", "rank", "digest", "no digest"],
)
def test_other_masks_than_those_of_the_training_are_an_error(tmp_path, change, found):
    tuned(llm(), **SIGN).save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(
        ValueError, match=rf"masks of 'model.layers.*' {found} that the adapter was trained with"
    ) as caught:
        peft.PeftModel.from_pretrained(llm(), tmp_path)
    assert "\n" not in str(caught.value)


# several adapters


def test_two_adapters_are_switched_added_disabled_and_deleted(tmp_path):
    model = tuned(llm(), "one", **SIGN)
    model.add_adapter("two", CapaBoostConfig(r=2, num_branches=3, density=0.5, target_modules=["q_proj", "up_proj"]))
    assert all(".one." in name for name, parameter in model.named_parameters() if parameter.requires_grad)
    answers = {}
    for seed, name in enumerate(("one", "two")):
        model.set_adapter(name)
        assert all(f".{name}." in key for key, parameter in model.named_parameters() if parameter.requires_grad)
        answers[name] = logits(scattered(model, seed))
    assert apart(answers["one"], answers["two"]) > 0.1
    model.base_model.set_adapter(["one", "two"])
    both = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(llm()))
    assert torch.equal(logits(model), both)
    with pytest.raises(ValueError, match="cannot be chosen for each example: call set_adapter"):
        model(IDS, adapter_names=["one", "two", "one"])
    model.save_pretrained(tmp_path)
    other = peft.PeftModel.from_pretrained(llm(), tmp_path / "one", adapter_name="one").eval()
    other.load_adapter(tmp_path / "two", "two")
    for name, answer in answers.items():
        other.set_adapter(name)
        assert torch.equal(logits(other), answer)
    other.set_adapter("one")
    other.delete_adapter("two")
    assert torch.equal(logits(other), answers["one"])
    assert not any(".two." in key for key in other.state_dict())
    assert not any("two" in layer.capaboost_adapted for layer in layers(other).values())
    for twin in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert torch.equal(logits(twin), answers["one"])
    assert torch.equal(logits(other.unload()), logits(llm()))


def test_merging_keeps_the_answers_and_unmerging_gives_the_base_back_up_to_rounding():
    model = scattered(tuned(llm(), target_modules="all-linear", lora_dropout=0.1))
    answer, base = logits(model), logits(llm())
    model.merge_adapter(safe_merge=True)
    assert apart(answer, logits(model)) < 1e-5
    with model.disable_adapter():  # which unmerges first
        assert apart(base, logits(model)) < 1e-5
    assert apart(answer, logits(model)) < 1e-5
    merged = model.train().merge_and_unload().eval()
    assert apart(answer, logits(merged)) < 1e-5
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert merged.state_dict().keys() == llm().state_dict().keys()


def test_what_cannot_be_merged_is_refused_in_one_line():
    model = tuned(llm(), **SIGN)
    broken = next(iter(layers(model).values()))
    broken.capaboost_branches["default"].up.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="cannot merge adapter 'default': its update is not finite"):
        model.merge_adapter(safe_merge=True)
    base = llm()
    nn.utils.parametrizations.weight_norm(base.model.layers[1].mlp.down_proj)
    model = scattered(tuned(base, **SIGN))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    text = (
        "cannot merge 'model.layers.1.mlp.down_proj': the weight of a ParametrizedLinear is computed, .*: keep the ad"
    )
    with pytest.raises(ValueError, match=text) as caught:
        model.merge_adapter()
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_adapter_becomes_plain_lora_of_rank_branches_times_rank():
    model = scattered(tuned(llm(), **SIGN | {"num_branches": 3}))
    config, state = peft.convert_to_lora(model, rank=12)
    plain = peft.get_peft_model(llm(), config).eval()
    assert peft.set_peft_model_state_dict(plain, state).unexpected_keys == []
    assert apart(logits(model), logits(plain)) < 1e-5


# which layers


def test_targets_are_named_as_for_lora(tmp_path):
    named = {
        "none": {},
        "expression": {"target_modules": r"model\.layers\.1\..*proj"},
        "layers": {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        "excluded": {"target_modules": "all-linear", "exclude_modules": r".*(mlp|layers\.0).*"},
    }
    for options in named.values():
        expected = peft.get_peft_model(llm(), peft.LoraConfig(**options)).targeted_module_names
        assert sorted(tuned(llm(), **options).targeted_module_names) == sorted(expected)
    with pytest.raises(
        TypeError, match=r"CapaBoost needs linear layers, but 'model.embed_tokens' is a Embedding of torch"
    ):
        tuned(llm(), target_modules=["embed_tokens"])
    with pytest.raises(ValueError, match=r"Target modules {'qproj'} not found"):
        tuned(llm(), target_modules=["qproj"])
    text = r"'model.layers.0.self_attn.q_proj' carries a low-rank branch, which PEFT would freeze: merge or detach it"
    with pytest.raises(ValueError, match=text):
        tuned(ours(llm(), target_modules=["q_proj"]), **SIGN)


def test_the_transposed_layers_of_gpt2():
    config = transformers.GPT2Config(**bases.GPT2, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    base = transformers.GPT2LMHeadModel(config).eval()
    model = scattered(tuned(copy.deepcopy(base), target_modules=["c_attn", "c_proj"]))
    assert apart(logits(base), logits(model)) > 0.1
    assert apart(logits(model), logits(copy.deepcopy(model).merge_and_unload())) < 1e-5


def test_modules_to_save_and_biases_are_trained_and_stored(tmp_path):
    model = tuned(llm("Qwen2"), **SIGN, modules_to_save=["lm_head"], bias="capaboost_only")
    answer = logits(scattered(model))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "capaboost" not in name} == {
        "base_model.model.lm_head.modules_to_save.default.weight",
        *(f"base_model.model.model.layers.{i}.self_attn.q_proj.base_layer.bias" for i in (0, 1)),
    }
    model.save_pretrained(tmp_path)
    other = peft.PeftModel.from_pretrained(llm("Qwen2"), tmp_path).eval()
    assert torch.equal(logits(other), answer)
    assert apart(answer, logits(other.merge_and_unload())) < 1e-5


# other bases and loops


def quantised(bits):
    """A Llama whose blocks have layers of bitsandbytes, as transformers puts them in."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    model = llm(hidden_size=64, intermediate_size=128)
    for name, layer in list(model.model.named_modules()):
        if isinstance(layer, nn.Linear):
            kind, options = bitsandbytes.nn.Linear4bit, {"quant_type": "nf4", "compute_dtype": torch.float32}
            if bits == 8:
                kind, options = bitsandbytes.nn.Linear8bitLt, {"has_fp16_weights": False, "threshold": 6.0}
            new = kind(layer.in_features, layer.out_features, bias=False, **options)
            new.load_state_dict(layer.state_dict())
            model.model.set_submodule(name, new)
    return model.to("cpu").eval()  # which quantises


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("ignore:.*MatMul8bitLt.*")
@pytest.mark.filterwarnings("ignore:merged weights are quantised again")
def test_a_quantised_base_is_trained_stored_and_merged(tmp_path, bits):
    model = tuned(quantised(bits), target_modules="all-linear", pattern="sign")
    with model.disable_adapter():
        base = logits(model)
    assert torch.equal(logits(model), base)  # an evaluation, behind which gradients still pass
    found = losses(model, 5)
    assert found[-1] < found[0] - 0.02
    model.save_pretrained(tmp_path)
    answer = logits(model)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(quantised(bits), tmp_path).eval()), answer)
    moved = apart(answer, base)
    model.merge_adapter()
    assert apart(answer, logits(model)) < 0.5 * moved < moved


@pytest.mark.filterwarnings("ignore:merged weights are quantised again")
def test_a_merged_4_bit_weight_is_the_sum_but_for_its_rounding():
    model = scattered(tuned(quantised(4), **SIGN))
    logits(model)  # on some processors the layers pack their weights in an evaluation
    for layer in layers(model).values():
        wanted = layer.get_base_weight() + layer.get_delta_weight("default")
        layer.merge()
        assert float((layer.get_base_weight() - wanted).norm() / wanted.norm()) < 0.12
        x = torch.randn(5, layer.in_features)
        torch.testing.assert_close(layer(x), x @ layer.get_base_weight().t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("ignore:.*MatMul8bitLt.*")
def test_an_adapter_of_a_quantised_base_is_exported_for_the_same_base(tmp_path, bits):
    model = scattered(ours(quantised(bits), r=4, **SIGN))
    base = quantised(bits)
    base.is_loaded_in_4bit, base.is_loaded_in_8bit = bits == 4, bits == 8  # as transformers marks it
    theirs = peft.PeftModel.from_pretrained(base, capaboost_vit.export_peft(model, tmp_path / "adapter")).eval()
    assert apart(logits(theirs), logits(quantised(bits))) > 0.1
    # on some processors a 4-bit layer computes an evaluation in bfloat16, where nobody keeps it from that
    assert apart(logits(model), logits(theirs)) < (0.02 if bits == 4 else 1e-5)


@pytest.mark.parametrize("low", [False, True])
def test_branches_of_a_bfloat16_base_stay_in_float32(tmp_path, low):
    model = scattered(tuned(llm().bfloat16(), **SIGN))
    model.save_pretrained(tmp_path)
    other = peft.PeftModel.from_pretrained(llm().bfloat16(), tmp_path, low_cpu_mem_usage=low).eval()
    assert {branch.dtype for name, branch in other.named_parameters() if "capaboost" in name} == {torch.float32}
    assert torch.equal(logits(other), logits(model))
    assert logits(model).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_gradients_are_the_same_under_gradient_checkpointing():
    found = []
    for checkpointing in (False, True):
        model = scattered(tuned(llm(use_cache=False), **SIGN))
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable()
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_a_layer_compiles_without_a_break():
    layer = next(iter(layers(scattered(tuned(llm(), **SIGN))).values()))
    x = torch.randn(2, 5, layer.in_features)
    with torch.no_grad():
        compiled = torch.compile(layer, backend="eager", fullgraph=True)(x)
        torch.testing.assert_close(compiled, layer(x), rtol=1e-6, atol=1e-6)


def test_the_trainer_of_transformers_trains_it_and_resumes(tmp_path):
    pytest.importorskip("accelerate")
    data = [{"input_ids": ids, "labels": ids} for ids in IDS.repeat(4, 1)]

    def train(model, resume=False, **options):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1, use_cpu=True,
            report_to=[], disable_tqdm=True, **options,
        )  # fmt: skip
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
        trainer.train(resume_from_checkpoint=resume)
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], logits(model.eval())

    history, answer = train(tuned(llm(use_cache=False), **SIGN), max_steps=6, save_steps=3)
    assert history[-1] < history[0]
    assert (tmp_path / "checkpoint-3" / "adapter_model.safetensors").exists()
    again, resumed = train(tuned(llm(use_cache=False), **SIGN), resume=str(tmp_path / "checkpoint-3"), max_steps=6)
    assert again == history
    assert torch.equal(resumed, answer)


SCRIPT = Path(__file__).parents[2] / "scripts" / "peft_llm.py"


def script(monkeypatch, *arguments):
    pytest.importorskip("accelerate")
    monkeypatch.setattr(sys, "argv", ["peft_llm.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.parametrize("method", ["capaboost", "lora"])
def test_the_script_trains_an_adapter_on_a_text_and_loads_it_again(tmp_path, monkeypatch, capsys, method):
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"the square of {i} is {i * i}"}) + "\n" for i in range(60)))
    script(monkeypatch, "--text", text, "--output", tmp_path / "adapter", "--method", method, "--smoke")
    said = capsys.readouterr().out
    before, after, loaded = map(float, re.search(r"held-out loss (\S+) -> (\S+) .*loaded again (\S+)", said).groups())
    assert after == loaded < before
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == method.upper()


@pytest.mark.realdata
def test_the_script_on_a_real_text(real_data, tmp_path, monkeypatch, capsys):
    text = real_data / "domain_tasks" / "citation_intent" / "test.jsonl"
    script(monkeypatch, "--text", text, "--output", tmp_path / "adapter", "--smoke")
    assert "held-out loss 5.5" in capsys.readouterr().out  # log 256 = 5.55: an untrained model knows nothing of bytes


def test_the_script_says_what_is_wrong_with_its_text(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        script(monkeypatch, "--text", tmp_path / "nowhere")
    assert "nowhere: there is no such file" in capsys.readouterr().err
    (tmp_path / "short.txt").write_text("few words")
    with pytest.raises(SystemExit, match="the text makes 0 examples of 64 tokens, and 10 are the least"):
        script(monkeypatch, "--text", tmp_path / "short.txt", "--smoke")


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (SCRIPT.parents[1] / "docs/ecosystem/peft.md").read_text(), re.S):
        exec(compile(block, "peft.md", "exec"), names)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert apart(names["model"](IDS).logits, names["llm"](IDS).logits) < 1e-5
        assert apart(names["theirs"](x), names["back"](x)) < 1e-5
    assert "trainable params: " in capsys.readouterr().out


# options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"r": 0}, "r must be at least 1, got 0"),
        ({"lora_alpha": "8"}, "lora_alpha must be float, got '8'"),
        ({"lora_dropout": 1.0}, r"lora_dropout must lie in \[0, 1\), got 1.0"),
        ({"pattern": "sgn"}, "unknown pattern 'sgn': choose random, complementary, sign, or n:m such as 2:4"),
        ({"num_branches": 0}, "num_branches of method 'lora' must be at least 1, got 0"),
        ({"bias": "lora_only"}, "bias must be none, all or capaboost_only, got 'lora_only'"),
        ({"layers_pattern": "layers"}, "layers_pattern says where layers_to_transform counts: give that too"),
        ({"target_modules": "x", "layers_to_transform": [1]}, "layers_to_transform needs a list of target_modules"),
        ({"num_branches": 1, "coefficients": "rank"}, "num_branches must be at least 2, got 1"),
    ],
    ids=str,
)
def test_options_that_are_none_are_refused_in_one_line(options, text):
    with pytest.raises((ValueError, TypeError), match=text) as caught:
        CapaBoostConfig(**options)
    assert "\n" not in str(caught.value)


def test_a_stored_configuration_says_what_its_defaults_meant():
    stored = CapaBoostConfig().to_dict()
    assert (stored["pattern"], stored["coefficients"], stored["num_branches"]) == ("sign", "rank", 2)
    assert peft.get_peft_config(stored) == CapaBoostConfig()
