"""SQuAD files, folders and hub sets: what is read, how articles are split, and what is refused by id."""

from __future__ import annotations

import json
import re

import datasets
import pytest

from capaboost_vit.nlu.questions import Question, QuestionSplit, open_questions
from capaboost_vit.nlu.questions.reading import read_json, read_rows

CONTEXT = " The cat sat on the mat; the cat slept."


def qa(name, *answers, question="Who sat?", **more):
    return {
        "id": name,
        "question": question,
        "answers": [{"text": text, "answer_start": start} for text, start in answers],
        **more,
    }


def article(title, *qas, context=CONTEXT):
    return {"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}


def write(path, *articles):
    path.write_text(json.dumps({"version": "1.1", "data": list(articles)}))
    return path


def articles(count, *, start=0):
    """Articles of one, two, three, one, ... questions."""
    return [
        article(f"title {i}", *(qa(f"{i}-{j}", ("cat", 5)) for j in range(1 + i % 3)))
        for i in range(start, start + count)
    ]


# what is read


def test_a_file_is_read_in_its_order_and_nothing_is_stripped(tmp_path):
    first, second = qa("a", ("cat", 5), ("cat", 29), question=" Who? "), qa("b", ("mat", 20))
    path = write(tmp_path / "any name.json", article("T", first, second), article("S", qa(7, ("The cat", 1))))
    assert read_json(path) == (
        Question("a", " Who? ", CONTEXT, ("cat", "cat"), (5, 29), "T"),
        Question("b", "Who sat?", CONTEXT, ("mat",), (20,), "T"),
        Question("7", "Who sat?", CONTEXT, ("The cat",), (1,), "S"),
    )


def test_questions_of_v2_may_have_no_answer_and_plausible_ones_are_not_read(tmp_path):
    none = qa("b", is_impossible=True, plausible_answers=[{"text": "mat", "answer_start": 20}])
    path = write(tmp_path / "a.json", article("T", qa("a", ("cat", 5), is_impossible=False), none))
    a, b = read_json(path)
    assert (a.answers, b.answers, b.starts) == (("cat",), (), ())
    split = QuestionSplit((a, b))
    assert (split.unanswerable, len(split), tuple(split)) == (1, 2, (a, b))
    assert QuestionSplit((a,)).unanswerable == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_characters_are_counted_and_not_bytes(tmp_path, encoding):
    context = "Zu\u0308rich \U0001f600 \u6771\u4eac naïve"
    content = {"data": [article("T", qa("a", ("\u6771\u4eac", 10)), context=context)]}
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    (question,) = read_json(path)
    assert (question.context, question.answers) == (context, ("\u6771\u4eac",))


def test_an_article_without_a_title_is_an_article_all_the_same(tmp_path):
    content = [article(None, qa("a", ("cat", 5))), article("", qa("b", ("cat", 5)))]
    del content[0]["title"]
    assert [question.title for question in read_json(write(tmp_path / "a.json", *content))] == [
        "article 0",
        "article 1",
    ]


# splits


def ids(data, name):
    return {question.id for question in data.splits[name]}


def titles(data, name):
    return {question.title for question in data.splits[name].questions}


def test_a_single_file_is_split_by_article(tmp_path):
    path = write(tmp_path / "a.json", *articles(40))
    data = open_questions(str(path))
    assert list(data.splits) == ["train", "val", "test"]
    assert [len(titles(data, name)) for name in data.splits] == [28, 4, 8]
    everything = read_json(path)
    assert sum(len(split) for split in data.splits.values()) == len(everything)
    for name, split in data.splits.items():
        assert split.questions == tuple(q for q in everything if q.title in titles(data, name))
        others = set().union(*(titles(data, other) for other in data.splits if other != name))
        assert not titles(data, name) & others


def test_no_split_is_empty(tmp_path):
    data = open_questions(str(write(tmp_path / "b.json", *articles(3))))
    assert [len(titles(data, name)) for name in ("train", "val", "test")] == [1, 1, 1]


def test_which_articles_are_taken_depends_on_the_seed_and_titles_alone(tmp_path):
    path = write(tmp_path / "a.json", *articles(40))
    data = open_questions(str(path))
    assert open_questions(str(path), seed=0) == data
    turned = open_questions(str(write(tmp_path / "b.json", *reversed(articles(40)))))
    assert all(ids(turned, name) == ids(data, name) for name in data.splits)
    assert ids(open_questions(str(path), seed=1), "test") != ids(data, "test")
    # what this release takes; it may never change
    assert sorted(titles(data, "val")) == ["title 10", "title 21", "title 27", "title 37"]


@pytest.mark.parametrize(("first", "second"), [("train-v2.0", "dev-v2.0"), ("Training", "Validation")])
def test_of_train_and_dev_files_dev_is_test_and_val_comes_from_train(tmp_path, first, second):
    write(tmp_path / f"{first}.json", *articles(40))
    write(tmp_path / f"{second}.json", *articles(5, start=40))
    data = open_questions(str(tmp_path))
    assert data.splits["test"].questions == read_json(tmp_path / f"{second}.json")
    assert [len(titles(data, name)) for name in ("train", "val", "test")] == [38, 2, 5]
    assert ids(data, "train") | ids(data, "val") == {q.id for q in read_json(tmp_path / f"{first}.json")}
    assert not titles(data, "train") & titles(data, "val")


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    data = open_questions(str(write(tmp_path / "a.json", *articles(5))))
    assert "dev" not in data.splits
    with pytest.raises(ValueError, match=r"a\.json has no split 'dev'; it has: train, val, test"):
        data.find("dev")


def test_the_record_changes_with_anything_that_a_question_holds():
    question = Question("a", "Who?", "The cat", ("cat",), (4,), "T")
    record = QuestionSplit((question,)).record()
    assert record["examples"] == 1
    assert len(record["sha256"]) == 64
    others = [
        Question("b", "Who?", "The cat", ("cat",), (4,), "T"),
        Question("a", "What?", "The cat", ("cat",), (4,), "T"),
        Question("a", "Who?", "The cat.", ("cat",), (4,), "T"),
        Question("a", "Who?", "The cat", (), (), "T"),
        Question("a", "Who?", "The cat", ("cat",), (5,), "T"),
        Question("a", "Who?", "The cat", ("cat",), (4,), "S"),
    ]
    digests = {QuestionSplit((other,)).record()["sha256"] for other in [question, *others]}
    assert len(digests) == 7
    assert QuestionSplit((question,)).record() == record
    assert QuestionSplit((question, others[0])).record() != QuestionSplit((others[0], question)).record()


# what is refused


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "a.json is not JSON: "),
        (b"{", "a.json is not JSON: "),
        (b"\xff\xfe\xfd", "a.json is not JSON: "),
        (b"[]", 'a.json is not a file of SQuAD: expected the key "data" at its top, found list'),
        (b'{"rows": 1, "info": 2}', 'expected the key "data" at its top, found the keys rows, info'),
        (b"{}", "found the keys (none)"),
        (b'{"data": {}}', "a.json: expected a list under 'data', found dict"),
        (b'{"data": []}', "a.json holds no question"),
        (b'{"data": [3]}', "article 0: expected a list under 'paragraphs', found int"),
        (b'{"data": [{"paragraphs": [{"context": "x"}]}]}', "article 0: expected a list under 'qas', found NoneType"),
        (b'{"data": [{"paragraphs": [{"qas": [{"id": "a"}]}]}]}', "expected a list under 'answers', found NoneType"),
    ],
)
def test_what_is_no_file_of_squad_is_refused(tmp_path, content, error):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(error)) as caught:
        open_questions(str(tmp_path / "a.json"))
    assert "\n" not in str(caught.value)


