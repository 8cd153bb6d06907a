"""The answer is the best span of all windows, as a search of every span finds it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capaboost_vit.nlu.questions import Answer, Question, QuestionSplit, Windows, best_answers

ALL = 10_000
NAN, INF = float("nan"), float("inf")


def made(parts):
    """A split and its windows: of each question, of each window, (tokens before the context, of it, after it)."""
    questions, names, spans, owners = [], [], [], []
    for number, of_question in enumerate(parts):
        place, words = 0, []
        for before, inside, after in of_question:
            span = np.full((before + inside + after, 2), -1, dtype=np.int32)
            for token in range(inside):
                word = f"w{len(words)}"
                span[before + token] = place, place + len(word)
                words.append(word)
                place += len(word) + 1
            names.append(f"q{number} ({len(names)})")
            spans.append(span)
            owners.append(number)
        questions.append(Question(f"q{number}", "?", " ".join(words) or "x", (), (), "T"))
    ids = tuple(np.zeros(len(span), dtype=np.int32) for span in spans)
    targets = torch.zeros(len(spans), 2, dtype=torch.int64)
    windows = Windows(ids, None, targets, tuple(names), 0, question=tuple(owners), spans=tuple(spans))
    return QuestionSplit(tuple(questions)), windows


def searched(split, windows, start, end, *, n_best, longest):
    """Every question's best (score, text) and null score, by trying every span in the order of ties."""
    found = [(-INF, "") for _ in range(len(split))]
    null = [INF] * len(split)
    for w, (owner, span) in enumerate(zip(windows.question, windows.spans, strict=True)):
        null[owner] = min(null[owner], start[w][0] + end[w][0])
        tokens = [t for t in range(len(span)) if span[t, 0] >= 0]
        starts = sorted(sorted(tokens, key=lambda t: (-start[w][t], t))[:n_best])
        ends = sorted(sorted(tokens, key=lambda t: (-end[w][t], t))[:n_best])
        for i in starts:
            for j in ends:
                if 0 <= j - i < longest and start[w][i] + end[w][j] > found[owner][0]:
                    text = split.questions[owner].context[span[i, 0] : span[j, 1]]
                    found[owner] = (start[w][i] + end[w][j], text)
    return found, null


window = st.tuples(st.integers(1, 4), st.integers(0, 9), st.integers(0, 3))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(window, min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(1, 12) | st.just(ALL),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_answer_is_the_one_that_a_search_of_every_span_finds(parts, n_best, longest, ties, seed):
    split, windows = made(parts)
    rng = np.random.default_rng(seed)
    shape = (len(windows), max(len(span) for span in windows.spans) + 2)
    start, end = (rng.integers(-2, 3, shape) if ties else rng.normal(size=shape) for _ in range(2))
    start, end = start.astype(np.float32), end.astype(np.float32)
    found, null = searched(split, windows, start.astype(float), end.astype(float), n_best=n_best, longest=longest)
    answers = best_answers(split, windows, start, end, n_best=n_best, max_answer_length=longest)
    assert list(answers) == [question.id for question in split]
    for answer, (score, text), null_score in zip(answers.values(), found, null, strict=True):
        gap = null_score - score if score > -INF else INF
        assert answer == Answer(text, score, gap, text)


def test_many_windows_are_answered_in_parts_with_the_same_result():
    split, windows = made([[(2, 5, 1)] * 3] * 900)
    assert len(windows) > 2 * 1024
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, len(windows), 8))
    found, _ = searched(split, windows, start, end, n_best=20, longest=30)
    answers = best_answers(split, windows, start, end)
    assert [(a.score, a.text) for a in answers.values()] == found


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float32)


ONE = made([[(1, 4, 1)]])  # cls w0 w1 w2 w3 sep


def test_an_answer_by_hand():
    answers = best_answers(*ONE, logits([1, 0, 5, 0, 0, 9]), logits([2, 0, 0, 4, 1, 9]))
    assert answers == {"q0": Answer("w1 w2", 9.0, 3.0 - 9.0, "w1 w2")}


def test_the_end_is_not_before_the_start():
    answers = best_answers(*ONE, logits([0, 0, 0, 0, 5, 0]), logits([0, 5, 0, 0, 1, 0]))
    assert answers["q0"].text == "w3"


def test_the_length_counts_tokens():
    start, end = logits([0, 5, 0, 0, 1, 0]), logits([0, 0, 0, 1, 5, 0])
    texts = [best_answers(*ONE, start, end, max_answer_length=length)["q0"].text for length in (4, 3, 2, 1)]
    assert texts == ["w0 w1 w2 w3", "w0 w1 w2", "w3", "w3"]


