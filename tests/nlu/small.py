"""Small random models of each family of encoders, a padded batch, and branches that have left zero."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capaboost_vit.core.inject import branches
from capaboost_vit.nlu import adapt

SMALL = dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
QUIET = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
RELATIVE = dict(relative_attention=True, position_buckets=4, norm_rel_ebd="layer_norm", max_position_embeddings=32)

# family: (its models' first name, its configuration)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", dict(max_position_embeddings=40, type_vocab_size=1)),
    "electra": ("Electra", dict(embedding_size=8)),
    "deberta-v3": (
        "DebertaV2",
        dict(RELATIVE, share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0),
    ),
    "deberta-v2": ("DebertaV2", dict(RELATIVE, share_att_key=False, pos_att_type=["p2c", "c2p"], conv_kernel_size=3)),
    "deberta-c2p": ("DebertaV2", dict(RELATIVE, share_att_key=False, pos_att_type=["c2p"], position_buckets=-1)),
    "deberta-plain": ("DebertaV2", dict(relative_attention=False)),
}


# families with ways to compute their attention; the others by and large repeat these
KINDS = [("bert", "sdpa"), ("roberta", "eager"), ("deberta-v3", "eager"), ("deberta-v2", "eager")]
MORE_KINDS = [("bert", "eager"), ("roberta", "sdpa"), ("electra", "sdpa"), ("electra", "eager")]
MORE_KINDS += [("deberta-c2p", "eager"), ("deberta-plain", "eager")]
ONE_EACH = ["bert", "roberta", "electra", "deberta-v3"]


def each_kind(name: str, values: Iterable) -> pytest.MarkDecorator:
    """family, attention and one more argument: its values with those of KINDS, the others with one value each."""
    cases = itertools.product(KINDS, values)
    cases = [*cases, *zip(MORE_KINDS, itertools.cycle(values))]
    return pytest.mark.parametrize(("family", "attention", name), [(*kind, value) for kind, value in cases])


def each_family(values: Iterable) -> pytest.MarkDecorator:
    """family and name: each value with bert and deberta-v3, and with either roberta or electra, which repeat bert."""
    cases = itertools.product(("bert", "deberta-v3"), values)
    return pytest.mark.parametrize(("family", "name"), [*cases, *zip(itertools.cycle(("roberta", "electra")), values)])


LENGTHS = (7, 4, 1)


def build(family: str, task: str = "Model", *, attention: str = "eager", seed: int = 0, **options: Any) -> nn.Module:
    """A small model, `task` as in the names of transformers; its norms and biases are random too."""
    return copy.deepcopy(_built(family, task, attention, seed, tuple(sorted(options.items()))))


@functools.cache
def _built(family: str, task: str, attention: str, seed: int, options: tuple[tuple[str, Any], ...]) -> nn.Module:
    import transformers

    name, config = FAMILIES[family]
    cls = getattr(transformers, f"{name}{'' if task == 'Model' else 'For'}{task}")
    torch.manual_seed(seed)
    config = cls.config_class(**{**SMALL, **QUIET, **config, **dict(options)}, attn_implementation=attention)
    model = cls(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            parameter.add_(0.3 * noise if parameter.dim() == 1 or "embeddings" in name else 0.2 * noise)
    return model


def examples(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    """Token ids (N,) of a few examples, without those of padding."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 60, (length,), generator=generator) for length in lengths]


def padded(model: nn.Module, ids: list[Tensor], length: int | None = None, *, left: bool = False) -> dict[str, Tensor]:
    """The examples as one batch of this length, with random words where there is nothing but padding.

    RoBERTa tells padding by its token too, for its positions.
    """
    length = length or max(map(len, ids))
    config = model.config
    noise = torch.randint(3, 60, (len(ids), length), generator=torch.Generator().manual_seed(4))
    words = torch.full_like(noise, config.pad_token_id) if config.model_type == "roberta" else noise
    mask = torch.zeros_like(words)
    for row, example in enumerate(ids):
        part = slice(length - len(example), None) if left else slice(None, len(example))
        words[row, part], mask[row, part] = example, 1
    return {"input_ids": words, "attention_mask": mask}


@torch.no_grad()
def wake(model: nn.Module, seed: int = 1) -> nn.Module:
    """Gives every parameter of what was added a value far from its start."""
    generator = torch.Generator().manual_seed(seed)
    for addition in branches(model).values():
        for parameter in addition.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


EVERY_PART = ["lora", "prefix", "adapter", "ia3", "prompt"]
MASKED = dict(num_branches=2, density=0.5)
PLAIN = dict(num_branches=1, density=1.0)
LITTLE = dict(rank=4, bottleneck=6, prefix_length=3, prefix_bottleneck=5, prompt_length=2)

# what is added, by name: methods with their options, in turn
ADDED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "lora": [("lora", dict(rank=4, alpha=6.0, targets=["query", "key", "value", "attn_out", "mlp_in", "mlp_out"]))],
    "lora-d3": [("lora", dict(rank=4, num_branches=3, density=0.4))],
    "lora-plain": [("lora", dict(rank=4, **PLAIN))],
    "pfeiffer": [("adapter", dict(bottleneck=6, placement="sequential"))],
    "houlsby": [("adapter", dict(bottleneck=6, placement="sequential", targets=["attn", "mlp"], activation="gelu"))],
    "parallel": [("adapter", dict(bottleneck=6, placement="parallel", targets=["attn", "mlp"], scale=4.0))],
    "prefix": [("prefix", dict(prefix_length=3))],
    "prefix-mlp": [("prefix", dict(prefix_length=3, bottleneck=4))],
    "prefix-shared": [("prefix", dict(prefix_length=3, bottleneck=4, shared=True, num_branches=3))],
    "prompt": [("prompt", dict(prompt_length=3))],
    "prompt-mlp": [("prompt", dict(prompt_length=3, bottleneck=4, deep=False))],
    "ia3": [("ia3", {})],
    "unipelt": [("unipelt", LITTLE)],
    "unipelt-masked": [("unipelt", dict(LITTLE, **MASKED))],
    "unipelt-prompt": [("unipelt", dict(LITTLE, parts=["lora", "prefix", "adapter", "prompt"]))],
    "unipelt-ia3": [("unipelt", dict(LITTLE, parts=["ia3", "prefix", "adapter"]))],
    "unipelt-all": [("unipelt", dict(LITTLE, **MASKED, parts=EVERY_PART, copies=2))],
    "unipelt-3": [("unipelt", dict(LITTLE, copies=3))],
    "unipelt-tables": [("unipelt", dict(LITTLE, prefix_bottleneck=None))],
    "bitfit": [("bitfit", {})],
    "lora+prompt+prefix": [
        ("lora", dict(rank=4)),
        ("prompt", dict(prompt_length=3)),
        ("prefix", dict(prefix_length=2)),
    ],
}


def adapted(model: nn.Module, name: str) -> nn.Module:
    """The model with the methods of `ADDED` that this name stands for."""
    for method, options in ADDED[name]:
        adapt(model, method, **options)
    return model
