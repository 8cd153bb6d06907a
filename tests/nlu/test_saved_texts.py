"""A finished run on texts or its adapter file is scored and merged into what it was when it was trained."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import texts
import torch
import transformers
import yaml
from scipy import stats
from sklearn import metrics

from capaboost_vit.core.inject import wrappers
from capaboost_vit.methods.header import AdapterFileError
from capaboost_vit.nlu import create_from_adapter
from capaboost_vit.nlu.predict import Predictor, write_rows
from capaboost_vit.nlu.questions import open_questions, score_answers
from capaboost_vit.nlu.saved import evaluate_text, for_logits, merge_text, open_trained
from capaboost_vit.nlu.submission import _written, glue_rows, write_submission
from capaboost_vit.nlu.tasks import TASKS
from capaboost_vit.nlu.typed_texts import typed_questions, typed_texts
from capaboost_vit.run import train
from capaboost_vit.training.saved import open_source

# kinds of runs that leave an adapter, and the names of their scores on test
KINDS = {
    "opinions": ["accuracy", "macro_f1"],
    "three": ["accuracy"],
    "scores": ["pearson", "spearman"],
    "tags": ["mAP", "macro_f1", "micro_f1", "exact_match"],
    "choices": ["accuracy"],
    "questions": ["exact_match", "f1"],
    "unanswered": ["exact_match", "f1", "has_answer_exact_match", "has_answer_f1", "no_answer_exact_match"],
}

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def alone(finished_text, tmp_path):
    """The adapter file of a run, without its folder."""

    def take(kind):
        return Path(shutil.copy(finished_text(kind)[0] / "adapter.safetensors", tmp_path / f"{kind}.safetensors"))

    return take


# evaluation


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_folder_has_the_scores_of_its_result(finished_text, kind):
    folder, found = finished_text(kind)
    assert open_source(folder).is_text
    assert open_source(folder / "adapter.safetensors").is_text
    scores = evaluate_text(folder)
    assert {*KINDS[kind]} <= scores.keys()
    of_test = {name.removeprefix("test_"): value for name, value in found.items() if name.startswith("test_")}
    of_test = {name: value for name, value in of_test.items() if not name.startswith("mismatched_")}
    expected = numbers(of_test) | numbers(found.get("test", {}))
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def numbers(scores):
    return {name: value for name, value in scores.items() if isinstance(value, int | float)}


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_of_classes_gives_every_score_by_scikit_learn(finished_text, tmp_path):
    folder, found = finished_text("opinions")
    scores = evaluate_text(folder, table=tmp_path / "a.csv")
    rows = rows_of(tmp_path / "a.csv")
    split = [json.loads(line) for line in (Path(found["config"]["data"]) / "test.jsonl").read_text().splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [(row["text"], row["label"]) for row in split]
    assert [row["example"] for row in rows] == [f"test.jsonl:{i}" for i in range(1, len(split) + 1)]
    labels, answers = ([row[name] for row in rows] for name in ("label", "prediction"))
    shares = [float(row["p(good)"]) for row in rows]
    good = [label == "good" for label in labels]
    assert scores["accuracy"] == pytest.approx(100 * metrics.accuracy_score(labels, answers))
    assert scores["macro_f1"] == pytest.approx(100 * metrics.f1_score(labels, answers, average="macro"))
    assert scores["auc"] == pytest.approx(100 * metrics.roc_auc_score(good, shares))
    assert scores["nll"] == pytest.approx(metrics.log_loss(good, shares), rel=1e-5)
    assert scores["per_class"] == found["test"]["per_class"]


def test_numbers_have_their_correlations_mean_error_and_table(finished_text, tmp_path):
    scores = evaluate_text(finished_text("scores")[0], table=tmp_path / "a.csv")
    rows = rows_of(tmp_path / "a.csv")
    assert list(rows[0]) == ["example", "text1", "text2", "label", "prediction"]
    asked, told = ([float(row[name]) for row in rows] for name in ("label", "prediction"))
    assert scores["total"] == len(rows) == 15
    assert scores["pearson"] == pytest.approx(100 * stats.pearsonr(asked, told).statistic, rel=1e-5)
    assert scores["spearman"] == pytest.approx(100 * stats.spearmanr(asked, told).statistic)
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(asked, told), rel=1e-5)


METHODS = [("adapter", {}), ("prompt", {"prompt_length": 2}), ("ia3", {}), ("ssf", {}), ("full", {})]
SHORT = [(kind, {}) for kind in KINDS if kind != "three"]  # which are LoRA's
SHORT += [("opinions", {"method": {"name": name, **options}, "epochs": 1}) for name, options in METHODS]


@pytest.mark.parametrize(("kind", "options"), SHORT, ids=str)
def test_short_cuts_change_no_answer(finished_text, tmp_path, kind, options):
    folder, _ = finished_text(kind, **options)
    network = for_logits(open_trained(folder)[0], torch.device("cpu"), short_cuts=True)
    merges = options.get("method", {}).get("name") not in ("adapter", "prompt")
    assert (list(wrappers(network)) == []) == merges
    assert numbers(evaluate_text(folder)) == pytest.approx(numbers(evaluate_text(folder, short_cuts=False)), rel=1e-5)
    if kind == "opinions":
        (tmp_path / "test.tsv").write_text("".join(f"{text}\n" for text in ["text", *dict(texts.opinions(9))]))
        short, long = (Predictor(folder, short_cuts=short_cuts) for short_cuts in (True, False))
        assert glue_rows(short, str(tmp_path)) == glue_rows(long, str(tmp_path))


def test_other_splits_and_batches_give_their_scores(finished_text):
    folder, found = finished_text("three", epochs=2, select="last")
    for split in ("val", "test_mismatched"):
        for batch_size in (3, 256):
            assert evaluate_text(folder, split=split, batch_size=batch_size)["accuracy"] == pytest.approx(
                found[f"{split}_accuracy"]
            )
    assert evaluate_text(folder, split="dev")["accuracy"] == pytest.approx(found["val_accuracy"])
    with pytest.raises(ValueError, match="has no split 'tset'; it has: train, val, test, val_mismatched, test_mism"):
        evaluate_text(folder, split="tset")


def test_a_base_that_was_moved_can_be_named(finished_text, text_material, tmp_path):
    folder, found = finished_text("opinions")
    moved = shutil.copytree(text_material / "bert", tmp_path / "moved")
    assert evaluate_text(folder, model=str(moved))["accuracy"] == pytest.approx(found["test_accuracy"])


def test_a_folder_of_images_is_none_of_texts(finished):
    assert not open_source(finished[0]).is_text


@pytest.mark.parametrize("kind", ["opinions", "scores"])
def test_an_adapter_file_alone_needs_data_and_base(finished_text, text_material, alone, kind):
    _, found = finished_text(kind)
    data, base = found["config"]["data"], found["config"]["model"]
    with pytest.raises(ValueError, match=rf"{kind}\.safetensors is not in a run folder: say --data"):
        evaluate_text(alone(kind), model=base)
    with pytest.raises(AdapterFileError, match=r"was made on a local Bert.*: say where it is, model=FOLDER"):
        evaluate_text(alone(kind), data=data)
    data = str(Path(data, "test.jsonl" if kind == "opinions" else "test.tsv"))
    if kind == "scores":  # the task's own protocol halves a dev set
        with pytest.raises(ValueError, match="needs a val set"):
            evaluate_text(alone(kind), data=data, model=base)
        return
    scores = evaluate_text(alone(kind), data=data, model=base)
    assert scores["accuracy"] == pytest.approx(found["test_accuracy"])


def test_the_classes_are_those_of_the_adapter_whatever_the_data_hold(finished_text, tmp_path):
    folder, _ = finished_text("opinions")
    rows = [{"text": text, "label": "good"} for text, label in texts.opinions(12) if label == 1]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate_text(folder, data=str(path))["accuracy"] > 60  # as class 0 of the data it would be class `bad`
    path.write_text(json.dumps({"text": "the cat", "label": "godo"}) + "\n")
    with pytest.raises(ValueError, match=r"has the label 'godo' in 'label' \(did you mean 'good'\?\)"):
        evaluate_text(folder, data=str(path))


@pytest.mark.parametrize("change", ["weights", "kind"])
def test_another_base_is_refused(finished_text, text_material, alone, tmp_path, change):
    _, found = finished_text("opinions")
    other = texts.write_encoder(tmp_path / "other", initializer_range=0.2) if change == "weights" else "roberta"
    text = "fingerprints differ" if change == "weights" else "made for BertForSequenceClassification, this model is Rob"
    with pytest.raises(AdapterFileError, match=text):
        evaluate_text(alone("opinions"), data=found["config"]["data"], model=str(text_material / other))


def test_a_run_after_pretraining_is_found_wherever_its_folder_lies(text_material, tmp_path):
    config = texts.configure(text_material, "pairs", tmp_path / "run", tapt_epochs=1, mlm_lr=1e-2, epochs=2)
    found = train(config)
    moved = shutil.move(tmp_path / "run", tmp_path / "moved away")
    assert evaluate_text(Path(moved))["accuracy"] == pytest.approx(found["test_accuracy"])
    merged = merge_text(Path(moved), tmp_path / "merged")
    assert (merged / "model.safetensors").exists()
    with pytest.raises(ValueError, match="merged holds a model of transformers, not of timm: name the run or adapter"):
        open_source(merged)


def test_random_base_weights_are_told_and_full_training_keeps_its_own(text_material, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(text_material / "bert", bare)
    (bare / "model.safetensors").unlink()
    options = {"model": str(bare), "pretrained": False, "epochs": 2}
    train(texts.configure(text_material, "opinions", tmp_path / "lora", **options))
    with pytest.raises(ValueError, match="were random, and are not stored: train without --pretrained false"):
        evaluate_text(tmp_path / "lora")
    found = train(texts.configure(text_material, "opinions", tmp_path / "full", method={"name": "full"}, **options))
    assert evaluate_text(tmp_path / "full")["accuracy"] == pytest.approx(found["test_accuracy"])


def test_a_folder_without_an_adapter_is_named(finished_text, tmp_path):
    for folder in (tmp_path, finished_text("masked")[0]):
        with pytest.raises(FileNotFoundError, match=r"no adapter file at .*adapter\.safetensors"):
            evaluate_text(folder)


@pytest.mark.parametrize("content", ["- a list\n", "pretrained: true\n", "model: x\ntask: y\n", ""])
def test_a_configuration_of_another_program_beside_an_adapter_is_left_alone(finished_text, alone, tmp_path, content):
    _, found = finished_text("opinions")
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match="say --data"):
        evaluate_text(alone("opinions"), model=found["config"]["model"])
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml is no YAML"):
        evaluate_text(alone("opinions"), model=found["config"]["model"])


# predictions


@pytest.mark.parametrize(
    ("kind", "options", "names", "file"),
    [
        ("opinions", {}, {"bad", "good"}, "classification.tsv"),
        ("three", {"epochs": 2, "select": "last"}, {"entailment", "neutral", "contradiction"}, "MNLI-m.tsv"),
        ("scores", {}, None, "STS-B.tsv"),
    ],
)
def test_predictions_are_those_of_the_merged_model_in_a_file_for_the_server(
    finished_text, tmp_path, kind, options, names, file
):
    folder, _ = finished_text(kind, **options)
    columns, texts_of = {
        "opinions": (("text",), [(text,) for text, _ in texts.opinions(9)]),
        "three": (("sentence1", "sentence2"), [("we saw it", text) for text, _ in texts.opinions(9)]),
        "scores": (("sentence1", "sentence2"), [("the cat", text) for text, _ in texts.opinions(9)]),
    }[kind]
    source = tmp_path / "texts" / ("test_matched.tsv" if kind == "three" else "test.tsv")
    source.parent.mkdir()
    source.write_text("".join("\t".join(row) + "\n" for row in [columns, *texts_of]))
    merged = merge_text(folder, tmp_path / "merged")
    model, tokenizer = plain_of(merged, kind), transformers.AutoTokenizer.from_pretrained(merged)
    with torch.no_grad():  # not around the fixture, which may have to train
        expected = [model(**tokenizer(*row, return_tensors="pt")).logits[0] for row in texts_of]
    (written,) = write_submission(glue_rows(Predictor(folder, batch_size=4), str(source.parent)), tmp_path / "out")
    assert written == tmp_path / "out" / file
    header, *lines = [line.split("\t") for line in written.read_text().splitlines()]
    assert header == ["index", "prediction"]
    assert [index for index, _ in lines] == [str(i) for i in range(9)]
    if names is None:
        assert [float(score) for _, score in lines] == pytest.approx([float(logits) for logits in expected], abs=2e-3)
    else:
        assert [name for _, name in lines] == [model.config.id2label[int(logits.argmax())] for logits in expected]
        assert {name for _, name in lines} <= names
    (alone,) = write_submission(glue_rows(Predictor(folder), str(source)), tmp_path / "mine.csv")
    assert alone.read_text().splitlines()[1] == ",".join(lines[0])


def test_classes_that_published_files_number_are_numbers_and_two_sets_need_a_folder(finished_text, tmp_path):
    assert _written(TASKS["cola"], TASKS["cola"].classes, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == ["1", "0"]
    assert {name for name, task in TASKS.items() if task.numbered} == {"cola", "sst2", "mrpc", "qqp", "wnli"}
    two = {"MNLI-m.tsv": ("neutral",), "MNLI-mm.tsv": ("neutral",)}
    with pytest.raises(ValueError, match=r"is one file, and there are MNLI-m\.tsv, MNLI-mm\.tsv: name a folder"):
        write_submission(two, tmp_path / "one.tsv")
    assert [path.name for path in write_submission(two, tmp_path / "out")] == list(two)
    (tmp_path / "test.tsv").write_text("text\nthe cat\n")
    with pytest.raises(ValueError, match="the task squad has neither classes nor scores of texts"):
        glue_rows(Predictor(finished_text("questions")[0]), str(tmp_path))


# what is typed, and files


def test_typed_texts_get_the_probabilities_of_the_merged_model_whatever_the_file_they_stand_in(finished_text, tmp_path):
    folder, _ = finished_text("opinions")
    predictor, asked = Predictor(folder, batch_size=2), [text for text, _ in texts.opinions(5)]
    merged = merge_text(folder, tmp_path / "merged")
    model, tokenizer = plain_of(merged, "opinions"), transformers.AutoTokenizer.from_pretrained(merged)
    assert predictor.temperature == open_source(folder).adapter.header["temperature"]
    predictor.temperature = 1.7  # as if val had had the examples to find one on
    found = predictor.predict(typed_texts(asked))
    for text, prediction in zip(asked, found, strict=True):
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).logits[0]
        expected = (expected / predictor.temperature).softmax(-1)
        assert prediction.texts == (text,)
        by_class = dict(zip(prediction.classes, prediction.probabilities, strict=True))
        assert [by_class[name] for name in ("bad", "good")] == pytest.approx(expected.tolist(), abs=1e-5)
        assert prediction.probabilities == tuple(sorted(prediction.probabilities, reverse=True))
    rows = [{"text": text, "more": 1} for text in asked]
    for name, content in {
        "a.txt": "".join(f"{text}\n" for text in asked),
        "a.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows),
        "a.json": json.dumps(rows),
        "a.csv": "text,more\n" + "".join(f'"{text}",1\n' for text in asked),
    }.items():
        (tmp_path / name).write_text(content)
        assert predictor.predict(predictor.read(str(tmp_path / name))) == found
    lines = (
        write_rows(predictor.predict(typed_texts(asked), top=1), tmp_path / "out" / "a.csv").read_text().splitlines()
    )
    assert lines[0] == "index,text,rank,class,probability"
    assert lines[1].startswith(f"0,{asked[0]},1,{found[0].classes[0]},0.")
    assert len(lines) == 6
    (header, row, *_) = write_rows(found, tmp_path / "files.csv", files=list("abcde")).read_text().splitlines()
    assert (header, row[:2]) == ("file,text,rank,class,probability", "a,")


def test_scores_are_written_and_another_number_of_texts_than_in_training_is_refused(finished_text, tmp_path):
    predictor = Predictor(finished_text("scores")[0])
    (found,) = predictor.predict(typed_texts(["the cat"], ["good fine"]))
    assert (found.classes, found.probabilities) == ((), ())
    header, line = write_rows([found], tmp_path / "a.tsv").read_text().splitlines()
    assert header == "index\ttext1\ttext2\tscore"
    assert float(line.split("\t")[-1]) == pytest.approx(found.score)
    with pytest.raises(ValueError, match="was trained on 2 texts an example, and text 1 has 1: add --text-pair"):
        predictor.predict(typed_texts(["the cat"]))
    with pytest.raises(ValueError, match="trained on one text an example, and text 1 has 2"):
        Predictor(finished_text("opinions")[0]).predict(typed_texts(["a"], ["b"]))
    with pytest.raises(ValueError, match="--top must be at least 1, got 0"):
        predictor.predict(typed_texts(["a"], ["b"]), top=0)


@pytest.mark.parametrize("kind", ["questions", "unanswered"])
def test_questions_of_ones_own_are_answered_as_those_of_the_data_whatever_the_file(finished_text, tmp_path, kind):
    folder, result = finished_text(kind)
    predictor = Predictor(folder)
    scores = evaluate_text(folder, table=tmp_path / "eval.csv")
    rows = rows_of(tmp_path / "eval.csv")
    for name in ("exact_match", "f1"):
        assert sum(float(row[name]) for row in rows) / len(rows) * 100 == pytest.approx(result[f"test_{name}"])
    assert scores["total"] == len(rows)
    test = open_questions(result["config"]["data"]).splits["test"]
    answers = predictor.answer(test.questions)
    assert {row["id"]: row["prediction"] for row in rows} == {name: answer.text for name, answer in answers.items()}
    assert score_answers(test, answers)["f1"] == pytest.approx(result["test_f1"])
    own = predictor.read_questions(result["config"]["data"])
    found = predictor.answer(own)
    assert all(answer.text in question.context for question, answer in zip(own, found.values(), strict=True))
    typed = typed_questions([q.question for q in own], [q.context for q in own])
    assert [answer.text for answer in predictor.answer(typed).values()] == [answer.text for answer in found.values()]
    rows = [{"id": q.id, "question": q.question, "context": q.context} for q in own]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert predictor.answer(predictor.read_questions(str(tmp_path / "a.json"))) == found
    (tmp_path / "a.csv").write_text("question\nwhere ?\n")
    with pytest.raises(ValueError, match=r"a\.csv has no column 'context'; it has: question"):
        predictor.read_questions(str(tmp_path / "a.csv"))


def test_own_questions_get_in_a_fresh_process_the_answers_of_the_run_to_each(ready, finished_text, tmp_path):
    """Of SQuAD v2, where the threshold that the run has found decides whether there is an answer."""
    folder, result = finished_text("unanswered")
    evaluate_text(folder, table=tmp_path / "eval.csv")  # whose mean is the score of the run, above
    own = open_questions(result["config"]["data"]).splits["test"].questions
    rows = [{"id": q.id, "question": q.question, "context": q.context} for q in own]
    (tmp_path / "own.json").write_text(json.dumps(rows))
    ready.run(["capaboost", "predict", folder, tmp_path / "own.json", "--csv", tmp_path / "own.csv"], check=True)
    expected = {row["id"]: row["prediction"] for row in rows_of(tmp_path / "eval.csv")}
    found = rows_of(tmp_path / "own.csv")
    assert {row["id"]: row["answer"] for row in found} == expected
    assert {bool(answer) for answer in expected.values()} == {True, False}
    scores = {name: f"{answer.score:.9g}" for name, answer in Predictor(folder).answer(own).items()}
    assert {row["id"]: row["score"] for row in found} == scores


def test_what_is_typed_wrong_is_named():
    with pytest.raises(ValueError, match="--text-pair needs a text for each of --text, got 1 for 2"):
        typed_texts(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="--text 2 is empty"):
        typed_texts(["a", " "])
    with pytest.raises(ValueError, match="--context needs one text, or one for each --question, got 0"):
        typed_questions(["a", "b"], [])


# merging


def plain_of(folder, kind):
    """The merged model as transformers loads it, which finds nothing missing."""
    model, info = (
        transformers.AutoModelForQuestionAnswering
        if kind == "unanswered"
        else transformers.AutoModelForSequenceClassification
    ).from_pretrained(folder, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("opinions", {"name": "lora"}),
        ("scores", {"name": "lora", "targets": ["query", "mlp_in"], "num_branches": 1, "density": 1.0}),
        ("unanswered", {"name": "ia3"}),
        ("opinions", {"name": "full"}),
        ("opinions", {"name": "bitfit"}),
    ],
    ids=str,
)
def test_a_merged_folder_is_a_model_of_transformers_with_the_same_logits(finished_text, tmp_path, kind, method):
    folder, found = finished_text(kind, method=method, epochs=1, lr=1e-2)
    merged = merge_text(folder, tmp_path / "a" / "merged model")
    assert [path.name for path in merged.parent.iterdir()] == ["merged model"]
    model = create_from_adapter(folder / "adapter.safetensors", model=found["config"]["model"])
    tokens = transformers.AutoTokenizer.from_pretrained(merged)("the cat is very good in the park", return_tensors="pt")
    with torch.no_grad():
        first, second = model(**tokens), plain_of(merged, kind)(**tokens)
    for name in ("start_logits", "end_logits") if kind == "unanswered" else ("logits",):
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-5)
    if kind == "opinions":
        assert plain_of(merged, kind).config.id2label == {0: "bad", 1: "good"}


PLAIN = """
import sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model, tokenizer = (auto.from_pretrained(sys.argv[1]) for auto in (AutoModelForSequenceClassification, AutoTokenizer))
found = model.eval()(**tokenizer("the cat is good", return_tensors="pt")).logits[0].tolist()
assert "capaboost_vit" not in sys.modules
print(found)
"""


def test_a_merged_folder_needs_nothing_of_ours(ready, finished_text, tmp_path):
    folder, found = finished_text("opinions")
    merged = merge_text(folder, tmp_path / "merged")
    done = ready.run(["python", "-c", PLAIN, merged], package=False, check=True)
    model = create_from_adapter(folder / "adapter.safetensors", model=found["config"]["model"])
    with torch.no_grad():
        expected = model(**texts.bert_tokenizer()("the cat is good", return_tensors="pt")).logits[0]
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (texts.UNIPELT, "cannot merge 'bert.encoder': a prompt is no change of a weight, and likewise at"),
        ({"name": "adapter"}, "an adapter is no change of a weight"),
        ({"name": "prompt", "prompt_length": 2}, "a prompt is no change of a weight"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_what_no_weight_can_express_is_not_merged(finished_text, tmp_path, method, text):
    folder, _ = finished_text("opinions", method=method, epochs=1)
    with pytest.raises(ValueError, match=text):
        merge_text(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_nothing_is_replaced_and_a_file_is_no_folder(finished_text, tmp_path):
    folder, _ = finished_text("opinions")
    with pytest.raises(ValueError, match="a model on texts becomes a folder, as transformers loads it"):
        merge_text(folder, tmp_path / "merged.safetensors")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="taken exists: choose another --output"):
        merge_text(folder, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    (tmp_path / "empty").mkdir()
    assert merge_text(folder, tmp_path / "empty") == tmp_path / "empty"
    readable = {path.name for path in (tmp_path / "empty").iterdir() if path.stat().st_mode & 0o044}
    assert readable == {path.name for path in (tmp_path / "empty").iterdir()}


def test_an_adapter_file_alone_is_merged_on_the_base_that_is_named(finished_text, alone, tmp_path):
    _, found = finished_text("opinions")
    with pytest.raises(AdapterFileError, match="was made on a local"):
        merge_text(alone("opinions"), tmp_path / "merged")
    merge_text(alone("opinions"), tmp_path / "merged", model=found["config"]["model"])
    assert yaml.safe_load((tmp_path / "merged" / "config.json").read_text())["label2id"] == {"bad": 0, "good": 1}
