"""UniPELT: LoRA, prefix and adapter in every layer, each behind a gate; and its relatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ..core.adapted import Adapted, Wrapper
from ..core.adapted_linear import AdaptedLinear
from ..core.gate import Gate, Padding
from ..core.inject import Anatomy, attach, device_and_dtype, features, find, get
from ..core.names import namer
from ..core.scaled import Scaled
from ..core.virtual_tokens import VirtualTokens
from .adapter import adapter
from .ia3 import ia3
from .lora import lora
from .prefix import prefix
from .prompt import prompt

PARTS = ("lora", "prefix", "adapter", "ia3", "prompt")


def unipelt(
    model: nn.Module,
    anatomy: Anatomy,
    *,
    parts: tuple[str, ...],
    copies: int,
    rank: int,
    bottleneck: int,
    activation: str,
    prefix_length: int,
    prefix_bottleneck: int | None,
    prompt_length: int,
    num_branches: int,
    density: float | None,
    pattern: str,
    mask_seed: int,
    init_seed: int,
) -> list[str]:
    """Adds the named parts to every layer, and a gate `g = mean sigmoid(x w + b)` to each branch but the prompt.

    LoRA on query and value, `y = W x + g B A x` (the gate stands for alpha / rank); a prefix `[g K_p; K]`, `[g V_p; V]`
    whose layers share one reparameterisation MLP; a sequential adapter behind the MLP, `y + g up(act(down(y)))`; IA3 on
    key, value and the MLP's hidden units, `x (1 + g (l - 1))`; a prompt in front of the embeddings, without a gate.
    A gate looks at what its branch is fed with; that of the hidden units at the MLP's input.

    Source: UniPELT, arXiv 2110.07577; with a prompt-tuning layer and the other compositions, arXiv 2405.05493. How
    gates act on IA3 and how several copies stand together is not published: `copies` stand around each other.

    Raises:
        ValueError: an unknown part, no part, copies < 1, prefixes that take no gates, or what the parts refuse.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f"unipelt has the parts {', '.join(PARTS)}, got {', '.join(unknown) or 'none'}")
    if copies < 1:
        raise ValueError(f"copies must be at least 1, got {copies}")
    if "prefix" in parts and anatomy.prefix_attention and not hasattr(anatomy.prefix_attention, "takes_gate"):
        raise ValueError(f"the prefixes of a {type(model).__name__} take no gates: leave 'prefix' out of parts")
    masks: dict[str, Any] = dict(num_branches=num_branches, density=density, pattern=pattern)
    plain: dict[str, Any] = dict(num_branches=1, density=1.0, pattern="random")
    names: list[str] = []
    before = {id(module) for module in model.modules()}
    for copy in range(copies):
        seeds: dict[str, Any] = dict(mask_seed=mask_seed + copy, init_seed=init_seed + copy, stacked=True)
        if "lora" in parts:
            names += lora(
                model,
                anatomy,
                rank=rank,
                alpha=float(rank),
                dropout=0.0,
                targets=("query", "value"),
                freeze_down=False,
                execution="auto",
                rescale=None,
                **masks,
                **seeds,
            )
        if "ia3" in parts:
            names += ia3(model, anatomy, targets=("key", "value", "mlp_hidden"), inputs=(), stacked=True)
        if "adapter" in parts:
            names += adapter(
                model,
                anatomy,
                bottleneck=bottleneck,
                placement="sequential",
                scale=1.0,
                learned_scale=None,
                activation=activation,
                init="zero",
                dropout=0.0,
                drop_path=0.0,
                rescale=None,
                targets=("mlp",),
                **masks,
                **seeds,
            )
        if "prefix" in parts:
            names += prefix(
                model,
                anatomy,
                prefix_length=prefix_length,
                bottleneck=prefix_bottleneck,
                shared=prefix_bottleneck is not None,
                targets=("attn",),
                **(masks if prefix_bottleneck is not None else plain),
                **seeds,
            )
        if "prompt" in parts:
            names += prompt(
                model,
                anatomy,
                prompt_length=prompt_length,
                bottleneck=None,
                deep=False,
                targets=("block",),
                **plain,
                **seeds,
            )
    padding = Padding()
    _add_gates(model, anatomy, before, padding, init_seed)
    if anatomy.watching is not None:
        for place in find(model, "attn", anatomy, use="prefix"):
            attach(model, place.name, anatomy.watching(get(model, place.name), padding))
    return list(dict.fromkeys(names))


def _add_gates(model: nn.Module, anatomy: Anatomy, before: set[int], padding: Padding, init_seed: int) -> None:
    """A gate for each branch of the wrappers that were not there before, but for prompts."""
    canonical = namer(model)
    for name, wrapper in list(model.named_modules()):
        if id(wrapper) in before or not isinstance(wrapper, Wrapper) or isinstance(wrapper, anatomy.prompted):
            continue
        for path, branch, width in _gated(wrapper):
            gate = Gate(width, padding=padding, init_seed=init_seed, path=canonical(f"{name}.{path}"))
            branch.gate = gate.to(**device_and_dtype(branch))


def _gated(wrapper: Wrapper) -> Iterator[tuple[str, Any, int]]:
    """The branches of a wrapper, with their places in it and the widths of what their gates look at."""
    if isinstance(wrapper, AdaptedLinear):
        for part, branch in wrapper.branches.items():
            yield f"branches.{part}", branch, wrapper.in_features
    elif isinstance(wrapper, Adapted):
        yield "branch", wrapper.branch, wrapper.branch.in_features
    elif isinstance(wrapper, Scaled):
        for part, scale in wrapper.scales.items():
            yield f"scales.{part}", scale, features(wrapper)[0]
    elif isinstance(tokens := getattr(wrapper, "tokens", None), VirtualTokens):
        yield "tokens", tokens, features(wrapper)[0]