FINE = qa("fine", ("cat", 5))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (qa("q", ("mat", 21)), "question 'q' has the answer 'mat' at 21, but 'at;' is there; its first place in the"),
        (qa("q", ("mat", 21)), "first place in the context is 20"),
        (qa("q", ("mat", -19)), "has the answer 'mat' at -19, but '' is there"),
        (qa("q", ("cat", 5), ("dog", 5)), "the answer 'dog' at 5, but 'cat' is there; it is not in the context at all"),
        (qa("q", ("mat", 10_000)), "has the answer 'mat' at 10000, but '' is there"),
        (qa("q", ("cat", "5")), "question 'q' has the answer 'cat' at '5', expected a text and a whole number"),
        (qa("q", ("cat", True)), "has the answer 'cat' at True"),
        (qa("q", ("", 5)), "question 'q' has the answer '' at 5, expected a text"),
        (qa("q", (None, 5)), "has the answer None at 5"),
        (qa("q") | {"answers": ["cat"]}, "has answers of an unknown form, expected text and answer_start: ['cat']"),
        (qa("q"), "question 'q' has no answer, and no \"is_impossible\": true that says so"),
        (qa("q", is_impossible=False), "question 'q' has no answer"),
        (qa("q", ("cat", 5), is_impossible=True), "question 'q' has the answer 'cat', but is_impossible is true"),
        (qa("q", ("cat", 5), question=" \t"), "question 'q' has an empty question (' \\t')"),
        (qa("q", ("cat", 5), question=None), "question 'q' has an empty question (None)"),
        (qa("q", ("cat", 5), question="\ud83d?"), "question 'q' has a question that is no Unicode: surrogates not al"),
        (qa("", ("cat", 5)), "question 1 has no id"),
        (qa(None, ("cat", 5)), "question 1 has no id"),
        (qa("fine", ("mat", 20)), "two questions have the id 'fine'"),
    ],
)
def test_a_question_that_is_wrong_is_named(tmp_path, wrong, error):
    path = write(tmp_path / "a.json", article("T", FINE, wrong), *articles(5))
    with pytest.raises(ValueError, match=re.escape(error)) as caught:
        open_questions(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("context", ["", "  ", None, 3])
def test_an_empty_context_is_named(tmp_path, context):
    path = write(tmp_path / "a.json", article("T", qa("q", ("cat", 5)), context=context))
    with pytest.raises(ValueError, match="question 'q' has an empty context"):
        open_questions(str(path))


def test_a_question_in_train_and_in_dev_is_refused(tmp_path):
    write(tmp_path / "train.json", *articles(10))
    write(tmp_path / "dev.json", *articles(2, start=9))
    with pytest.raises(ValueError, match="1 questions are in train and in dev, such as '9-0'"):
        open_questions(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "error"),
    [
        (("train.json",), r"must hold one dev\*\.json, found none: give a SQuAD \.json file, a folder with"),
        (("dev.json",), r"must hold one train\*\.json, found none"),
        ((), r"must hold one train\*\.json, found none"),
        (("train-v1.1.json", "train-v2.0.json", "dev.json"), "found train-v1.1.json, train-v2.0.json: give"),
    ],
)
def test_a_folder_must_hold_one_of_each(tmp_path, files, error):
    for i, name in enumerate(files):
        write(tmp_path / name, *articles(5, start=10 * i))
    with pytest.raises(ValueError, match=error):
        open_questions(str(tmp_path))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_articles_are_refused(tmp_path, count):
    path = write(tmp_path / "a.json", *articles(count))
    with pytest.raises(ValueError, match=f"has {count} articles, too few for train, test, val"):
        open_questions(str(path))