def test_only_the_best_starts_and_ends_are_candidates():
    start, end = logits([0, 3, 0, 0, 5, 0]), logits([0, 9, 8, 7, 0, 0])
    assert best_answers(*ONE, start, end, n_best=ALL)["q0"].text == "w0"
    assert best_answers(*ONE, start, end, n_best=1)["q0"] == Answer("", -INF, INF, "")  # w3 to w0


def test_of_equal_sums_the_first_window_the_first_start_the_first_end_wins():
    split, windows = made([[(1, 3, 0), (1, 3, 0)]])
    zeros = torch.zeros(2, 4)
    assert best_answers(split, windows, zeros, zeros)["q0"].text == "w0"
    start = zeros.clone()
    start[:, 2] = 1
    assert best_answers(split, windows, start, zeros)["q0"].text == "w1"


def test_the_best_window_gives_the_answer_and_the_lowest_one_the_score_of_none():
    split, windows = made([[(1, 3, 0), (2, 2, 0)]])
    start, end = logits([4, 1, 0, 0], [1, 9, 0, 3]), logits([4, 1, 0, 0], [-2, 9, 0, 3])
    assert best_answers(split, windows, start, end)["q0"] == Answer("w4", 6.0, -1.0 - 6.0, "w4")


@pytest.mark.parametrize(
    ("no_answer", "threshold", "text"),
    [
        (True, 1.0, "w1"),  # the gap must be above the threshold
        (True, 0.99, ""),
        (True, 0.0, ""),
        (True, INF, "w1"),
        (True, -INF, ""),
        (False, -INF, "w1"),
    ],
)
def test_no_answer_is_given_where_its_score_is_more_than_the_threshold_above(no_answer, threshold, text):
    start, end = logits([2, 0, 1, 0, 0, 0]), logits([1, 0, 1, 0, 0, 0])
    answers = best_answers(*ONE, start, end, no_answer=no_answer, threshold=threshold)
    assert answers["q0"] == Answer(text, 2.0, 1.0, "w1")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_type_of_logits_will_do(dtype):
    start, end = logits([1, 0, 5, 0, 0, 9]).to(dtype).requires_grad_(), logits([2, 0, 0, 4, 1, 9]).to(dtype)
    assert best_answers(*ONE, start, end)["q0"] == Answer("w1 w2", 9.0, -6.0, "w1 w2")


@pytest.mark.parametrize("padding", [NAN, INF, -INF, 1e30])
def test_what_stands_outside_the_context_is_not_read(padding):
    start, end = logits([1, 0, 5, 0, 0, padding, padding]), logits([2, 0, 0, 4, 1, padding, padding])
    assert best_answers(*ONE, start, end)["q0"].text == "w1 w2"


def test_a_token_may_be_ruled_out():
    start, end = logits([0, -INF, -INF, 1, 0, 0]), logits([0, 9, 9, -INF, 0, 0])
    assert best_answers(*ONE, start, end)["q0"] == Answer("w2 w3", 1.0, -1.0, "w2 w3")
    nothing = torch.full((1, 6), -INF)
    assert best_answers(*ONE, nothing, nothing)["q0"] == Answer("", -INF, INF, "")


def test_a_context_without_tokens_has_no_answer():
    split, windows = made([[(3, 0, 0)]])
    assert best_answers(split, windows, torch.zeros(1, 3), torch.zeros(1, 3))["q0"].text == ""


@pytest.mark.parametrize(
    ("start", "end", "error"),
    [
        (torch.zeros(2, 6), torch.zeros(2, 6), r"1 windows x 6 tokens or more, got \(2, 6\) and \(2, 6\)"),
        (torch.zeros(1, 5), torch.zeros(1, 5), r"got \(1, 5\) and \(1, 5\)"),
        (torch.zeros(1, 6), torch.zeros(1, 7), r"got \(1, 6\) and \(1, 7\)"),
        (torch.zeros(6), torch.zeros(6), r"got \(6,\) and \(6,\)"),
        (
            logits([0, NAN, 0, 0, 0, 0]),
            torch.zeros(1, 6),
            "NaN or inf among the logits of q0 .0.: training has diverged, take a smaller --lr",
        ),
        (torch.zeros(1, 6), logits([NAN, 0, 0, 0, 0, 0]), "NaN or inf among the logits of q0 .0."),
        (torch.zeros(1, 6), logits([0, 0, INF, 0, 0, 0]), "NaN or inf among the logits of q0 .0."),
    ],
)
def test_logits_that_cannot_be_are_refused(start, end, error):
    with pytest.raises(ValueError, match=error):
        best_answers(*ONE, start, end)


def test_the_sum_is_exact_for_single_precision():
    start, end = logits([0, 1, 0, 0, 0, 0]), logits([0, 2**-24, 0, 0, 0, 0])
    assert best_answers(*ONE, start, end)["q0"].score == 1 + 2**-24
    assert math.isfinite(best_answers(*ONE, start, end)["q0"].null_gap)
