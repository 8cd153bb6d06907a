"""Several tags of a text: read from every kind of table, through loss, scores, a run and its predictions."""

from __future__ import annotations

import csv
import json

import datasets
import numpy as np
import pytest
import texts
import torch
from sklearn.metrics import average_precision_score, f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from capaboost_vit.nlu.data import open_texts
from capaboost_vit.nlu.encoded import encode_task
from capaboost_vit.nlu.loader import TextExamples
from capaboost_vit.nlu.objectives import make_objective
from capaboost_vit.nlu.predict import Predictor, write_rows
from capaboost_vit.nlu.saved import evaluate_text, merge_text
from capaboost_vit.nlu.tasks import TASKS
from capaboost_vit.nlu.typed_texts import typed_texts
from capaboost_vit.training.report_text import score_text

TASK = TASKS["multi-label"]
TEXTS, TAGS = ("a cat", "a dog", "a bird", "a fish"), (("blue",), ("blue", "red"), (), ("red",))

pytestmark = pytest.mark.usefixtures("without_pictures")


def named(data, split="train"):
    return tuple(tuple(data.classes[tag] for tag in row) for row in data.splits[split].labels)


def write_table(folder, form):
    """A train split of TEXTS and TAGS in one of many forms."""
    rows = [{"text": text, "labels": list(tags)} for text, tags in zip(TEXTS, TAGS, strict=True)]
    folder.mkdir()
    if form in ("jsonl", "json"):
        content = json.dumps(rows) if form == "json" else "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"train.{form}").write_text(content)
    elif form in ("saved", "parquet"):
        kind = datasets.List(datasets.ClassLabel(names=["blue", "red"])) if form == "saved" else None
        columns = {"text": list(TEXTS), "labels": [[["blue", "red"].index(t) for t in tags] for tags in TAGS]}
        if form == "parquet":
            datasets.Dataset.from_dict({**columns, "labels": [list(t) for t in TAGS]}).to_parquet(
                folder / "train.parquet"
            )
            return
        features = datasets.Features({"text": datasets.Value("string"), "labels": kind})
        datasets.DatasetDict(train=datasets.Dataset.from_dict(columns, features=features)).save_to_disk(str(folder))
    elif form in ("switches", "switches.jsonl"):
        lines = [
            {"id": 7 + i, "text": r["text"], "red": int("red" in r["labels"]), "blue": int("blue" in r["labels"])}
            for i, r in enumerate(rows)
        ]
        if form == "switches":
            content = "".join(
                ",".join(map(str, line)) + "\n" for line in [lines[0].keys(), *(v.values() for v in lines)]
            )
            (folder / "train.csv").write_text(content)
        else:
            (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        mark, between = {"csv": (",", ";"), "tsv": ("\t", "|")}[form]
        lines = [mark.join(("text", "labels")), *(f"{r['text']}{mark}{between.join(r['labels'])}" for r in rows)]
        (folder / f"train.{form}").write_text("\n".join(lines) + "\n")


# reading


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "saved", "parquet", "switches", "switches.jsonl"])
def test_tables_of_every_form_hold_the_same_tags(tmp_path, monkeypatch, form):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    write_table(tmp_path / "data", form)
    data = open_texts(str(tmp_path / "data"), TASK)
    assert data.splits["train"].texts == tuple((text,) for text in TEXTS)
    assert tuple(map(set, named(data))) == tuple(map(set, TAGS))
    assert set(data.classes) == {"blue", "red"}


def test_columns_of_0_and_1_that_are_asked_for_are_the_tags(tmp_path):
    write_table(tmp_path / "data", "switches")
    data = open_texts(str(tmp_path / "data"), TASK, label_column="blue, red")
    assert (data.classes, named(data)) == (("blue", "red"), TAGS)


def test_tags_of_a_trained_model_keep_their_numbers_and_a_set_without_tags_is_unlabelled(tmp_path):
    from dataclasses import replace

    trained = replace(TASK, classes=("red", "green", "blue"))
    for form in ("csv", "switches"):
        write_table(tmp_path / form, form)
        asked = "blue,red" if form == "switches" else None
        data = open_texts(str(tmp_path / form), trained, label_column=asked)
        assert data.splits["train"].labels == ((2,), (0, 2), (), (0,))
    (tmp_path / "csv" / "test.csv").write_text("text\na cat\n")
    assert open_texts(str(tmp_path / "csv"), TASK).unlabelled == ("test",)
    (tmp_path / "switches" / "test.csv").write_text("text,red,blue\na cat,-1,-1\n")
    assert open_texts(str(tmp_path / "switches"), TASK, label_column="blue,red").unlabelled == ("test",)


