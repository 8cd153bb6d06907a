"""From the logits of a question's windows to one answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .features import CLS, Windows
from .reading import QuestionSplit

_AT_ONCE = 128  # windows, each with n_best x n_best candidates


@dataclass(frozen=True)
class Answer:
    """What a model answers to a question.

    Args:
        text: the answer; empty for none.
        score: start logit + end logit of the best span of the context; -inf where no span was a candidate.
        null_gap: the score of "no answer" less that of the best span: the larger, the less likely is an answer.
        span: the text of the best span, given or not.
    """

    text: str
    score: float
    null_gap: float
    span: str


def best_answers(
    split: QuestionSplit,
    windows: Windows,
    start_logits: Tensor | np.ndarray,
    end_logits: Tensor | np.ndarray,
    *,
    n_best: int = 20,
    max_answer_length: int = 30,
    no_answer: bool = False,
    threshold: float = 0.0,
) -> dict[str, Answer]:
    """argmax over the windows of a question and their spans i..j of start[i] + end[j], as the context has that text.

    Candidates are the `n_best` starts and the `n_best` ends among the context tokens of a window, with i <= j and at
    most `max_answer_length` tokens. Google's code of BERT takes the n best of all tokens and then drops those outside
    the context; here none is wasted. Of equal sums the first window wins, in it the first start, then the first end.
    The score of no answer is the minimum over the windows of start[cls] + end[cls].

    Args:
        windows: of this split.
        start_logits, end_logits: (W, N), windows padded to N tokens or more; what stands in the padding is not read.
        no_answer: whether "no answer" is allowed (SQuAD v2): it is given where null_gap > threshold.
        threshold: see `best_threshold`.

    Returns:
        by the id of the question; a question without a candidate has an empty text.

    Raises:
        ValueError: logits of another shape, or NaN or inf among those that are read.
    """
    start, end = _array(start_logits), _array(end_logits)
    longest = max((len(span) for span in windows.spans), default=0)
    if start.shape != end.shape or start.ndim != 2 or len(start) != len(windows) or start.shape[1] < longest:
        raise ValueError(
            f"expected start and end logits of {len(windows)} windows x {longest} tokens or more, "
            f"got {start.shape} and {end.shape}"
        )
    best = [(-math.inf, "")] * len(split)
    null = [math.inf] * len(split)
    for low in range(0, len(windows), _AT_ONCE):
        part = slice(low, low + _AT_ONCE)
        scores, firsts, lasts = _best_spans(windows, part, start[part], end[part], n_best, max_answer_length)
        nulls = start[part, CLS] + end[part, CLS]
        for i, place in enumerate(windows.question[part]):
            null[place] = min(null[place], nulls[i])
            if scores[i] > best[place][0]:
                span = windows.spans[low + i]
                text = split.questions[place].context[span[firsts[i], 0] : span[lasts[i], 1]]
                best[place] = (float(scores[i]), text)
    answers = {}
    for question, (score, span_text), null_score in zip(split, best, null, strict=True):
        gap = float(null_score - score) if score > -math.inf else math.inf
        answers[question.id] = Answer("" if no_answer and gap > threshold else span_text, score, gap, span_text)
    return answers


def _array(logits: Tensor | np.ndarray) -> np.ndarray:
    return logits.detach().cpu().double().numpy() if isinstance(logits, Tensor) else np.asarray(logits, np.float64)


def _best_spans(
    windows: Windows, part: slice, start: np.ndarray, end: np.ndarray, n_best: int, max_answer_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, first and last token of the best span of each window of a part; -inf where there is none."""
    context = np.zeros(start.shape, dtype=bool)
    for row, span in zip(context, windows.spans[part], strict=True):
        row[: len(span)] = span[:, 0] >= 0
    read = context.copy()
    read[:, CLS] = True
    wrong = np.flatnonzero((read & ~((start < np.inf) & (end < np.inf))).any(1))
    if len(wrong):
        raise ValueError(f"NaN or inf among the logits of {windows.names[part][wrong[0]]}: did the model diverge?")
    firsts, start = _likeliest(start, context, n_best)
    lasts, end = _likeliest(end, context, n_best)
    scores = start[:, :, None] + end[:, None, :]
    length = 1 + lasts[:, None, :] - firsts[:, :, None]
    scores[(length < 1) | (length > max_answer_length)] = -np.inf
    first, last = np.divmod(scores.reshape(len(scores), -1).argmax(1), end.shape[1])
    rows = np.arange(len(scores))
    return scores[rows, first, last], firsts[rows, first], lasts[rows, last]


def _likeliest(logits: np.ndarray, context: np.ndarray, n_best: int) -> tuple[np.ndarray, np.ndarray]:
    """The `n_best` context tokens of each row, of equals the first, in their order, and their logits; others -inf."""
    inside = np.where(context, logits, -np.inf)
    tokens = np.sort(np.argsort(-inside, axis=1, kind="stable")[:, :n_best])
    return tokens, np.take_along_axis(inside, tokens, 1)
