"""Questions about a text, whose answers are spans of it, by split."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question, the text that may hold its answer, and the answers that people gave.

    Args:
        answers: texts; none where the context holds no answer (SQuAD v2).
        starts: of each answer, the index of its first character in the context.
        title: what the questions of one article share.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    title: str


@dataclass(frozen=True)
class QuestionSplit:
    """The questions of one split."""

    questions: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of the questions."""
        return tuple(question.id for question in self.questions)

    @property
    def unanswerable(self) -> int:
        """How many questions have no answer."""
        return sum(not question.answers for question in self.questions)

    def record(self) -> dict[str, int | str]:
        """The fingerprint that is stored with a result: `examples`, their number, and `sha256` over all they hold."""
        digest = hashlib.sha256()
        for question in self.questions:
            digest.update(json.dumps(vars(question)).encode() + b"\n")
        return {"examples": len(self), "sha256": digest.hexdigest()}
