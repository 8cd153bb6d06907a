"""Multiple choice: tables are read, logits are transformers', and an example does not depend on those beside it."""

from __future__ import annotations

import csv
import json

import datasets
import pytest
import texts
import torch
import transformers
from small import adapted, build, wake
from torch.nn import functional as F

from capaboost_vit.nlu.choice_objective import choosing, of_choices
from capaboost_vit.nlu.choices import encode_choices
from capaboost_vit.nlu.data import TextSplit, open_texts
from capaboost_vit.nlu.loader import text_examples
from capaboost_vit.nlu.models import create_text_model
from capaboost_vit.nlu.predict import Predictor
from capaboost_vit.nlu.saved import evaluate_text, merge_text
from capaboost_vit.nlu.tasks import TASKS
from capaboost_vit.training.metrics import wilson_interval
from capaboost_vit.training.report_text import score_text

TASK = TASKS["multiple-choice"]
ROWS = (("a cat", "good", "bad", "sad"), ("a dog", "fine", "poor"), ("a bird", "bad", "grim", "good"))
RIGHT = (0, 1, 2)

pytestmark = pytest.mark.usefixtures("without_pictures")


def rows_of(label):
    """A list column, and labels by `label(choices, number)`."""
    pairs = zip(ROWS, RIGHT, strict=True)
    return [{"context": c, "choices": choices, "label": label(choices, right)} for (c, *choices), right in pairs]


# reading

LABELS = {
    "number": lambda choices, right: right,
    "text number": lambda choices, right: str(right),
    "letter": lambda choices, right: "ABC"[right],
    "text": lambda choices, right: choices[right],
}


@pytest.mark.parametrize(
    ("form", "label"),
    [
        *(("jsonl", label) for label in LABELS),
        ("json", "letter"),
        ("csv", "text"),
        ("tsv", "number"),
        ("saved", "number"),
    ],
)
def test_tables_of_every_form_hold_the_same_choices(tmp_path, form, label):
    rows = rows_of(LABELS[label])
    if form == "saved":
        datasets.disable_progress_bars()
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        datasets.DatasetDict(train=datasets.Dataset.from_dict(columns)).save_to_disk(str(tmp_path / "data"))
    elif form in ("csv", "tsv"):
        mark = "," if form == "csv" else "\t"
        lines = [("question", "choice1", "choice2", "choice3", "answer")]
        lines += [(r["context"], *r["choices"], *[""] * (3 - len(r["choices"])), str(r["label"])) for r in rows]
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / f"train.{form}").write_text("".join(mark.join(line) + "\n" for line in lines))
    else:
        (tmp_path / "data").mkdir()
        content = json.dumps(rows) if form == "json" else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / f"train.{form}").write_text(content)
    split = open_texts(str(tmp_path / "data"), TASK).splits["train"]
    assert (split.texts, split.labels) == (ROWS, RIGHT)


def test_columns_that_are_asked_for_are_context_choices_and_label(tmp_path):
    (tmp_path / "train.csv").write_text("q,label,no,yes,right\na cat,x,bad,good,1\na dog,x,fine,poor,0\n")
    data = open_texts(str(tmp_path), TASK, text_columns=("q", "yes", "no"), label_column="right")
    assert data.splits["train"].texts == (("a cat", "good", "bad"), ("a dog", "poor", "fine"))
    assert data.splits["train"].labels == (1, 0)


def row(**cells):
    return {"context": "a", "choices": ["x", "y"], "label": 0, **cells}


@pytest.mark.parametrize(
    ("rows", "columns", "text"),
    [
        (
            [row(label=2)],
            None,
            r"line 1 has the label 2 in 'label'; expected the number of a choice, 0 to 1, its l",
        ),
        (
            [row(label=0), row(label="z")],
            None,
            r"line 2 has the label 'z' in 'label'; expected the number of a choice",
        ),
        ([row(label=None), row()], None, "line 1 has no label in 'label'"),
        ([row(choices=["x"])], None, "line 1 has 1 choices in choices: two are needed"),
        ([row(choices="x")], None, "line 1: expected a list of texts in 'choices', got 'x'"),
        ([row(choices=["x", " ", "y"])], None, r"line 1: choice 1 \(from 0\) is empty, and others follow"),
        ([row(context="")], None, "line 1: the text in 'context' is empty"),
        (
            [row(choices=["1", "0"], label="0")],
            None,
            "can be the texts of choices or their numbers from 0, which are",
        ),
        (
            [{"context": "a", "label": 0}],
            None,
            "has no column 'choices'; it has: context, label. Choose .* --text-col",
        ),
        ([{"choices": ["a", "b"], "label": 0}], None, "has no column 'context'"),
        ([row(question="b")], None, "several columns of contexts: choose with --text-columns context or question"),
        ([row()], ("context",), "say the column of contexts, then those of choices"),
        ([{"context": "a", "choices": ["x", "y"]}], None, "has no column 'label'"),
    ],
)
def test_what_is_wrong_in_a_table_is_one_line(tmp_path, rows, columns, text):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=text) as raised:
        open_texts(str(tmp_path), TASK, text_columns=columns)
    assert "\n" not in str(raised.value)


