"""Exact match and F1 of SQuAD, and the threshold from which no answer is the better answer.

The rules are those of SQuAD's official script of v2 (evaluate-v2.0.py). The one of v1.1 gives the same numbers unless
both an answer and a reference are nothing but articles and punctuation, such as "the".
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .answers import Answer
from .reading import Question

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


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
