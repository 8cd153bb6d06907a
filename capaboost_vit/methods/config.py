"""The options of each method: plain dataclasses without torch, from which the command line's help is made."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..io.options import check_type, option

_RESCALE = "rescale the update to the plain method's: mean (by 1 / (d s^2)) or norm (to its Frobenius norm); none: not"
_DENSITY = "fraction kept by each mask; none: the pattern's own (random 0.5, n:m n/m, complementary 1/d, sign 1)"


@dataclass(frozen=True)
class MaskOptions:
    """Options that every masked method has. num_branches=1 with density=1 is the plain method."""

    num_branches: int = option(2, "d: how many masked views of the shared weights are summed")
    density: float | None = option(None, _DENSITY)
    pattern: str = option("random", "random, complementary, sign, or n:m such as 2:4")
    mask_seed: int = option(0, "seed of the masks; independent of the training seed")
    init_seed: int = option(0, "seed of the branches' start values")


@dataclass(frozen=True)
class LoraConfig(MaskOptions):
    """CapaBoost-LoRA: y = W0 x + (alpha / rank) * sum_i (B * MB_i)(A * MA_i) dropout(x)."""

    rank: int = option(8, "rank of one branch")
    alpha: float = option(8.0, "the update is scaled by alpha / rank")
    dropout: float = option(0.0, "dropout on the branch's input")
    targets: tuple[str, ...] = option(("query", "value"), "roles or name patterns of linear layers")
    freeze_down: bool = option(False, "train only B (LoRA-FA): the inputs of the layers need not be kept")
    execution: str = option("auto", "how the layers are computed: auto, weight, token, plain (docs/speed.md)")
    rescale: str | None = option(None, _RESCALE)


@dataclass(frozen=True)
class AdapterConfig(MaskOptions):
    """CapaBoost-Adapter: s * [ sum_i (Wup * Mup_i) act((Wdn * Mdn_i) x + b_dn) + b_up ] at a sub-layer."""

    bottleneck: int = option(8, "width of the adapter")
    placement: str = option("parallel", "parallel (fed with the sub-layer's input) or sequential (with its output)")
    scale: float | None = option(None, "s; none: 0.1 for parallel, 1 for sequential and with a learned one")
    learned_scale: str | None = option(None, "a learned factor of the output beside s, from one: scalar, channel")
    activation: str = option("relu", "relu, gelu, silu, tanh")
    init: str = option("zero", "start: zero (the base model), or houlsby (weights from N(0, 0.01^2), near it)")
    dropout: float = option(0.0, "dropout on the adapter's input")
    drop_path: float = option(0.0, "stochastic depth of the adapter: leave it out for some examples in training")
    rescale: str | None = option(None, _RESCALE)
    targets: tuple[str, ...] = option(("mlp",), "roles or name patterns of sub-layers, or of whole blocks")


@dataclass(frozen=True)
class PrefixConfig(MaskOptions):
    """CapaBoost-Prefix: learned keys and values in front of those of an attention layer."""

    prefix_length: int = option(10, "number of prefix tokens of each layer")
    bottleneck: int | None = option(None, "rank of the reparameterisation MLP (tanh); none: a masked table")
    shared: bool = option(False, "one table and first layer of the MLP for all layers, as in prefix tuning")
    targets: tuple[str, ...] = option(("attn",), "roles or name patterns of attention layers")


@dataclass(frozen=True)
class PromptConfig(MaskOptions):
    """CapaBoost-Prompt: learned tokens beside the image's, new ones in each block (deep) or once (shallow)."""

    prompt_length: int = option(10, "number of prompt tokens")
    bottleneck: int | None = option(None, "rank of the reparameterisation MLP (tanh); none: a masked table")
    deep: bool = option(True, "new tokens in each block; false: only in front of the first")
    targets: tuple[str, ...] = option(("block",), "role or name pattern of the blocks")


