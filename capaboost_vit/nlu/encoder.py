"""Wrappers of a whole encoder: a prompt in front of its tokens, and a look at its padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.adapted import Wrapper
from ..core.gate import Padding
from ..core.virtual_tokens import VirtualTokens
from .masks import real_positions, with_tokens


class PromptedEncoder(Wrapper):
    """An encoder that sees P learned tokens in front of the embeddings (B, N, D): `encoder([p; x])`, mask extended.

    The embeddings have their positions already, so these do not shift; DeBERTa's relative ones count the prompt. The
    prompt is taken off the output again: the first token stands first, and answers stay where they are.

    Args:
        base: the encoder, called with embeddings and an attention mask.
        tokens: the prompt.
        dropped: P.
    """

    def __init__(self, base: nn.Module, tokens: VirtualTokens, dropped: int) -> None:
        super().__init__(base)
        self.tokens = tokens
        self.dropped = dropped
        self.train(base.training)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        prompt = self.tokens().to(hidden_states.dtype).expand(len(hidden_states), -1, -1)
        hidden_states = torch.cat([prompt, hidden_states], dim=1)
        output = self.base(hidden_states, with_tokens(attention_mask, self.tokens.length), *args, **kwargs)
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


class WatchedEncoder(Wrapper):
    """An encoder whose padding is told to gates before it computes."""

    def __init__(self, base: nn.Module, padding: Padding) -> None:
        super().__init__(base)
        self.padding = padding
        self.train(base.training)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        self.padding.real = real_positions(attention_mask)
        return self.base(hidden_states, attention_mask, *args, **kwargs)