# logits and loss


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_logits_are_those_of_transformers_for_multiple_choice(text_material, kind):
    name = str(text_material / kind)
    torch.manual_seed(0)
    model = create_text_model(name, "multiple-choice")
    assert type(model) is type(transformers.AutoModelForMultipleChoice.from_pretrained(name))
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    encoded = encode_choices(TextSplit(ROWS[:1], (), ("a",)), tokenizer, max_length=20)
    ((inputs, targets),) = text_examples(encoded).batches([[(0, True)]])
    context, *choices = ROWS[0]
    theirs = tokenizer([context] * 3, choices, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**{key: tensor[None] for key, tensor in theirs.items()}).logits
        torch.testing.assert_close(model(**inputs).logits, expected)
    assert targets.tolist() == [[0, 0, 0]]


ADDED = ["lora", "prefix", "prompt", "unipelt"]


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *zip(["bert", "roberta", "electra", "deberta-v3"], ADDED, strict=True),
        ("deberta-v3", "unipelt"),
        ("bert", "prefix"),
    ],
)
def test_examples_of_several_numbers_of_choices_are_what_each_is_alone(family, method):
    model = wake(adapted(build(family, "MultipleChoice"), method)).eval()
    tokenizer = texts.bert_tokenizer()
    encoded = encode_choices(TextSplit(ROWS, RIGHT, ("a", "b", "c")), tokenizer, max_length=20)
    examples, objective = text_examples(encoded), choosing()
    # ids of the small models' vocabulary
    encoded = type(encoded)(**{**vars(encoded), "ids": tuple(ids % 57 + 3 for ids in encoded.ids), "types": None})
    examples = text_examples(encoded)
    ((inputs, targets), *alone) = examples.batches(
        [[(0, True), (1, True), (2, True), (0, False)], [(0, True)], [(1, True)], [(2, True)]]
    )
    assert targets.tolist() == [[1, 0, 0], [0, 1, -1], [0, 0, 1], [-1, -1, -1]]
    parameters = [p for p in model.parameters() if p.requires_grad]
    outputs = model(**inputs).logits
    together = objective.loss(outputs, targets)
    gradients = torch.autograd.grad(together, parameters, allow_unused=True)
    losses, naive = [], []
    for place, (one, target) in enumerate(alone):
        logits = model(**one).logits
        torch.testing.assert_close(
            of_choices(outputs, targets)[place, : logits.shape[1]], logits[0], rtol=1e-4, atol=1e-5
        )
        losses.append(objective.loss(logits, target))
        naive.append(-logits[0].double().log_softmax(0)[RIGHT[place]])
    torch.testing.assert_close(together, sum(losses), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.double(), sum(naive), rtol=1e-4, atol=1e-5)
    for found, expected in zip(gradients, torch.autograd.grad(sum(losses), parameters, allow_unused=True), strict=True):
        if expected is not None:
            assert found.isfinite().all()
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_loss_is_cross_entropy_where_all_have_as_many_choices():
    outputs, labels = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
    targets = F.one_hot(labels, 4)
    objective = choosing()
    torch.testing.assert_close(objective.loss(outputs, targets), F.cross_entropy(outputs, labels, reduction="sum"))
    assert objective.right(outputs, targets) == (outputs.argmax(1) == labels).sum()
    targets = torch.tensor([[0, 1, -1], [-1, -1, -1]])  # the second only stands in
    outputs = torch.tensor([[0.0, 1.0, 9.0], [1.0, 2.0, 3.0]], requires_grad=True)
    assert objective.right(outputs, targets) == 1
    objective.loss(outputs, targets).backward()
    assert outputs.grad[1].tolist() == [0, 0, 0]
    assert outputs.grad[0, 2] == 0


