"""A tag for each word: CoNLL files and lists are read, no word is lost, and the scores are seqeval's."""

from __future__ import annotations

import json

import datasets
import pytest
import texts
import torch
import transformers
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

from capaboost_vit.nlu.data import TextSplit, open_texts, split_words
from capaboost_vit.nlu.loader import TextExamples
from capaboost_vit.nlu.predict import Predictor, conll_lines
from capaboost_vit.nlu.saved import evaluate_text, merge_text
from capaboost_vit.nlu.tasks import TASKS
from capaboost_vit.nlu.token_objectives import entity_scores, entity_table, token_loss
from capaboost_vit.nlu.typed_texts import typed_sentences
from capaboost_vit.nlu.words import encode_words, tags_of

NER, TAGGING = TASKS["ner"], TASKS["tagging"]
CONLL = "-DOCSTART- O\n\n# id 1 x\nEU B-ORG\nrejects O\n\nPeter B-PER\nBlackburn I-PER\n"
WORDS, TAGS = (("EU", "rejects"), ("Peter", "Blackburn")), (("B-ORG", "O"), ("B-PER", "I-PER"))

pytestmark = pytest.mark.usefixtures("without_pictures")


def named(data, split="train"):
    return tuple(tuple(data.classes[tag] for tag in row) for row in data.splits[split].labels)


# reading


@pytest.mark.parametrize("form", ["txt", "conll", "tsv", "jsonl", "json", "saved"])
def test_files_and_saved_sets_hold_the_same_sentences(tmp_path, form):
    rows = [{"tokens": list(w), "ner_tags": list(t)} for w, t in zip(WORDS, TAGS, strict=True)]
    if form == "saved":
        names = ["O", "B-ORG", "B-PER", "I-ORG", "I-PER"]
        kinds = {"tokens": [datasets.Value("string")], "ner_tags": [datasets.ClassLabel(names=names)]}
        features = datasets.Features({name: datasets.List(kind[0]) for name, kind in kinds.items()})
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        columns["ner_tags"] = [[names.index(tag) for tag in row] for row in columns["ner_tags"]]
        made = datasets.Dataset.from_dict(columns, features=features)
        datasets.disable_progress_bars()
        datasets.DatasetDict(train=made).save_to_disk(str(tmp_path / "data"))
    else:
        content = {"jsonl": "".join(json.dumps(row) + "\n" for row in rows), "json": json.dumps(rows)}.get(form, CONLL)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / f"train.{form}").write_text(content.replace(" ", "\t") if form == "tsv" else content)
    data = open_texts(str(tmp_path / "data"), NER)
    assert (data.splits["train"].texts, named(data)) == (WORDS, TAGS)
    assert set(data.classes) == {"O", "B-ORG", "I-ORG", "B-PER", "I-PER"}  # I-ORG may come in val
    if form in ("txt", "conll", "tsv"):
        assert data.splits["train"].names == (f"train.{form}:4", f"train.{form}:7")


def test_columns_of_conll_are_chosen_by_their_number(tmp_path):
    (tmp_path / "train.conll").write_text("EU NNP B-ORG\nrejects VBZ O\n")
    data = open_texts(str(tmp_path), TAGGING, label_column="2")
    assert named(data) == (("NNP", "VBZ"),)


