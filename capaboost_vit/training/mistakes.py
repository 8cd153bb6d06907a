"""Top losses: the worst mistakes of a classification, of which the model was surest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .distributed import ProcessGroup


class Mistakes:
    """Top losses: the wrong answers with the largest cross-entropy, kept beside the confusion matrix.

    Nothing is waited for before the end: at most `keep` rows stay on the device.

    Answers that are no number are not among them. Places are exact up to 2^24 examples in a process.

    Args:
        indices: places in the split of this process's examples, in the order in which they come.
        keep: how many.
    """

    def __init__(self, indices: Sequence[int], world: ProcessGroup, *, keep: int = 24) -> None:
        self.indices, self.world, self.keep = indices, world, keep
        self.seen = 0
        self.rows: Tensor | None = None  # (keep, 6): loss, position, label, answer, probabilities of both

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """outputs (B, C), targets (B,); labels of -1 count for nothing."""
        logs = outputs.float().log_softmax(-1)
        labels, answers = targets.clamp(min=0), outputs.argmax(-1)
        of_label, of_answer = (logs.gather(1, index[:, None])[:, 0] for index in (labels, answers))
        wrong = (targets >= 0) & (answers != labels)
        losses = torch.where(wrong, -of_label, -torch.inf).nan_to_num(
            nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf
        )
        places = torch.arange(self.seen, self.seen + len(targets), device=outputs.device)
        batch_rows = torch.stack([losses, places, labels, answers, of_label.exp(), of_answer.exp()], 1)
        self.seen += len(targets)
        rows = batch_rows if self.rows is None else torch.cat([self.rows, batch_rows])
        self.rows = rows[rows[:, 0].argsort(descending=True, stable=True)[: self.keep]]

    def result(self) -> list[dict[str, Any]]:
        """Those of all processes, the worst first, of equals the one that comes first in the split.

        `place` in the split, `label`, `answer`, and the probabilities of both.
        """
        rows = [] if self.rows is None else [row for row in self.rows.tolist() if row[0] > -torch.inf]
        mistakes = [
            {
                "loss": loss,
                "place": self.indices[int(position)],
                "label": int(label),
                "answer": int(answer),
                "label_probability": of_label,
                "answer_probability": of_answer,
            }
            for loss, position, label, answer, of_label, of_answer in rows
        ]
        gathered = sorted(self.world.gather(mistakes), key=lambda row: (-row["loss"], row["place"]))
        return [{name: value for name, value in row.items() if name != "loss"} for row in gathered[: self.keep]]