# runs


def test_a_run_learns_and_its_file_gives_the_same_choices(finished_text, text_material, tmp_path):
    folder, found = finished_text("choices")
    assert found["test_accuracy"] > 80
    assert evaluate_text(folder, batch_size=1)["accuracy"] == found["test_accuracy"]
    predictor = Predictor(folder)
    split = predictor.read_choices(str(text_material / "choices" / "test.jsonl"))
    answers = predictor.choose(split)
    right = [texts.choice(i) for i in range(53, 68)]
    accuracy = sum(a.classes[0] == r["choices"][r["label"]] for a, r in zip(answers, right, strict=True)) / len(right)
    assert 100 * accuracy == pytest.approx(found["test_accuracy"])
    merged = merge_text(folder, tmp_path / "merged")
    model = transformers.AutoModelForMultipleChoice.from_pretrained(merged).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    for answer, (context, *choices) in zip(answers[:3], split.texts[:3], strict=True):
        tokens = tokenizer([context] * len(choices), choices, padding=True, return_tensors="pt")
        with torch.no_grad():
            shares = model(**{name: t[None] for name, t in tokens.items()}).logits[0].softmax(0)
        given = dict(zip(answer.classes, answer.probabilities, strict=True))
        assert [given[choice] for choice in choices] == pytest.approx(shares.tolist(), abs=1e-5)


def test_eval_gives_an_interval_and_a_row_for_each_example(finished_text, tmp_path):
    scores = evaluate_text(finished_text("choices")[0], table=tmp_path / "choices.csv")
    with (tmp_path / "choices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [texts.choice(i)["context"] for i in range(53, 68)]
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert (scores["right"], scores["total"]) == (right, 15)
    assert (scores["accuracy_low"], scores["accuracy_high"]) == wilson_interval(right, 15)
    assert f"accuracy {100 * right / 15:.2f} % ({right} of 15)\n95 % Wilson interval" in score_text(scores)
    with pytest.raises(ValueError, match="--threshold is for texts with several tags, and multiple-choice has none"):
        evaluate_text(finished_text("choices")[0], threshold=0.3)


@pytest.mark.parametrize("method", [{"name": "prefix", "prefix_length": 2}, texts.UNIPELT], ids=lambda m: m["name"])
def test_prefixes_and_unipelt_train_and_short_cuts_change_no_answer(finished_text, text_material, method):
    folder, found = finished_text("choices", epochs=1, model=str(text_material / "roberta"), method=method)
    assert evaluate_text(folder, short_cuts=False) == evaluate_text(folder)
    assert found["test_accuracy"] == pytest.approx(evaluate_text(folder)["accuracy"])


def test_labels_may_all_be_the_first_choice(text_material, tmp_path):
    from capaboost_vit.nlu.encoded import encode_task
    from capaboost_vit.run import build_job
    from capaboost_vit.training.distributed import ProcessGroup

    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row(context=f"a {i}")) + "\n" for i in range(8)))
    config = texts.configure(text_material, "choices", tmp_path / "run", data=str(tmp_path))
    assert encode_task(config).data.protocol == "drawn"
    assert build_job(config, ProcessGroup(), torch.device("cpu")).classes == ()


def test_choices_are_made_on_the_command_line(finished_text, text_material, tmp_path, capsys):
    from capaboost_vit.cli import main

    folder = str(finished_text("choices")[0])
    assert main(["predict", folder, "--text", "we saw the cat", "--choices", "it was bad", "it was good"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "we saw the cat"
    assert lines[1].endswith(" %  it was good")
    table = tmp_path / "a.csv"
    assert main(["predict", folder, str(text_material / "choices" / "test.jsonl"), "--csv", str(table)]) == 0
    capsys.readouterr()
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "text", "rank", "choice", "probability"]
    assert len(rows) == sum(len(texts.choice(i)["choices"]) for i in range(53, 68))
    for arguments, text in (
        (["--text", "a"], "multiple-choice chooses: say --text CONTEXT --choices A B C, or name a file"),
        (["--text", "a", "--choices", "b"], "say one --text and two --choices or more, got 1 and 1"),
        (["--text", "a", "--choices", "b", " "], "--text or one of --choices is empty"),
        ([str(table), "--choices", "b", "c"], "--choices goes with --text, which is missing"),
    ):
        assert main(["predict", folder, *arguments]) == 2
        assert text in capsys.readouterr().err