@pytest.mark.parametrize(
    ("task", "content", "text"),
    [
        ("ner", "EU B-ORG\nrejects\n", r"line 2 has 1 columns, expected 2: a CoNLL file has a word a line"),
        ("ner", "EU NNP\n", "has the tag 'NNP', which is none of entities .* say --task tagging"),
        ("ner", "\n\n", "is empty|holds no word"),
        ("ner", "EU\n", "has no column 'tags'"),
        ("tagging", [{"tokens": ["a", "b"], "tags": ["x"]}], "line 1 has 2 words and 1 tags in 'tags'"),
        ("tagging", [{"tokens": "a b", "tags": ["x"]}], "expected a list of words in 'tokens', got 'a b'"),
        (
            "tagging",
            [{"tokens": ["a"], "tags": ["x"], "pos_tags": ["y"]}],
            "several columns of tags: choose with --lab",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named_by_its_line(tmp_path, task, content, text):
    if isinstance(content, list):
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        (tmp_path / "train.txt").write_text(content)
    with pytest.raises(ValueError, match=text):
        open_texts(str(tmp_path), TASKS[task])


def test_a_tag_that_train_has_not_is_named(tmp_path):
    (tmp_path / "train.txt").write_text(CONLL)
    (tmp_path / "dev.txt").write_text("EU B-LOC\n")
    with pytest.raises(
        ValueError, match=r"dev\.txt:1 has the tag 'B-LOC', which train has not; the classes are: B-ORG"
    ):
        open_texts(str(tmp_path), NER)


def test_a_typed_text_is_split_as_conll_has_it():
    assert split_words("We saw U.S. cats, didn't we?") == (
        *("We", "saw", "U", ".", "S", ".", "cats", ",", "didn", "'", "t", "we", "?"),
    )


# tokens


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_tokens_and_targets_are_those_of_transformers_for_words(kind):
    tokenizer = {"bert": texts.bert_tokenizer, "roberta": texts.roberta_tokenizer}[kind]()
    spaced = tokenizer
    if kind == "roberta":  # as it has to be for words
        spaced = transformers.RobertaTokenizerFast(
            vocab=tokenizer.get_vocab(),
            merges=[tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]],
            add_prefix_space=True,
        )
    words = ("the", "catx", "is", "in", "parkpark", ".")
    encoded = encode_words(TextSplit((words,), ((0, 1, 2, 3, 4, 5),), ("a",)), tokenizer, max_length=40)
    expected = spaced([list(words)], is_split_into_words=True).encodings[0]
    assert encoded.ids[0].tolist() == expected.ids
    firsts = [-100 if w is None or w in expected.word_ids[:i] else w for i, w in enumerate(expected.word_ids)]
    assert encoded.targets[0].tolist() == firsts
    assert (encoded.types is None) == (kind == "roberta")


def test_long_sentences_come_in_pieces_and_no_word_is_lost():
    tokenizer = texts.bert_tokenizer()
    words = tuple(texts.WORDS[i % 30] for i in range(23))
    split = TextSplit((words, ("cat", "\u200b", "dog")), (tuple(range(23)), (1, 2, 3)), ("a", "b"))
    encoded = encode_words(split, tokenizer, max_length=10)
    assert (encoded.names, encoded.sentence) == (("a", "a (2)", "a (3)", "b"), (0, 0, 0, 1))
    assert encoded.cut == 0
    width = max(map(len, encoded.ids))
    answers = torch.full((4, width), -1.0)
    for row, targets in zip(answers, encoded.targets, strict=True):
        row[: len(targets)] = torch.from_numpy(targets).float()
    assert tags_of(encoded, answers) == [list(range(23)), [1, 2, 3]]  # what the tokenizer drops is the unknown word
    (batch,) = TextExamples(encoded).batches([[(0, True), (3, True), (1, False)]])
    assert batch[1].shape == batch[0]["input_ids"].shape == (3, 10)
    assert (batch[1][2] == -100).all()


# scores and loss


def test_scores_of_entities_are_seqevals():
    classes = ("B-PER", "I-PER", "O", "B-LOC", "I-LOC")
    generator = torch.Generator().manual_seed(0)
    asked, found = (torch.randint(5, (30, 8), generator=generator).tolist() for _ in range(2))
    found = [row if i % 3 else asked[i] for i, row in enumerate(found)]
    pair = [[[classes[tag] for tag in row] for row in rows] for rows in (asked, found)]
    assert entity_scores(found, asked, classes) == pytest.approx(
        {"f1": 100 * f1_score(*pair), "precision": 100 * precision_score(*pair), "recall": 100 * recall_score(*pair)}
    )
    by_kind = classification_report(*pair, output_dict=True, zero_division=0)
    for row in entity_table(found, asked, classes):
        expected = by_kind[row["entity"]]
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(
            [100 * expected[name] for name in ("precision", "recall", "f1-score")]
        )
        assert row["support"] == expected["support"]
    assert entity_scores([[2]], [[2]], classes) == {"precision": 0, "recall": 0, "f1": 0}  # no entity, no warning


def test_the_loss_is_the_mean_over_words_of_each_example():
    outputs = torch.randn(2, 4, 3)
    targets = torch.tensor([[-100, 2, -100, 1], [-100, 0, -100, -100]])
    logs = outputs.log_softmax(-1)
    expected = -(logs[0, 1, 2] + logs[0, 3, 1]) / 2 - logs[1, 1, 0]
    torch.testing.assert_close(token_loss(outputs, targets), expected)


# runs


def test_a_run_learns_entities_and_says_seqevals_score_of_its_predictions(finished_text, text_material, tmp_path):
    folder, found = finished_text("entities")
    assert found["test_f1"] > 40
    scores = evaluate_text(folder, table=tmp_path / "a.csv")
    assert all(scores[name] == pytest.approx(found[f"test_{name}"]) for name in ("f1", "precision", "recall"))
    rows = [line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines()]
    assert rows[0] == ["example", "word", "label", "prediction"]
    right = sum(label == tag for *_, label, tag in rows[1:])
    assert 100 * right / scores["total"] == pytest.approx(found["test_accuracy"])
    data = open_texts(str(text_material / "entities"), NER)
    predictor = Predictor(folder)
    split = predictor.read_sentences(str(text_material / "entities" / "test.txt"))
    assert split.texts == data.splits["test"].texts
    tags = predictor.tag(split)
    assert 100 * f1_score([list(row) for row in named(data, "test")], [list(row) for row in tags]) == pytest.approx(
        found["test_f1"]
    )
    sentence = typed_sentences(["We saw the cat in the park"])
    written = conll_lines(sentence, predictor.tag(sentence))
    assert [line.split("\t")[0] for line in written.splitlines()[:-1]] == [*sentence.texts[0]]
    merged = merge_text(folder, tmp_path / "merged")
    model = transformers.AutoModelForTokenClassification.from_pretrained(merged).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    with torch.no_grad():
        logits = model(**tokenizer([list(split.texts[0])], is_split_into_words=True, return_tensors="pt")).logits[0]
    assert [model.config.id2label[int(i)] for i in logits.argmax(-1)[1:-1]] == list(tags[0])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_methods_on_words_train_and_short_cuts_change_no_answer(finished_text, text_material, kind):
    method = {"name": "prompt", "prompt_length": 2} if kind == "bert" else {"name": "adapter"}
    folder, found = finished_text("entities", epochs=1, model=str(text_material / kind), method=method, max_length=12)
    short, long = (evaluate_text(folder, short_cuts=short_cuts) for short_cuts in (True, False))
    assert short == long
    assert found["test_accuracy"] > 0


def test_words_are_tagged_on_the_command_line(finished_text, tmp_path, capsys):
    from capaboost_vit.cli import main

    folder, _ = finished_text("entities")
    assert main(["predict", str(folder), "--text", "We saw the cat in the park"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["We", "saw", "the", "cat", "in", "the", "park", ""]
    (tmp_path / "a.conll").write_text("the\ncat\n")
    assert main(["predict", str(folder), str(tmp_path / "a.conll"), "--csv", str(tmp_path / "b.conll")]) == 0
    assert (tmp_path / "b.conll").read_text().split("\n")[1].startswith("cat\t")
    assert main(["predict", str(folder), "--question", "x"]) == 2
    assert "ner tags the words of texts: say --text, or name a file" in capsys.readouterr().err
