"""From the logits of a question's windows to one answer; exact match, F1 and the no-answer threshold of SQuAD.

The rules of scoring are those of SQuAD's official script of v2 (evaluate-v2.0.py). The one of v1.1 gives the same
numbers unless both an answer and a reference are nothing but articles and punctuation, such as "the".
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .features import CLS, Windows
from .reading import Question, QuestionSplit

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Answer:
    """What a model answers to a question."""

    text: str  # empty for no answer
    score: float  # start logit + end logit of the best span of the context; -inf where no span was a candidate
    null_gap: float  # the score of "no answer" less that of the best span: the larger, the less likely is an answer
    span: str  # the text of the best span, given or not


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
    for place, name, span, of_start, of_end in zip(
        windows.question, windows.names, windows.spans, start, end, strict=True
    ):
        context = np.flatnonzero(span[:, 0] >= 0)
        read = np.append(context, CLS)
        if not ((of_start[read] < np.inf) & (of_end[read] < np.inf)).all():  # NaN is not below either
            raise ValueError(f"NaN or inf among the logits of {name}: training has diverged, take a smaller --lr")
        null[place] = min(null[place], of_start[CLS] + of_end[CLS])
        score, first, last = _best_span(of_start, of_end, context, n_best, max_answer_length)
        if score > best[place][0]:
            best[place] = (score, split.questions[place].context[span[first, 0] : span[last, 1]])
    answers = {}
    for question, (score, text), null_score in zip(split, best, null, strict=True):
        gap = float(null_score - score) if score > -math.inf else math.inf
        answers[question.id] = Answer("" if no_answer and gap > threshold else text, score, gap, text)
    return answers


def _array(logits: Tensor | np.ndarray) -> np.ndarray:
    return logits.detach().cpu().double().numpy() if isinstance(logits, Tensor) else np.asarray(logits, np.float64)


def _best_span(
    start: np.ndarray, end: np.ndarray, context: np.ndarray, n_best: int, max_answer_length: int
) -> tuple[float, int, int]:
    """Score, first and last token of the best span of a window's context tokens; -inf where there is none."""
    if not len(context):
        return -math.inf, CLS, CLS
    # of equal logits the first ones; in the order of the text, so that of equal sums the first one is found
    firsts, lasts = (np.sort(context[np.argsort(-logits[context], kind="stable")[:n_best]]) for logits in (start, end))
    scores = start[firsts][:, None] + end[lasts]
    length = 1 + lasts - firsts[:, None]
    scores[(length < 1) | (length > max_answer_length)] = -np.inf
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[first, last]), int(firsts[first]), int(lasts[last])


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, without a, an, the, with single spaces; in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def score_answer(text: str, references: Iterable[str]) -> tuple[float, float]:
    """(exact match, F1) of an answer, 0 to 1, each the largest over the references.

    F1 is that of the bags of words; where one of the two is empty it is 1 if both are, else 0. References of which
    nothing is left do not count; without any other, no answer is right.
    """
    words = normalize_answer(text).split()
    golds = [gold for gold in (normalize_answer(reference).split() for reference in references) if gold] or [[]]
    return float(words in golds), max(_f1(words, gold) for gold in golds)


def score_answers(questions: Iterable[Question], answers: Mapping[str, Answer | str]) -> dict[str, float]:
    """`exact_match` and `f1` in percent of the questions; where some have no answer, also by whether they have one.

    The latter are has_answer_exact_match, has_answer_f1, no_answer_exact_match and no_answer_f1, each where it has a
    question.

    Args:
        answers: by the id of the question, as `best_answers` gives them, or as texts; others are ignored.

    Raises:
        ValueError: no question, or one without an answer in `answers` (an empty text is one), by its id.
    """
    rows = []
    for question in _answered(questions, answers):
        answer = answers[question.id]
        text = answer.text if isinstance(answer, Answer) else answer
        rows.append((bool(question.answers), *score_answer(text, question.answers)))
    table = np.array(rows)
    has = table[:, 0] == 1
    groups = {"": np.full(len(has), True)} | ({} if has.all() else {"has_answer_": has, "no_answer_": ~has})
    return {
        f"{group}{metric}": float(100 * table[chosen, column].mean())
        for group, chosen in groups.items()
        if chosen.any()
        for column, metric in ((1, "exact_match"), (2, "f1"))
    }


def best_threshold(questions: Iterable[Question], answers: Mapping[str, Answer]) -> float:
    """argmax over t of the F1 of answering with the best span where null_gap <= t, and not at all elsewhere.

    Meant for val; the threshold is then that of `best_answers` on test. As in the official script t is one of the gaps,
    of equals the lowest. It differs in two places: questions with the same gap go together, as no threshold can part
    them, and where it is best to answer nothing, t lies 1 below the smallest gap (there 0, as its gaps are
    probabilities).

    Args:
        answers: of `best_answers`, with any threshold.

    Raises:
        ValueError: no question, or one without an answer in `answers`, by its id.
    """
    gains: dict[float, float] = {}
    for question in _answered(questions, answers):
        answer = answers[question.id]
        gain = score_answer(answer.span, question.answers)[1] - score_answer("", question.answers)[1]
        gains[answer.null_gap] = gains.get(answer.null_gap, 0.0) + gain
    gaps = sorted(gains)
    totals = np.cumsum([0.0, *(gains[gap] for gap in gaps)])
    best = int(totals.argmax())
    return gaps[best - 1] if best else gaps[0] - 1


def _answered(questions: Iterable[Question], answers: Mapping[str, Any]) -> list[Question]:
    """The questions, each of which has an answer. Raises ValueError elsewhere."""
    asked = list(questions)
    if not asked:
        raise ValueError("no question to score: the split is empty")
    missing = [question.id for question in asked if question.id not in answers]
    if missing:
        raise ValueError(f"{len(missing)} of {len(asked)} questions have no answer, such as {missing[0]!r}")
    return asked


def _f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    same = sum((Counter(words) & Counter(gold)).values())
    return 2 * same / (len(words) + len(gold))