@dataclass(frozen=True)
class Ia3Config:
    """IA3: learned vectors that scale the outputs of some layers and the inputs of others; not masked."""

    targets: tuple[str, ...] = option(("key", "value"), "roles or name patterns of layers whose outputs are scaled")
    inputs: tuple[str, ...] = option(("mlp_out",), "roles or name patterns of linear layers whose inputs are scaled")


@dataclass(frozen=True)
class SsfConfig:
    """SSF: y = l * z + b behind the layers; not masked."""

    targets: tuple[str, ...] = option(
        ("patch_embed", "query", "key", "value", "attn_out", "mlp_in", "mlp_out", "norm"),
        "roles or name patterns of linear layers, convolutions and norms",
    )


@dataclass(frozen=True)
class UnipeltConfig(MaskOptions):
    """UniPELT: LoRA, prefix and adapter behind gates, and compositions with IA3 and a prompt (for text).

    As published there are no masks: the default is num_branches=1 with density=1. With num_branches=2, density=0.5
    LoRA, adapter and the MLP of the prefix are CapaBoost's.
    """

    num_branches: int = option(1, "d: how many masked views of the shared weights are summed")
    density: float | None = option(1.0, _DENSITY)
    parts: tuple[str, ...] = option(("lora", "prefix", "adapter"), "lora, prefix, adapter, ia3, prompt")
    copies: int = option(1, "how many of the whole stand around each other")
    rank: int = option(8, "rank of LoRA, whose gate stands for alpha / rank")
    bottleneck: int = option(48, "width of the adapters (768 / 16)")
    activation: str = option("relu", "of the adapters: relu, gelu, silu, tanh")
    prefix_length: int = option(10, "number of prefix tokens of each layer")
    prefix_bottleneck: int | None = option(512, "width of the prefixes' one MLP (tanh); none: plain tables")
    prompt_length: int = option(10, "number of prompt tokens, with the part prompt")


@dataclass(frozen=True)
class NormConfig:
    """LayerNorm-tuning: only the normalisation layers are trained, and the classifier."""


@dataclass(frozen=True)
class BitfitConfig:
    """BitFit: only the biases are trained, and the classifier."""


@dataclass(frozen=True)
class HeadConfig:
    """Only the classifier is trained: the linear probe."""


@dataclass(frozen=True)
class FullConfig:
    """Everything is trained: full fine-tuning."""


Config = (
    LoraConfig
    | AdapterConfig
    | PrefixConfig
    | PromptConfig
    | Ia3Config
    | SsfConfig
    | UnipeltConfig
    | NormConfig
    | BitfitConfig
    | HeadConfig
    | FullConfig
)

CONFIGS: dict[str, type[Config]] = {
    "lora": LoraConfig,
    "adapter": AdapterConfig,
    "prefix": PrefixConfig,
    "prompt": PromptConfig,
    "ia3": Ia3Config,
    "ssf": SsfConfig,
    "unipelt": UnipeltConfig,
    "norm": NormConfig,
    "bitfit": BitfitConfig,
    "head": HeadConfig,
    "full": FullConfig,
}


LISTS = {"targets", "inputs", "parts"}  # options that take several words


def option_names(method: str) -> list[str]:
    """The option names of one method."""
    return [f.name for f in dataclasses.fields(_config_class(method))]


def make_config(method: str, **options: Any) -> Config:
    """The checked configuration of a method. Raises ValueError / TypeError that name the nearest valid word."""
    cls = _config_class(method)
    names = option_names(method)
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise TypeError(f"method {method!r} has no option {name!r}{hint}; it has: {', '.join(names) or 'none'}")
    for name in LISTS & options.keys():
        words = options[name]
        options[name] = (words,) if isinstance(words, str) else tuple(words) if isinstance(words, Iterable) else words
    hints = typing.get_type_hints(cls)
    for name, value in options.items():
        check_type(f"{name} of method {method!r}", value, hints[name])
    return cls(**options)


def _config_class(method: str) -> type[Config]:
    if method not in CONFIGS:
        near = difflib.get_close_matches(str(method), CONFIGS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown method {method!r}{hint}: choose from {', '.join(CONFIGS)}")
    return CONFIGS[method]
