"""Exact match and F1 as SQuAD's script of v2 computes them, and the threshold that answers best."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capaboost_vit.nlu.questions import (
    Answer,
    Question,
    QuestionSplit,
    best_threshold,
    normalize_answer,
    score_answer,
    score_answers,
)

INF = float("inf")


def question(name, *answers):
    return Question(name, "?", " ".join(answers) or "x", answers, (0,) * len(answers), "T")


def answer(span, gap):
    return Answer("", 0.0, gap, span)


# one answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat", "cat"),
        (" a cat, an APPLE and the end. ", "cat apple and end"),
        ("the", ""),
        ("...", ""),
        ("", ""),
        ("a-b", "ab"),  # punctuation leaves no space
        ("the-cat", "thecat"),
        ("theatre", "theatre"),
        ("1,000.5", "10005"),
        ("\u201cquoted\u201d \u2013 caf\u00e9", "\u201cquoted\u201d \u2013 caf\u00e9"),  # only ASCII punctuation goes
        ("\u00a0x\u2003y\n", "x y"),
        ("\u0130", "i\u0307"),
    ],
)
def test_a_text_is_compared_in_this_form(text, expected):
    assert normalize_answer(text) == expected
    assert normalize_answer(expected) == expected


@pytest.mark.parametrize(
    ("text", "references", "expected"),
    [
        ("The cat!", ["cat"], (1, 1)),
        ("black cat", ["cat"], (0, 2 / 3)),
        ("cat black", ["black cat"], (0, 1)),  # F1 knows no order
        ("cat cat", ["cat"], (0, 2 / 3)),  # but numbers
        ("dog", ["cat"], (0, 0)),
        ("black cat", ["dog", "cat", "big black cat"], (0, 4 / 5)),
        ("cat", ["dog", "cat"], (1, 1)),
        ("", ["cat"], (0, 0)),
        ("the", ["cat"], (0, 0)),
        ("", [], (1, 1)),  # v2: rightly no answer
        ("the", [], (1, 1)),
        ("cat", [], (0, 0)),
        ("", ["the"], (1, 1)),  # a reference of which nothing is left
        ("a", ["the"], (1, 1)),
        ("cat", ["the"], (0, 0)),
        ("the", ["the", "cat"], (0, 0)),  # does not count beside another
        ("cat", ["the", "cat"], (1, 1)),
    ],
)
def test_an_answer_by_hand(text, references, expected):
    assert score_answer(text, references) == pytest.approx(expected)


# torchmetrics is SQuAD v1.1's script, but for its F1 of two texts that are empty, which is v2's

WORDS = ["the", "a", "cat", "Cat.", "dogs", "\u00e9t\u00e9", "\u6771\u4eac", "-", ",", "\U0001f600", "1,5"]
texts = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)


@pytest.fixture(scope="module")
def squad():
    return pytest.importorskip("torchmetrics.functional.text").squad


def by_torchmetrics(squad, rows):
    predictions = [{"id": str(i), "prediction_text": text} for i, (text, _) in enumerate(rows)]
    targets = [
        {"id": str(i), "answers": {"text": list(references), "answer_start": [0] * len(references)}}
        for i, (_, references) in enumerate(rows)
    ]
    return {name: float(value) for name, value in squad(predictions, targets).items()}


def ours(rows):
    return score_answers(
        [question(str(i), *references) for i, (_, references) in enumerate(rows)],
        {str(i): text for i, (text, _) in enumerate(rows)},
    )


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(texts, st.lists(texts.filter(normalize_answer), min_size=1, max_size=3)), min_size=1, max_size=8
    )
)
def test_torchmetrics_agrees_where_something_is_left_of_every_reference(squad, rows):
    assert ours(rows) == pytest.approx(by_torchmetrics(squad, rows), abs=1e-4)


def test_torchmetrics_agrees_on_a_single_reference_of_which_nothing_is_left(squad):
    rows = [("a", ["the"]), ("", ["."]), ("cat", ["the"]), ("the cat", ["a cat"])]
    assert ours(rows) == pytest.approx(by_torchmetrics(squad, rows)) == {"exact_match": 75, "f1": 75}


def test_torchmetrics_differs_from_the_official_script_of_v2_in_two_cases(squad):
    beside_another = [("the", ["a", "cat"])]
    assert ours(beside_another) == {"exact_match": 0, "f1": 0}
    assert by_torchmetrics(squad, beside_another) == {"exact_match": 100, "f1": 100}
    with pytest.raises(ValueError, match="empty"):  # a question without answers
        by_torchmetrics(squad, [("", [])])


# all answers


def test_scores_are_percent_of_all_questions():
    split = QuestionSplit((question("a", "cat"), question("b", "dog"), question("c", "black cat")))
    answers = {"a": "the cat", "b": Answer("bird", 1.0, 0.0, "dog"), "c": "cat", "d": "ignored"}
    expected = {"exact_match": 100 / 3, "f1": 100 * (1 + 0 + 2 / 3) / 3}
    assert score_answers(split, answers) == pytest.approx(expected)
    assert score_answers(list(split), answers) == pytest.approx(expected)


def test_questions_without_an_answer_are_scored_apart_too():
    questions = [question("a", "cat"), question("b", "black cat"), question("c"), question("d"), question("e")]
    assert score_answers(questions, {"a": "", "b": "cat", "c": "", "d": "cat", "e": ""}) == pytest.approx(
        {
            "exact_match": 40,
            "f1": 20 * (2 / 3 + 2),
            "has_answer_exact_match": 0,
            "has_answer_f1": 100 / 3,
            "no_answer_exact_match": 200 / 3,
            "no_answer_f1": 200 / 3,
        }
    )


def test_a_part_without_a_question_is_left_out():
    assert score_answers([question("c")], {"c": ""}) == {
        "exact_match": 100,
        "f1": 100,
        "no_answer_exact_match": 100,
        "no_answer_f1": 100,
    }


@pytest.mark.parametrize("function", [score_answers, best_threshold])
def test_what_is_missing_is_named(function):
    with pytest.raises(ValueError, match="2 of 3 questions have no answer, such as 'b'"):
        function([question("a", "cat"), question("b", "cat"), question("c")], {"a": answer("cat", 0.0)})
    with pytest.raises(ValueError, match="no question to score: the split is empty"):
        function(QuestionSplit(()), {})


# the threshold


def f1_at(questions, answers, threshold):
    given = {name: one.span if one.null_gap <= threshold else "" for name, one in answers.items()}
    return score_answers(questions, given)["f1"]


gaps = st.integers(-3, 3).map(float)
references = st.lists(st.sampled_from(["cat", "black cat", "the", "big dog"]), max_size=2)
spans = st.sampled_from(["cat", "black", "the", "dog", ""])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(references, spans, gaps), min_size=1, max_size=12))
def test_no_threshold_answers_better(rows):
    questions = [question(str(i), *texts) for i, (texts, _, _) in enumerate(rows)]
    answers = {str(i): answer(span, gap) for i, (_, span, gap) in enumerate(rows)}
    found = best_threshold(questions, answers)
    tried = [-INF, INF, *(gap + step for _, _, gap in rows for step in (-0.5, 0.0, 0.5))]
    best = max(f1_at(questions, answers, threshold) for threshold in tried)
    assert f1_at(questions, answers, found) == pytest.approx(best)
    lower = [one.null_gap for one in answers.values() if one.null_gap < found]
    assert all(f1_at(questions, answers, gap) <= best - 1e-6 or gap == found for gap in lower)


@pytest.mark.parametrize(
    ("rows", "threshold"),
    [
        ([("cat", "cat", -2.0), (None, "cat", 3.0)], -2.0),
        ([("cat", "cat", -2.0), ("cat", "cat", 1.0), (None, "cat", 3.0)], 1.0),
        ([("cat", "cat", 5.0), ("cat", "cat", 7.0)], 7.0),
        ([(None, "cat", -4.0), (None, "cat", 3.0)], -5.0),  # it is best to answer nothing
        ([("cat", "dog", -4.0)], -5.0),
        ([(None, "cat", 2.0), ("cat", "cat", 2.0), ("dog", "dog", 2.0)], 2.0),  # which no threshold parts
        ([(None, "cat", 2.0), ("cat", "cat", 2.0), (None, "dog", 2.0)], 1.0),
        ([("cat", "cat", 1.0), (None, "", INF)], 1.0),  # where no span was a candidate
    ],
)
def test_a_threshold_by_hand(rows, threshold):
    questions = [
        question(str(i), *([] if reference is None else [reference])) for i, (reference, _, _) in enumerate(rows)
    ]
    answers = {str(i): answer(span, gap) for i, (_, span, gap) in enumerate(rows)}
    assert best_threshold(questions, answers) == threshold


def test_the_threshold_does_not_depend_on_the_order_of_questions_or_on_what_was_given():
    rng = random.Random(0)
    questions = [question(str(i), *rng.choice([["cat"], ["dog"], []])) for i in range(50)]
    answers = {one.id: answer(rng.choice(["cat", "dog"]), rng.random()) for one in questions}
    found = best_threshold(questions, answers)
    shuffled = rng.sample(questions, 50)
    given = {name: Answer(one.span, one.score, one.null_gap, one.span) for name, one in answers.items()}
    assert best_threshold(shuffled, given) == found
