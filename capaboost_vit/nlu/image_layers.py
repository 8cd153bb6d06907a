"""Wrappers of the layers of transformers' ViTs: learned keys and values in an attention layer, a prompt in a block."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.inject import features
from ..core.virtual_tokens import VirtualTokens
from ..core.wrapper import Wrapper, unwrap
from .encoder import captured_outputs, with_keys

_OUTPUTS = ("o_proj", "out_proj")  # ViT's; CLIP's and SigLIP's


def is_plain_attention(attention: nn.Module) -> bool:
    """Whether an attention layer is `o_proj(softmax(scale * q k^T) v)` of its projections and nothing else.

    That is, it has no modules but these four, and is called with tokens and a mask: no rotary positions, no bias of its
    own, no causal mask.
    """
    layer = unwrap(attention)
    children = {name for name, child in layer.named_children()}
    plain = any(children == {"q_proj", "k_proj", "v_proj", output} for output in _OUTPUTS)
    return plain and _takes_tokens_and_mask(layer) and getattr(layer, "is_causal", None) is False


def is_plain_block(block: nn.Module) -> bool:
    """Whether a block is called with tokens and a mask, so that it cannot know where a token stands."""
    return _takes_tokens_and_mask(unwrap(block))


def _takes_tokens_and_mask(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters
    return {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD} == {
        "hidden_states",
        "attention_mask",
    }


class PrefixedAttention(Wrapper):
    """`o_proj(softmax(scale * q [K_p; K]^T) [V_p; V])`: P learned keys and values in front of an attention layer's own.

    The vectors are (P, 2 * H * D): keys, then values. With P = 0 this is the base. A gate of the tokens, if there is
    one, scales both. Attention weights are not made: a call that asks for them (`output_attentions`) is refused.

    Args:
        base: a layer that `is_plain_attention`.
        make_tokens: builds the virtual tokens of a given width.

    Raises:
        TypeError: an attention layer of another kind.
        ValueError: a layer that carries something already.
    """

    adds = "a prefix"

    def __init__(self, base: nn.Module, make_tokens: Callable[[int], VirtualTokens]) -> None:
        if isinstance(base, Wrapper):  # whose projections are those of what it contains
            raise ValueError(
                f"an attention layer carries {base.adds} already: detach it first, or leave it out of targets"
            )
        if not is_plain_attention(base):
            raise TypeError(f"prefixes need a plain attention layer, got {type(unwrap(base)).__name__}")
        super().__init__(base)
        self.tokens = make_tokens(2 * features(base)[0])
        layer: Any = base
        self.head_dim: int = layer.head_dim
        self.train(base.training)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        if "attentions" in captured_outputs():
            raise ValueError("a layer with a prefix gives out no attention weights: leave output_attentions out")
        base: Any = self.base
        q, k, v = (
            project(hidden_states).unflatten(-1, (-1, base.head_dim)).transpose(1, 2)  # (B, H, N, D)
            for project in (base.q_proj, base.k_proj, base.v_proj)
        )
        prefix = self.tokens().to(k.dtype).unflatten(-1, (2, -1, base.head_dim)).permute(1, 2, 0, 3).unsqueeze(1)
        if self.tokens.gate is not None:
            prefix = prefix * self.tokens.gate(hidden_states).unsqueeze(-1)
        keys, values = prefix.expand(-1, len(k), -1, -1, -1)  # (B, H, P, D) each
        dropout = getattr(base, "attention_dropout", None)
        y = F.scaled_dot_product_attention(
            q,
            torch.cat([keys, k], dim=2),
            torch.cat([values, v], dim=2),
            attn_mask=with_keys(attention_mask, self.tokens.length),
            dropout_p=0.0 if not base.training else base.dropout if dropout is None else dropout,
            scale=base.scaling if hasattr(base, "scaling") else base.scale,
        )
        project = next(getattr(base, name) for name in _OUTPUTS if hasattr(base, name))
        return project(y.transpose(1, 2).flatten(2)), None

    def gate_widths(self) -> dict[str, int]:
        """The gate looks at the layer's input."""
        return {"tokens": features(self)[0]}


class PromptedBlock(Wrapper):
    """A block that sees P learned tokens behind its own: `block([x; P])`, tokens (B, N, D), as in `core.Prompted`.

    What transformers collects as hidden states is without them, too.

    Args:
        base: a block that `is_plain_block`.
        tokens: the prompt, or None for a block that only passes on the prompt of an earlier one.
        dropped: how many trailing tokens to take off the output.

    Raises:
        TypeError: a block of another kind.
    """

    adds = "a prompt"

    def __init__(self, base: nn.Module, tokens: VirtualTokens | None, dropped: int) -> None:
        if not is_plain_block(base):
            raise TypeError(
                f"prompts need blocks without positions of their own, got {type(unwrap(base)).__name__}: take lora"
            )
        super().__init__(base)
        self.tokens = tokens
        self.dropped = dropped
        self.train(base.training)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        if attention_mask is not None:
            raise ValueError("prompts do not work with an attention mask, which misses the prompt")
        if self.tokens is not None:
            hidden_states = torch.cat([hidden_states, self.tokens.for_batch(hidden_states)], dim=1)
        y: Tensor = self.base(hidden_states, attention_mask, **kwargs)
        real = y.shape[1] - self.dropped
        if self.dropped and (states := captured_outputs().get("hidden_states")):
            states[:] = [state if state is None else state[:, :real] for state in states]
        return y[:, :real]
