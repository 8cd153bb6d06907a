"""Tiny random models of transformers, one of each family that core/sites.py names, and a batch for each."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {**WIDE, "vocab_size": 60, "max_position_embeddings": 40}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DECODER = {**TEXT, **ENDS, "num_key_value_heads": 1, "head_dim": 16}
IMAGE = {**WIDE, "image_size": 32, "patch_size": 8}
WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
BART = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 2), ("attention_heads", 2))}
BART |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "d_model": 32, "vocab_size": 60, "max_position_embeddings": 40}
GPT2 = {"vocab_size": 60, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 2}
DISTIL = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 40}
RELATIVE = {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
TOWERS = {"vision_config": IMAGE, "text_config": {**TEXT, **ENDS}}

# name: (class of transformers, its configuration)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", IMAGE),
    "deit": ("DeiTForImageClassification", IMAGE),
    "beit": ("BeitForImageClassification", {**IMAGE, "use_relative_position_bias": True}),
    "dinov2": ("Dinov2ForImageClassification", IMAGE),
    "dinov2_swiglu": ("Dinov2ForImageClassification", {**IMAGE, "use_swiglu_ffn": True}),
    "dinov2_registers": ("Dinov2WithRegistersForImageClassification", IMAGE),
    "dinov3": ("DINOv3ViTModel", IMAGE),
    "dinov3_gated": ("DINOv3ViTModel", {**IMAGE, "use_gated_mlp": True}),
    "swin": ("SwinForImageClassification", WINDOWS),
    "swinv2": ("Swinv2ForImageClassification", WINDOWS),
    "yolos": ("YolosModel", {**IMAGE, "image_size": [32, 32], "num_detection_tokens": 2}),
    "clip": ("CLIPForImageClassification", TOWERS),
    "clip_both": ("CLIPModel", TOWERS),
    "siglip": ("SiglipForImageClassification", TOWERS),
    "bert": ("BertForSequenceClassification", TEXT),
    "roberta": ("RobertaForSequenceClassification", TEXT),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", TEXT),
    "electra": ("ElectraForSequenceClassification", TEXT),
    "deberta-v2": ("DebertaV2ForSequenceClassification", RELATIVE),
    "longformer": ("LongformerForSequenceClassification", {**TEXT, "attention_window": 4}),
    "deberta": ("DebertaForSequenceClassification", RELATIVE),
    "distilbert": ("DistilBertForSequenceClassification", DISTIL),
    "mpnet": ("MPNetForSequenceClassification", TEXT),
    "albert": ("AlbertForSequenceClassification", {**TEXT, "embedding_size": 16}),
    "modernbert": ("ModernBertForSequenceClassification", {**TEXT, **ENDS, "cls_token_id": 1, "sep_token_id": 2}),
    "llama": ("LlamaForCausalLM", DECODER),
    "mistral": ("MistralForCausalLM", DECODER),
    "qwen2": ("Qwen2ForCausalLM", DECODER),
    "qwen3": ("Qwen3ForCausalLM", DECODER),
    "gemma": ("GemmaForCausalLM", DECODER),
    "gemma2": ("Gemma2ForCausalLM", DECODER),
    "gemma3": ("Gemma3ForCausalLM", DECODER),
    "gpt2": ("GPT2LMHeadModel", {**GPT2, "bos_token_id": 1, "eos_token_id": 2}),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5_gated": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "bart": ("BartForConditionalGeneration", BART),
}


def config_of(name: str) -> Any:
    """The configuration of the model of this name."""
    import transformers

    kind, config = MODELS[name]
    return getattr(transformers, kind).config_class(**config)


def build(name: str) -> nn.Module:
    """The model of this name; each time another copy of the same."""
    return copy.deepcopy(_built(name))


@functools.cache
def _built(name: str) -> nn.Module:
    import transformers

    cls = getattr(transformers, MODELS[name][0])
    torch.manual_seed(0)
    model: nn.Module = cls(config_of(name)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def batch(model: Any) -> dict[str, Tensor]:
    """Two images, or two texts, one of them padded; for both towers both."""
    generator = torch.Generator().manual_seed(1)
    images = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    if model.main_input_name == "pixel_values":
        return images
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 6:] = 0
    texts = {"input_ids": torch.randint(3, 60, (2, 8), generator=generator), "attention_mask": mask}
    if model.config.is_encoder_decoder:
        texts["decoder_input_ids"] = torch.randint(3, 60, (2, 5), generator=generator)
    return {**texts, **images} if hasattr(model, "vision_model") else texts


def answer(model: nn.Module) -> Tensor:
    """What a model says of its batch: logits, or hidden states where it has none."""
    outputs = model(**batch(model))
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        if (found := getattr(outputs, name, None)) is not None:
            return found
    raise AssertionError(f"{type(model).__name__} says neither logits nor hidden states")
