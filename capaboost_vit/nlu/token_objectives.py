"""Objectives with a target at each token: masked tokens, and a tag for each word of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..training.distributed import ProcessGroup
from ..training.metrics import scores
from ..training.objective import Objective
from ..training.outputs import Outputs
from .tasks import Task
from .words import Sentences, tags_of


def masked_tokens() -> Objective:
    """Cross-entropy of the masked tokens, the mean in each example: outputs (B, N, V), targets (B, N), -100 elsewhere.

    An example without a masked token adds nothing. Scores: share of the tokens that are predicted (%), and minus the
    mean cross-entropy of a token, in nats.
    """

    def of_counts(counts: Tensor, _: Any) -> dict[str, float]:
        right, total, loss_sum = counts.tolist()
        return {"accuracy": 100 * right / total, "log_likelihood": -loss_sum / total}

    return Objective(("accuracy", "log_likelihood"), token_loss, lambda _: TokenCounts(), of_counts)


def token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of outputs (B, N, V) where targets (B, N) are not -100: the mean in each example, their sum."""
    losses, asked = _token_losses(outputs, targets)
    return (losses.sum(1) / asked.sum(1).clamp(min=1)).sum()


class TokenCounts:
    """How many masked tokens were predicted right, how many there were, and the sum of their cross-entropies."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """outputs (B, N, V), targets (B, N)."""
        losses, masked = _token_losses(outputs, targets)
        right = (outputs.argmax(-1) == targets) & masked
        sums = torch.stack([right.sum().double(), masked.sum().double(), losses.double().sum()])
        self.sums = sums if self.sums is None else self.sums + sums

    def result(self, world: ProcessGroup) -> Tensor:
        """The sums over all processes."""
        assert self.sums is not None
        return world.sum(self.sums).cpu()


def _token_losses(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token (B, N), zero where it is not masked, and where it is."""
    masked = targets >= 0
    losses = F.cross_entropy(outputs.float().transpose(1, 2), targets.where(masked, -100), reduction="none")
    return losses, masked


class TokenAnswers:
    """The most probable tag at each token, (pieces, N) float32, in the order of the split; -1 where no word begins."""

    def __init__(self, batches: Any) -> None:
        self.outputs = Outputs(batches)

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """outputs (B, N, C), targets (B, N)."""
        self.outputs.add(outputs.argmax(-1).where(targets >= 0, -1), targets.amax(1))

    def result(self, world: ProcessGroup) -> Tensor:
        """Gathered from all processes."""
        return self.outputs.result(world)


def tagging(task: Task, classes: Sequence[str]) -> Objective:
    """Cross-entropy of the first token of each word, the mean in each piece of a sentence, and the task's scores.

    transformers' example takes the mean over all words of a batch, so that there a long sentence counts more.
    """
    of_entities = "f1" in task.metrics
    if of_entities:
        import seqeval  # noqa: F401  # what is missing is told before the first epoch

    def score(answers: Tensor, batches: Any) -> dict[str, float]:
        encoded: Sentences = batches.source.encoded
        asked = np.concatenate([row[row >= 0] for row in encoded.targets or ()])
        found = tags_of(encoded, answers)
        predicted = [tag for row in found for tag in row]
        plain = [name for name in task.metrics if name in ("accuracy", "macro_f1")]
        values = scores(plain, torch.tensor(predicted), torch.from_numpy(asked))
        if of_entities:
            ends = np.cumsum([len(row) for row in found])[:-1]
            values |= entity_scores(found, [row.tolist() for row in np.split(asked, ends)], classes)
        return {name: values[name] for name in task.metrics}

    return Objective(task.metrics, token_loss, TokenAnswers, score)


def entity_scores(
    found: Sequence[Sequence[int]], asked: Sequence[Sequence[int]], classes: Sequence[str]
) -> dict[str, float]:
    """precision, recall and f1 of entities in per cent, by seqeval, over all types (micro average).

    An entity is right where its type, its first and its last word are; conlleval's reading of the prefixes.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    values = precision_recall_fscore_support(
        _named(asked, classes), _named(found, classes), average="micro", zero_division=0
    )
    return {name: 100 * float(value) for name, value in zip(("precision", "recall", "f1"), values[:3], strict=True)}


def entity_table(
    found: Sequence[Sequence[int]], asked: Sequence[Sequence[int]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of `entity`, `precision`, `recall`, `f1` (per cent) and `support`, by seqeval: of each type that occurs."""
    from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

    named = _named(asked, classes), _named(found, classes)
    kinds = sorted({kind for rows in named for row in rows for kind, *_ in get_entities(row)})
    *shares, support = precision_recall_fscore_support(*named, average=None, zero_division=0)
    return [
        {
            "entity": kind,
            **dict(zip(("precision", "recall", "f1"), map(float, row), strict=True)),
            "support": int(count),
        }
        for kind, *row, count in zip(kinds, *(100 * values for values in shares), support, strict=True)
    ]


def _named(rows: Sequence[Sequence[int]], classes: Sequence[str]) -> list[list[str]]:
    return [[classes[tag] for tag in row] for row in rows]
