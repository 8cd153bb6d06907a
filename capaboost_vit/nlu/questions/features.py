"""Questions with long contexts, as overlapping windows of tokens that a model can read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..tokens import Encoded, Tokens, check_room, tokenized
from .reading import Question, QuestionSplit

CLS = 0  # the token of a window that stands for "not in here"


@dataclass(frozen=True, eq=False)
class Windows(Encoded):
    """Token windows, W of them, each with a question and a part of its context.

    `names` are the ids of the questions, with a number from the second window of a question on, `id (2)`. `targets`
    (W, 2) are the first and the last token of the first answer, or 0, 0 (the cls token) where the window lacks a part
    of it. `cut` counts the questions that were too long and lost their end, while no context loses anything.

    Args:
        question: of each window, the index of its question in the split.
        spans: of each window, (N, 2) int32, the first character of each token and the one after its last, in the
            context; -1, -1 for a token that is not of the context.
    """

    question: tuple[int, ...] = field(kw_only=True)
    spans: tuple[np.ndarray, ...] = field(kw_only=True)


def encode_questions(
    split: QuestionSplit,
    tokenizer: Any,
    *,
    max_length: int = 384,
    stride: int = 128,
    max_question: int = 64,
) -> Windows:
    """`cls question sep context-part sep` for as many parts as the context needs, in the tokenizer's own arrangement.

    Args:
        max_length: tokens of a window.
        stride: tokens by which a part overlaps the next, as transformers counts; in Google's code of BERT, the word is
            for the distance from one part to the next.
        max_question: a longer question is cut after so many tokens; white space around it is left out.

    Raises:
        ValueError: see `check_room`; no cls token at the start of a text; a question that leaves no room for more
            context than the stride, by its id.
    """
    check_room(tokenizer, max_length, segments=2)
    if tokenizer.cls_token_id is None or tokenizer("a", "b")["input_ids"][CLS] != tokenizer.cls_token_id:
        kind = type(tokenizer).__name__
        raise ValueError(
            f"{kind} begins no text with a cls token, which stands for no answer: take an encoder such as BERT"
        )
    asked, cut = _questions(split, tokenizer, max_question, max_length, stride)
    pairs = [(text, question.context) for text, question in zip(asked, split.questions, strict=True)]
    windows_of = tokenized(tokenizer, pairs, truncation="only_second", max_length=max_length, stride=stride)
    tokens = Tokens(tokenizer)
    places: list[int] = []
    spans: list[np.ndarray] = []
    targets: list[tuple[int, int]] = []
    for place, (question, windows) in enumerate(zip(split.questions, windows_of, strict=True)):
        for number, window in enumerate(windows, start=1):
            of_context = np.array([sequence == 1 for sequence in window.sequence_ids])
            span = np.where(of_context[:, None], np.array(window.offsets, dtype=np.int32), np.int32(-1))
            tokens.add(window, question.id, number)
            places.append(place)
            spans.append(span)
            targets.append(_target(question, span, number == 1, number == len(windows)))
    return Windows(
        **tokens.fields(),
        targets=torch.tensor(targets, dtype=torch.int64).reshape(-1, 2),
        cut=cut,
        max_length=max_length,
        question=tuple(places),
        spans=tuple(spans),
    )


def _target(question: Question, span: np.ndarray, is_first: bool, is_last: bool) -> tuple[int, int]:
    """First and last token that share a character with the first answer; the cls token twice if it is not inside."""
    context = np.flatnonzero(span[:, 0] >= 0)
    if not question.answers or len(context) == 0:
        return CLS, CLS
    text = question.answers[0]
    start = question.starts[0] + len(text) - len(text.lstrip())
    end = question.starts[0] + len(text.rstrip())
    # characters that the tokenizer drops belong to the window all the same where the context begins or ends with it
    low = 0 if is_first else span[context[0], 0]
    high = len(question.context) if is_last else span[context[-1], 1]
    inside = context[(span[context, 1] > start) & (span[context, 0] < end)]
    if start < low or end > high or len(inside) == 0:
        return CLS, CLS
    return int(inside[0]), int(inside[-1])


def _questions(
    split: QuestionSplit, tokenizer: Any, max_question: int, max_length: int, stride: int
) -> tuple[list[str], int]:
    """The questions as they are asked, and how many were cut."""
    asked = [question.question.strip() for question in split.questions]
    alone = tokenizer(asked, add_special_tokens=False, verbose=False).encodings
    counts = [len(encoding) for encoding in alone]
    long = [i for i, count in enumerate(counts) if count > max_question]
    for i in long:
        asked[i] = asked[i][: alone[i].offsets[max_question][0]].rstrip()
        counts[i] = len(tokenizer(asked[i], add_special_tokens=False)["input_ids"])
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    for i, count in enumerate(counts):
        left = room - count
        if left <= stride:  # the tokenizer panics then, which is no Exception
            raise ValueError(
                f"question {split.questions[i].id!r} leaves {max(left, 0)} of --max-length {max_length} tokens for the "
                f"context, expected more than --stride {stride}: raise --max-length, or lower --stride or "
                "--max-question"
            )
    return asked, len(long)
