"""Small random models of timm and transformers, an input for each, a little training, and how far answers differ."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import small
import timm
import torch
from torch.nn import functional as F

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.nlu.anatomy import is_transformers_model

peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
GPT2 = {"vocab_size": 60, "n_positions": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 0}
LLAMA = {**small.SMALL, "num_key_value_heads": 1}
PICTURES = {**small.SMALL, "image_size": 32, "patch_size": 8, "num_labels": 3}
LINEAR = ("blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2")


def build(name):
    """A model with the same weights whenever it is called.

    Names: vit, convnext (of timm), hf vit, gpt2, llama, or a family of `small` with its task.
    """
    torch.manual_seed(0)
    if name == "vit":
        return timm.create_model("vit_tiny_patch16_224", num_classes=3, **VIT).eval()
    if name == "convnext":
        return timm.create_model("convnext_tiny", num_classes=3, **CONVNEXT).eval()
    if name == "gpt2":
        config = transformers.GPT2Config(**GPT2, bos_token_id=1, eos_token_id=2, num_labels=3)
        return transformers.GPT2ForSequenceClassification(config).eval()
    if name == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    if name == "hf vit":
        config = {key: value for key, value in PICTURES.items() if key != "vocab_size"}
        return transformers.ViTForImageClassification(transformers.ViTConfig(**config)).eval()
    family, task = name.split()
    return small.build(family, task)


def inputs(model):
    """Arguments of a call."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    if not is_transformers_model(model):
        return {"x": images.to(next(model.parameters()).dtype)}
    if model.main_input_name == "pixel_values":
        return {"pixel_values": images}
    return small.padded(model, small.examples())


def answers(model):
    """Its (first) output."""
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    found = model(**inputs(base))
    return found[0] if is_transformers_model(base) else found


def adapt(model, method="lora", **options):
    """With the function for its kind."""
    return (nlu.adapt if is_transformers_model(model) else capaboost_vit.adapt)(model, method, **options)


def train(model, steps=3):
    """Some steps of SGD on its outputs, so that all that is trained moves."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        logits = answers(model.train()).float()
        F.cross_entropy(logits.flatten(0, -2), torch.arange(len(logits.flatten(0, -2))) % 2).backward()
        optimizer.step()
    return model.eval()


def load(name, folder):
    """PEFT's model on a fresh base."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        return peft.PeftModel.from_pretrained(build(name), str(folder)).eval()


def saved(name, folder: Path, seed=5, **options):
    """A folder that PEFT has written of an adapter of its own that is no identity, and its model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        model = peft.get_peft_model(build(name), peft.LoraConfig(**options)).eval()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return model


@torch.no_grad()
def difference(first, second):
    """The largest, over the largest entry of the first."""
    first, second = answers(first), answers(second)
    return float((first - second).abs().max() / first.abs().max())
