"""The wrapper of a whole encoder, a prompt in front of its tokens; and attention masks made longer at the front."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.virtual_tokens import VirtualTokens
from ..core.wrapper import Wrapper


class PromptedEncoder(Wrapper):
    """An encoder that sees P learned tokens in front of the embeddings (B, N, D): `encoder([p; x])`, mask extended.

    The embeddings have their positions already, so these do not shift; DeBERTa's relative ones count the prompt. The
    prompt is taken off the output and the hidden states again: the first token stands first, and answers stay where
    they are. Attention weights keep it.

    Args:
        base: the encoder, called with embeddings and an attention mask.
        dropped: P, the tokens that are taken off.
    """

    adds = "a prompt"

    def __init__(self, base: nn.Module, tokens: VirtualTokens, dropped: int) -> None:
        super().__init__(base)
        self.tokens = tokens
        self.dropped = dropped
        self.train(base.training)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        hidden_states = torch.cat([self.tokens.for_batch(hidden_states), hidden_states], dim=1)
        output = self.base(hidden_states, with_tokens(attention_mask, self.tokens.length), *args, **kwargs)
        if captured := captured_outputs().get("hidden_states"):
            captured[:] = self._without_prompt(captured)
        return self._without_prompt(output)

    def _without_prompt(self, output: Any) -> Any:
        """Hidden states (B, P+N, D) wherever they stand in the output, less the prompt."""
        if isinstance(output, Tensor):
            return output[:, self.dropped :] if output.dim() == 3 else output
        if isinstance(output, dict):  # transformers' outputs are
            for name, value in output.items():
                output[name] = self._without_prompt(value)
            return output
        if isinstance(output, tuple | list):
            return type(output)(self._without_prompt(value) for value in output)
        return output


def captured_outputs() -> dict[str, list[Any]]:
    """What transformers 5 collects beside the outputs, by hooks on the layers: a private name of it, hence in here."""
    try:
        from transformers.utils.output_capturing import _active_collector
    except ImportError:  # older releases return them from the encoder
        return {}
    return _active_collector.get() or {}


def with_keys(mask: Tensor | None, count: int) -> Tensor | None:
    """The mask with `count` more keys in front that every query sees; None hides nothing.

    It is (B, M) of keys, (B, N, M) or (B, 1, N, M); bool, 0 and 1, or what is added to the scores.

    Raises:
        TypeError: the mask is no tensor, as that of flex attention.
    """
    if mask is None or count == 0:
        return mask
    if not isinstance(mask, Tensor):
        kind = type(mask).__name__
        raise TypeError(f"a {kind} as mask cannot be made longer: load the model with attn_implementation='sdpa'")
    return F.pad(mask, (count, 0), value=_seen(mask))


def with_tokens(mask: Tensor | None, count: int) -> Tensor | None:
    """The mask with `count` more tokens in front: keys that every query sees, and queries that see what is real."""
    mask = with_keys(mask, count)
    if mask is None or count == 0 or mask.dim() < 3:
        return mask
    return torch.cat([mask[..., :1, :].expand(*mask.shape[:-2], count, -1), mask], dim=-2)


def real_positions(mask: Tensor | None) -> Tensor | None:
    """Which positions are no padding, (B, M) bool, or None for all: the keys that some query sees."""
    if mask is None:
        return None
    seen = mask if mask.dtype == torch.bool else mask == _seen(mask)
    return seen if seen.dim() < 3 else seen.flatten(1, -2).any(1)


def _seen(mask: Tensor) -> float:
    """The value of a key that is seen: one, or zero where the mask is added to the scores."""
    return 0.0 if mask.is_floating_point() and mask.dim() == 4 else 1.0
