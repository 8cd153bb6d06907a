"""Pruning of prompts: the tokens and segments of the highest scores stay, and begin anew."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..core.pruned_table import PrunedTable
from ..core.tied import TiedMaskedWeight
from ..core.virtual_tokens import VirtualTokens


class PromptPruning:
    """Pruning of prompts by gradient scores: `begin` inserts the complete tables, `end` scores them and prunes.

    Let rho_k = 1 be a factor of token k in all blocks, rho_ks one of its segment s, and p_k the token in a block.
    Scores are

        E |dL/drho_k| and E |dL/drho_ks|, with dL/drho_k = sum_s dL/drho_ks = sum over blocks of dL/dp_k . p_k,

    means over the training examples, in evaluation mode. The tokens with the highest scores are kept, the same ones in
    each block, and of each kept token the segments with the highest scores.

    Args:
        job: of a run, before its first update.
        whole: returns the complete table, with its initial values, for a pruned one.
    """

    def __init__(self, job: Any, whole: Callable[[PrunedTable], TiedMaskedWeight]) -> None:
        self.job, self.whole = job, whole
        self.pruned: list[tuple[VirtualTokens, PrunedTable]] = [
            (module, module.table)
            for module in job.model.modules()
            if isinstance(module, VirtualTokens) and isinstance(module.table, PrunedTable)
        ]
        self.before: list[tuple[Tensor, Tensor]] = []

    def begin(self) -> None:
        """Puts whole tables in, at their start values."""
        model = self.job.model
        changing = chain((p for p in model.parameters() if p.requires_grad), model.buffers())
        self.before = [(tensor, tensor.detach().clone()) for tensor in changing]
        for tokens, table in self.pruned:
            tokens.table = self.whole(table)
        self._set_lengths()

    @torch.no_grad()
    def end(self) -> None:
        """Puts the pruned tables back, with the start values of what stays; all else is as it was at `begin`."""
        of_tokens, of_segments = self.scores()
        for tensor, value in self.before:
            tensor.copy_(value)
        self.before = []
        for tokens, table in self.pruned:
            count, kept = table.segments.shape
            rows = of_tokens.argsort(descending=True, stable=True)[:count].sort().values
            segments = of_segments[rows].argsort(dim=1, descending=True, stable=True)[:, :kept].sort(1).values
            table.take(self.whole(table), rows, segments)
            tokens.table = table
        self._set_lengths()

    @torch.enable_grad()
    def scores(self) -> tuple[Tensor, Tensor]:
        """Of the tokens (P,), and of their segments (P, S): sums over the training examples of all processes."""
        job, (first, table) = self.job, self.pruned[0]
        of_tokens = torch.zeros(first.length, device=job.state.device)
        of_segments = torch.zeros(first.length, table.count, device=job.state.device)
        job.called.eval()
        if job.front is not None:
            job.front.fill()
        for update in job.train.epoch(0):
            for batch in update.batches:
                inputs, targets = job.mix(job.prepare(batch))
                probe = of_segments.new_ones(len(targets), *of_segments.shape).requires_grad_()
                for tokens, _ in self.pruned:
                    tokens.probe = probe
                job.objective.loss(job.logits(inputs), targets).backward()  # a sum: each example by itself
                assert probe.grad is not None
                of_tokens += probe.grad.sum(-1).abs().sum(0)
                of_segments += probe.grad.abs().sum(0)
        for tokens, _ in self.pruned:
            tokens.probe = None
        job.model.zero_grad(set_to_none=True)
        return job.world.sum(of_tokens), job.world.sum(of_segments)

    def _set_lengths(self) -> None:
        """As many tokens as the tables have; the wrappers of the model, and of what is called, take them off again."""
        for tokens, _ in self.pruned:
            tokens.length = tokens().shape[0]
        prompts = {tokens for tokens, _ in self.pruned}
        for module in chain(self.job.model.modules(), self.job.called.modules()):
            # the last block of the class row alone has none to take off
            if getattr(module, "tokens", None) in prompts and module.dropped:
                module.dropped = module.tokens.length