@pytest.mark.parametrize(
    ("content", "column", "text"),
    [
        ("text,labels\na,x;y\nb,x\n", "lables", "has no column 'lables' \\(did you mean 'labels'"),
        ("text,labels\na,\nb,\n", None, "holds no tag in labels: choose with --label-column"),
        (
            "text,other\na,x\nb,y\n",
            None,
            "has no column 'labels'; it has: text, other. Choose another one with",
        ),
        ("text,label\na,1\nb,0\n", None, r"holds 0 and 1, which is one tag: name several, --label-column a,b,c"),
        ("text,x,y\na,1,0\nb,2,1\n", "x,y", "the column 'x' of train is no tag: it holds others than 0 and 1"),
        ("text,x,y\na,1,0\nb,0,1\n", "x,z", "has no column 'z'"),
        ([{"text": "a", "labels": [["x"]]}], None, r"line 1: expected a list of tags or a text `a;b` in 'labels', got"),
        ([{"text": "a", "labels": {"x": 1}}], None, r"line 1: expected a list of tags or a text `a;b`"),
    ],
)
def test_what_is_wrong_in_a_table_is_one_line(tmp_path, content, column, text):
    if isinstance(content, list):
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        (tmp_path / "train.csv").write_text(content)
    with pytest.raises(ValueError, match=text) as raised:
        open_texts(str(tmp_path), TASK, label_column=column)
    assert "\n" not in str(raised.value)


def test_a_tag_that_train_does_not_have_is_named_by_its_line(tmp_path):
    (tmp_path / "train.csv").write_text("text,labels\na,green;red\nb,red\n")
    (tmp_path / "dev.csv").write_text("text,labels\na,red\nb,gren\n")
    with pytest.raises(ValueError, match=r"dev\.csv, line 3 has the tag 'gren' \(did you mean 'green'\?\), and the cl"):
        open_texts(str(tmp_path), TASK)


# loss


def test_the_loss_of_a_batch_is_transformers_mean_over_tags_times_its_texts(text_material):
    data = encode_task(texts.configure(text_material, "tags", "nowhere"))
    objective, _ = make_objective(data)
    ((inputs, targets),) = TextExamples(data.encoded["train"]).batches([[(0, True), (3, True), (5, False)]])
    assert targets.shape == (3, 3)
    assert targets[2].isnan().all()  # it only stands in
    model = AutoModelForSequenceClassification.from_pretrained(
        data.config.model, num_labels=3, problem_type="multi_label_classification"
    ).eval()
    real = {name: tensor[:2] for name, tensor in inputs.items()}
    expected = model(**real, labels=targets[:2])
    outputs = torch.cat([expected.logits, torch.full((1, 3), 7.0)])
    torch.testing.assert_close(objective.loss(outputs, targets), 2 * expected.loss)


# runs


