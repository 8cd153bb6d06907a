"""Quantised bases: bitsandbytes' layers of 4 and 8 bits and torchao's int8 weights under every method, on a CPU."""

from __future__ import annotations

import copy
import logging

import pytest
import timm
import torch
from registered import OWN
from torch import nn

import capaboost_vit
from capaboost_vit.core.base import dense, shape_of
from capaboost_vit.core.quantised import is_quantised

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*KernelPreference.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4).eval()
    for block in model.blocks:
        for bias in (block.mlp.fc1.bias, block.mlp.fc2.bias):
            torch.nn.init.normal_(bias, std=0.05)  # HiWi adapts biases, and timm's start at zero
    return model


def bitsandbytes_layers(model, **kind):
    """The linear layers of the blocks replaced, as transformers does it."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    layer = bitsandbytes.nn.Linear4bit if kind.pop("bits") == 4 else bitsandbytes.nn.Linear8bitLt
    for block in model.blocks:
        for owner, name in ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2")):
            linear = getattr(owner, name)
            new = layer(linear.in_features, linear.out_features, bias=linear.bias is not None, **kind)
            new.load_state_dict(linear.state_dict())
            setattr(owner, name, new.eval())
    return model.to("cpu")  # which quantises


def torchao_weights(model):
    quantization = pytest.importorskip("torchao.quantization")
    wanted = lambda module, name: isinstance(module, nn.Linear) and "blocks" in name  # noqa: E731
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig(), filter_fn=wanted)
    return model


BASES = {
    "4 bits": lambda: bitsandbytes_layers(vit(), bits=4, quant_type="nf4"),
    "8 bits": lambda: bitsandbytes_layers(vit(), bits=8, has_fp16_weights=False, threshold=6.0),
    "torchao": lambda: torchao_weights(vit()),
}


def trained(model, method, **options):
    """Adapted, with values as after training, and the gradients of one batch."""
    capaboost_vit.adapt(model, method, **options)
    with torch.no_grad():
        for index, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.add_(0.05 * noise)
    model.train()(X).square().sum().backward()
    return model.eval()


def plain_twin(model):
    """A copy whose quantised layers are plain ones with the weights that they stand for."""
    twin = copy.deepcopy(model)
    for parent in list(twin.modules()):
        for name, layer in list(parent.named_children()):
            if is_quantised(layer):
                (rows, columns), weight = shape_of(layer), dense(layer).float()
                linear = nn.Linear(columns, rows, bias=layer.bias is not None)
                linear.load_state_dict({"weight": weight, **({"bias": layer.bias} if layer.bias is not None else {})})
                setattr(parent, name, linear.requires_grad_(False))
    return twin.requires_grad_(False)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


# every method on one of them; on the others one of each way in which a method meets a layer
_WAYS = ("lora", "adapter", "prefix", "ssf", "hira", "hra", "repadapter", "hiwi", "bitfit", "norm")
_TRAINED = [("torchao", name) for name in OWN if not capaboost_vit.METHODS[name].trains_all]
_TRAINED += [(base, name) for base in ("4 bits", "8 bits") for name in _WAYS]


@pytest.mark.parametrize(("base", "method"), _TRAINED)
def test_gradients_over_a_quantised_base_are_those_over_the_weights_that_it_stands_for(base, method):
    model = BASES[base]()
    with torch.no_grad():
        model(X)  # an evaluation before, by which layers of 4 bits enter another layout
    twin = plain_twin(model)
    ours, theirs = (gradients(trained(side, method, **OWN[method])) for side in (model, twin))
    assert ours.keys() == theirs.keys()
    largest = max(gradient.abs().max() for gradient in theirs.values())
    for name, gradient in theirs.items():
        own = max(gradient.abs().max(), 1e-3 * largest)  # the bias of keys has none but rounding
        # no loss reads the last block's patches, for which its gate decides
        assert gradient.abs().sum() > 0 or "blocks.1.gates" in name, name
        assert (ours[name] - gradient).abs().max() <= 2e-5 * own, name


@pytest.mark.parametrize("base", BASES)
def test_an_adapter_file_of_a_quantised_base_fits_this_base_and_no_other(base, tmp_path):
    model = trained(BASES[base](), "lora")
    capaboost_vit.save_adapter(model, tmp_path / "a.safetensors")
    again = capaboost_vit.load_adapter(BASES[base](), tmp_path / "a.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again(X), model(X))
    with pytest.raises(capaboost_vit.AdapterFileError, match="other base weights"):
        capaboost_vit.load_adapter(vit(), tmp_path / "a.safetensors")


@pytest.mark.parametrize("base", BASES)
def test_merging_dequantises_the_adapted_layers_when_it_is_asked_for(base):
    model = trained(BASES[base](), "lora", targets=("query", "value"))
    with pytest.raises(
        capaboost_vit.CannotMerge, match=r"likewise at 1 other places, or merge\(model, dequantize=True\)"
    ):
        capaboost_vit.merge(model)
    merged = capaboost_vit.merge(model, dequantize=True)
    for block, before in zip(merged.blocks, model.blocks, strict=True):
        assert type(block.attn.qkv) is nn.Linear
        torch.testing.assert_close(block.attn.qkv.weight, before.attn.qkv.weight)
        assert is_quantised(block.attn.proj)
    assert not hasattr(merged, "capaboost")
    assert hasattr(model, "capaboost")
    rounding = 5e-2 if base == "8 bits" else 1e-5  # layers of 8 bits round their inputs in evaluation
    with torch.no_grad():
        assert (merged(X) - model(X)).abs().max() <= rounding * model(X).abs().max()


@pytest.mark.parametrize("base", BASES)
def test_full_fine_tuning_of_a_quantised_base_is_refused(base):
    with pytest.raises(ValueError, match=r"'blocks.0.attn.qkv' is to be trained, but it is quantised"):
        capaboost_vit.adapt(BASES[base](), "full")


def test_a_model_is_quantised_behind_adapt_as_before_it():
    model, quantised = trained(vit(), "lora"), trained(BASES["torchao"](), "lora")
    torchao_weights(model)
    assert is_quantised(model.blocks[0].attn.qkv.base)
    with torch.no_grad():
        assert torch.equal(model(X), quantised(X))


def test_a_layer_of_integers_without_bias_gets_its_branch_where_it_is():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4").to("cpu")
    model = capaboost_vit.adapt(nn.Sequential(layer), "lora", targets=("0",), head=())
    (branch,) = capaboost_vit.branches(model).values()
    assert {(p.device, p.dtype) for p in branch.parameters()} == {(layer.weight.device, torch.float32)}


def test_a_class_of_tensors_is_never_read_as_a_plain_weight():
    model = trained(torchao_weights(vit()), "lora", targets=("mlp_in",))
    with torch.no_grad():
        expected = model(X)
        for block in model.blocks:
            block.mlp.fc1.execution = "weight"  # which forms W + dW where W is plain
        assert torch.equal(model(X), expected)


def test_a_model_that_transformers_loads_in_4_bits_is_adapted(tmp_path):
    pytest.importorskip("bitsandbytes")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=50, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)

    def load(**options):
        four_bits = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **options)
        classes = transformers.AutoModelForSequenceClassification
        return classes.from_pretrained(tmp_path, quantization_config=four_bits, device_map="cpu")

    with pytest.raises(ValueError, match=r"'classifier' is to be trained, but it is quantised .*llm_int8_skip_modules"):
        capaboost_vit.nlu.adapt(load(), "lora", rank=2)
    model = capaboost_vit.nlu.adapt(load(llm_int8_skip_modules=["classifier"]), "lora", rank=2)
    tokens = torch.arange(12).reshape(2, 6)
    before = model(tokens).logits.detach()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(tokens, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name.endswith("up.weight"))
    assert not torch.allclose(model(tokens).logits, before)
    path = capaboost_vit.nlu.save_adapter(model.eval(), tmp_path / "a.safetensors")
    again = capaboost_vit.nlu.load_adapter(load(llm_int8_skip_modules=["classifier"]), path)
    torch.testing.assert_close(again.eval()(tokens).logits, model(tokens).logits)