@pytest.mark.parametrize("spec", ["", "nowhere.json", "no/where.json", "rajpurkar", "/no/where/at/all"])
def test_a_place_that_is_not_there_says_what_to_give(spec):
    with pytest.raises(FileNotFoundError, match=f"no questions at '{spec}': give a SQuAD .json file, a folder with"):
        open_questions(spec)


# the hub


def rows(count, *, start=0, answers=("cat",)):
    return [
        {
            "id": f"{i}",
            "title": f"title {i // 2}",
            "context": CONTEXT,
            "question": "Who sat?",
            "answers": {"text": list(answers), "answer_start": [5] * len(answers)},
        }
        for i in range(start, start + count)
    ]


FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "title": datasets.Value("string"),
        "context": datasets.Value("string"),
        "question": datasets.Value("string"),
        "answers": {
            "text": datasets.List(datasets.Value("string")),
            "answer_start": datasets.List(datasets.Value("int32")),
        },
    }
)


def tables(**splits):
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_list(split, features=FEATURES) for name, split in splits.items()}
    )


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [("rajpurkar/squad_v2", ("rajpurkar/squad_v2", None)), ("a/b:small", ("a/b", "small"))],
)
def test_a_hub_set_is_split_as_train_and_dev_files_are(monkeypatch, spec, arguments):
    asked = []
    loaded = tables(train=rows(80), validation=rows(3, start=80) + rows(2, start=83, answers=()))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **_: asked.append(args) or loaded)
    data = open_questions(spec)
    assert asked == [arguments]
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [76, 4, 5]
    assert not titles(data, "train") & titles(data, "val")
    assert data.splits["test"].unanswerable == 2
    assert data.splits["test"].questions[0] == Question("80", "Who sat?", CONTEXT, ("cat",), (5,), "title 40")