def test_a_run_has_scikit_learns_scores_of_what_it_predicts(finished_text, text_material, tmp_path):
    folder, found = finished_text("tags")
    data = open_texts(str(text_material / "tags"), TASK)
    predictor = Predictor(folder)  # from the file alone
    assert predictor.classes == ("good", "place", "thing")
    shares = predictor.of_split(data.splits["test"]).sigmoid().numpy()
    expected = np.array([[tag in row for tag in range(3)] for row in data.splits["test"].labels])
    assert found["test_mAP"] == pytest.approx(100 * average_precision_score(expected, shares))
    for average in ("macro", "micro"):
        assert found[f"test_{average}_f1"] == pytest.approx(100 * f1_score(expected, shares > 0.5, average=average))
    assert found["test_exact_match"] == pytest.approx(100 * ((shares > 0.5) == expected).all(1).mean())
    assert found["test_mAP"] > 80
    rows = predictor.predict(data.splits["test"], threshold=0.6)
    for row, values in zip(rows, shares, strict=True):
        assert set(row.classes) == {predictor.classes[i] for i in np.flatnonzero(values >= 0.6)}
        assert list(row.probabilities) == sorted(row.probabilities, reverse=True)
    merged = merge_text(folder, tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    assert model.config.problem_type == "multi_label_classification"
    tokens = AutoTokenizer.from_pretrained(merged)([data.splits["test"].texts[0][0]], return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(model(**tokens).logits.sigmoid()[0], shares[0], atol=1e-5)


def test_eval_agrees_with_scikit_learn_on_the_table_that_it_writes(finished_text, tmp_path):
    folder, found = finished_text("tags")
    scores = evaluate_text(folder, table=tmp_path / "tags.csv", threshold=0.3)
    assert scores["mAP"] == pytest.approx(found["test_mAP"])
    with open(tmp_path / "tags.csv") as file:
        rows = list(csv.DictReader(file))
    names = ("good", "place", "thing")
    labels, predicted = (
        np.array([[name in row[column].split(";") for name in names] for row in rows])
        for column in ("label", "prediction")
    )
    shares = np.array([[float(row[f"p({name})"]) for name in names] for row in rows])
    assert (predicted == (shares >= 0.3)).all()
    assert scores["total"] == len(rows)
    assert scores["macro_f1"] == pytest.approx(100 * f1_score(labels, predicted, average="macro"))
    assert scores["exact_match"] == pytest.approx(100 * (labels == predicted).all(1).mean())
    for place, line in enumerate(scores["per_class"]):
        assert line["class"] == names[place]
        assert line["ap"] == pytest.approx(100 * average_precision_score(labels[:, place], shares[:, place]))
        assert line["support"] == labels[:, place].sum()
    assert "tag" in score_text(scores)


@pytest.mark.parametrize("method", [{"name": "prompt", "prompt_length": 2}, texts.UNIPELT], ids=lambda m: m["name"])
def test_other_methods_and_a_drawn_val_split_do(text_material, tmp_path, method):
    from capaboost_vit.run import train

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_bytes((text_material / "tags" / "train.csv").read_bytes())
    options = {"epochs": 1, "data": str(tmp_path / "data"), "model": str(text_material / "roberta"), "method": method}
    found = train(texts.configure(text_material, "tags", tmp_path / "run", **options))
    assert found["data"]["protocol"] == "drawn"
    assert found["val_mAP"] > 0


def test_a_text_without_tags_has_a_row_of_rank_0(finished_text, tmp_path):
    predictor = Predictor(finished_text("tags")[0])
    predictions = predictor.predict(typed_texts(["the good park", "the cat"]), threshold=1.0)
    with write_rows(predictions, tmp_path / "a.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["index", "text", "rank", "class", "probability"],
            ["0", "the good park", "0", "", ""],
            ["1", "the cat", "0", "", ""],
        ]


def test_tags_are_given_on_the_command_line(finished_text, text_material, tmp_path, capsys):
    from capaboost_vit.cli import main

    folder, of_classes = (str(finished_text(kind)[0]) for kind in ("tags", "opinions"))
    assert main(["predict", folder, "--text", "the good park cat", "--threshold", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the good park cat"
    assert {line.split()[-1] for line in lines[1:]} == {"good", "place", "thing"}
    table = str(tmp_path / "a.csv")
    assert main(["predict", folder, str(text_material / "tags" / "test.csv"), "--csv", table]) == 0
    capsys.readouterr()
    for arguments, text in (
        (["predict", folder, str(text_material / "tags")], "name one file, and --csv FILE.csv"),
        (
            ["predict", folder, "--text", "a", "--choices", "b", "c"],
            "multi-label, which has no --choices: leave",
        ),
        (
            ["predict", of_classes, "--text", "a", "--threshold", "0.5"],
            "--threshold is for pictures",
        ),
    ):
        assert main(arguments) == 2
        assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"smoothing": 0.1}, "--smoothing is for classes, and multi-label has none"),
        ({"metrics": ("accuracy",)}, "--metrics accuracy: multi-label has its own, leave it out"),
        ({"select": "balanced_accuracy"}, "--select balanced_accuracy is for one class per example"),
    ],
)
def test_what_is_for_one_class_is_refused(text_material, tmp_path, options, text):
    from capaboost_vit.run import train

    with pytest.raises(ValueError, match=text):
        train(texts.configure(text_material, "tags", tmp_path / "run", **options))