def test_rows_without_a_title_are_one_article_where_the_context_is_the_same():
    (row,) = rows(1)
    del row["title"]
    first, second = read_rows("here", [row, {**row, "id": "b", "title": ""}])
    assert first.title == second.title == CONTEXT


def test_a_row_that_is_wrong_is_named_with_its_split(monkeypatch):
    loaded = tables(train=rows(8), validation=rows(2, start=8, answers=("dog",)))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **_: loaded)
    with pytest.raises(ValueError, match=r"^validation of a/b: question '8' has the answer 'dog' at 5, but 'cat' is"):
        open_questions("a/b")


def test_texts_and_starts_of_another_number_are_refused():
    (row,) = rows(1, answers=("cat", "cat"))
    row["answers"]["answer_start"] = [5]
    with pytest.raises(ValueError, match="has the answer 'cat' at None"):
        read_rows("here", [row])


@pytest.mark.parametrize(
    ("loaded", "error"),
    [
        (lambda: tables(train=rows(8)), "a/b has no split 'validation', it has train; give a SQuAD .json file"),
        (lambda: tables(test=rows(8)), "a/b has no split 'train', it has test"),
        (
            lambda: tables(train=rows(8), validation=rows(2)).remove_columns(["context", "answers"]),
            "a/b: train has no column answers, context, as SQuAD has",
        ),
    ],
)
def test_a_hub_set_that_is_not_like_squad_is_refused(monkeypatch, loaded, error):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **_: loaded())
    with pytest.raises(ValueError, match=re.escape(error)):
        open_questions("a/b")


@pytest.mark.parametrize(
    ("raised", "kind", "error"),
    [
        (
            ConnectionError("Couldn't reach 'a/b' on the Hub"),
            FileNotFoundError,
            "no questions at 'a/b' on this machine, and the hub cannot be reached (offline?): "
            "give a SQuAD .json file, or a folder with train*.json and dev*.json instead",
        ),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub\nor is private"),
            FileNotFoundError,
            "no questions at 'a/b', neither a local path nor on the hub: Dataset 'a/b' doesn't exist on the Hub",
        ),
        (TimeoutError("timed out"), ValueError, "cannot load a/b from the hub: timed out; give a SQuAD .json file"),
        (ValueError("Pick one\nof these"), ValueError, "cannot load a/b from the hub: Pick one; give"),
    ],
)
def test_what_the_hub_answers_is_one_line(monkeypatch, raised, kind, error):
    def load_dataset(*args, **_):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(kind, match=re.escape(error)) as caught:
        open_questions("a/b")
    assert "\n" not in str(caught.value)


def test_without_the_hub_a_name_says_what_to_give_instead(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"no questions at 'rajpurkar/squad' on this machine, and the hub"):
        open_questions("rajpurkar/squad")
