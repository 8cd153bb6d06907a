"""A run on texts leaves what it promises, learns, tests once, and says the numbers that its answers give by hand."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import texts
import torch
import yaml
from safetensors.torch import load_file
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForMaskedLM, AutoTokenizer

import capaboost_vit
from capaboost_vit.core.inject import branches
from capaboost_vit.nlu import create_from_adapter
from capaboost_vit.nlu.config import TextConfig, base_model
from capaboost_vit.nlu.encoded import encode_task
from capaboost_vit.nlu.questions import best_answers, best_threshold, encode_questions, open_questions, score_answers
from capaboost_vit.nlu.saved import evaluate_text
from capaboost_vit.run import build_job, train
from capaboost_vit.training import result
from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.job import Job, as_dict
from capaboost_vit.training.loader import EvalLoader, TrainLoader
from capaboost_vit.training.report_text import score_text

EVERYWHERE = {"config.yaml", "result.json", "status.json", "summary.csv", ".lock", "learning_curve.png"}
EVERYWHERE |= {"tensorboard", "checkpoints", "README.md"}
WITHOUT_PICTURES = EVERYWHERE - {"learning_curve.png"}
# columns of summary.csv behind epoch and update, by kind
ACCURACY = ["train_loss", "train_accuracy", "grad_norm"]
COLUMNS = {
    "opinions": [*ACCURACY, "val_loss", "val_accuracy", "val_macro_f1"],
    "pairs": [*ACCURACY, "val_loss", "val_accuracy"],
    "three": [*ACCURACY, "val_loss", "val_accuracy"],
    "scores": ["train_loss", "grad_norm", "val_loss", "val_pearson", "val_spearman"],
    "questions": [*ACCURACY, "val_loss", "val_exact_match", "val_f1"],
    "unanswered": [*ACCURACY, "val_loss", "val_exact_match", "val_f1"],
    "entities": [
        "train_loss",
        "grad_norm",
        *(f"val_{name}" for name in ("loss", "f1", "precision", "recall", "accuracy")),
    ],
    "tags": [
        "train_loss",
        "grad_norm",
        *(f"val_{name}" for name in ("loss", "mAP", "macro_f1", "micro_f1", "exact_match")),
    ],
    "choices": [*ACCURACY, "val_loss", "val_accuracy"],
    "masked": ["train_loss", "grad_norm"],
}
every_kind = pytest.mark.parametrize("kind", texts.KINDS)
pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def run(text_material, tmp_path):
    """Trains; returns (result, tensors of the adapter, rows of the table)."""

    def start(kind, name="run", **options):
        found = train(texts.configure(text_material, kind, tmp_path / name, **options))
        return found, load_file(tmp_path / name / "adapter.safetensors"), rows_of(tmp_path / name)

    return start


def rows_of(folder):
    with open(folder / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def difference(first, second):
    assert first.keys() == second.keys()
    return max((first[name].float() - value.float()).abs().max().item() for name, value in second.items())


# what a run leaves


@every_kind
def test_a_run_leaves_its_files_and_learns(finished_text, kind):
    folder, found = finished_text(kind)
    own = {"model"} if kind == "masked" else {"adapter.safetensors"}
    own |= {"predictions.json"} if kind in ("opinions", "pairs", "three") else set()
    assert {path.name for path in folder.iterdir()} == WITHOUT_PICTURES | own
    assert len(list((folder / "checkpoints").iterdir())) == 2
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["update"]) == ("finished", found["updates"])
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(found))
    rows = rows_of(folder)
    assert list(rows[0]) == ["epoch", "update", *COLUMNS[kind]]
    assert [int(row["epoch"]) for row in rows] == list(range(1, 7))
    assert float(rows[-1]["train_loss"]) < 0.8 * float(rows[0]["train_loss"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_plain_lora_trains_as_a_script_with_peft_does(text_material, tmp_path):
    """From the same start and in the same order each update has the loss of PEFT, torch's AdamW and transformers."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    method = {"name": "lora", "rank": 4, "alpha": 6, "num_branches": 1, "density": 1.0}
    options = {"batch_size": 16, "epochs": 3, "lr": 5e-3, "warmup_lr": 0.0, "warmup_steps": 3, "clip_grad": 0.5}
    config = texts.configure(text_material, "opinions", tmp_path / "run", method=method, log_interval=1, **options)
    job = build_job(config, ProcessGroup(), torch.device("cpu"))
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(config.model, num_labels=2, **none)
    fresh = ["pooler", "classifier"]  # what the base has no weights for; PEFT alone would leave a random pooler frozen
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=6, modules_to_save=fresh))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    started = {name: p for name, p in job.model.named_parameters() if p.requires_grad}
    for (name, theirs), ours in zip(sorted(trained.items()), (started[name] for name in sorted(started)), strict=True):
        assert theirs.shape == ours.shape, name
        theirs.data = ours.detach().clone()
    groups = [[p for p in trained.values() if (p.ndim == 1) is is_bias] for is_bias in (True, False)]
    decay = (0.0, config.weight_decay)
    adamw = torch.optim.AdamW([{"params": p, "weight_decay": d} for p, d in zip(groups, decay, strict=True)], lr=5e-3)
    schedule = transformers.get_cosine_schedule_with_warmup(adamw, 3, 9)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    rows = [json.loads(line) for line in (Path(config.data) / "train.jsonl").read_text().splitlines()]
    losses = []
    for update in itertools.chain.from_iterable(map(job.train.epoch, range(3))):
        examples = [rows[index] for index in update.indices]
        inputs = tokenizer([row["text"] for row in examples], padding=True, return_tensors="pt")
        labels = torch.tensor([row["label"] == "good" for row in examples]).long()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)
        adamw.step()
        schedule.step()
        adamw.zero_grad()
        losses.append(loss.item())
    train(config)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    np.testing.assert_allclose([event.value for event in events.Scalars("train/loss")], losses, rtol=0, atol=3e-6)
    assert losses[-1] < losses[0]


def test_the_log_warns_of_a_single_masked_branch(text_material, tmp_path, capsys):
    for name, method in (("masked", {"num_branches": 1}), ("plain", {"num_branches": 1, "density": 1.0})):
        options = {"method": {"name": "lora", **method}, "epochs": 1}
        config = texts.configure(text_material, "opinions", tmp_path / name, **options)
        train(config)
        assert ("warning: one branch keeps 0.5 of each weight" in capsys.readouterr().err) is (name == "masked")


def test_the_pictures_of_a_run_are_those_of_its_task(text_material, tmp_path, monkeypatch):
    monkeypatch.undo()  # the pictures are drawn
    opinions = {"confusion_matrix.png", "predictions.json", "adapter.safetensors"}
    for kind, own in (("opinions", opinions), ("masked", {"model"})):
        train(texts.configure(text_material, kind, tmp_path / kind, epochs=1))
        assert {path.name for path in (tmp_path / kind).iterdir()} == EVERYWHERE | own


def test_the_result_has_these_keys(finished_text):
    common = {"best_epoch", "train_seconds", "examples_per_second", "updates", "epochs", "model", "method"}
    common |= {"parameters", "adapter_bytes", "data", "config", "machine", "finished", "memory_mb", "val_loss"}
    scores = {"val_accuracy", "val_macro_f1", "best_val_accuracy", "test_accuracy", "test_macro_f1"}
    assert finished_text("opinions")[1].keys() == common | scores | {"test_right", "test_total", "test"}
    scores = {"val_pearson", "val_spearman", "best_val_pearson", "test_pearson", "test_spearman"}
    assert finished_text("scores")[1].keys() == common | scores
    scores = {"val_exact_match", "val_f1", "best_val_exact_match", "test_exact_match", "test_f1"}
    assert finished_text("questions")[1].keys() == common | scores
    groups = {f"test_{group}_{name}" for group in ("has_answer", "no_answer") for name in ("exact_match", "f1")}
    assert finished_text("unanswered")[1].keys() == common | scores | groups
    masked = finished_text("masked")[1]
    assert all(masked[name] is None for name in masked if name.startswith(("val_", "test_", "best_")))


def test_the_result_tells_data_counts_and_machine(finished_text):
    folder, found = finished_text("opinions")
    assert {name: part["examples"] for name, part in found["data"]["splits"].items()} == {
        "train": 40,
        "val": 13,
        "test": 15,
    }
    assert (found["data"]["classes"], found["data"]["protocol"]) == (2, "own")
    assert found["data"]["cut"] == {"train": 0, "val": 0, "test": 0}
    model = create_from_adapter(folder / "adapter.safetensors", model=found["config"]["model"])
    rank, width = 8, 16
    pooler, classifier = width * width + width, 2 * width + 2  # random weights have no pooler
    assert found["parameters"]["branches"] == 2 * rank * (2 * width + 1)
    assert found["parameters"]["trained"] == 2 * rank * (2 * width + 1) + pooler + classifier
    assert found["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert found["adapter_bytes"] == (folder / "adapter.safetensors").stat().st_size
    assert found["examples_per_second"] > 0
    assert (found["updates"], found["epochs"]) == (30, 6)


def test_the_table_the_points_and_the_result_tell_the_same(finished_text):
    folder, found = finished_text("scores")
    rows = rows_of(folder)
    updates = [int(row["update"]) for row in rows]
    assert updates == list(range(5, 31, 5))
    assert float(rows[-1]["val_spearman"]) == found["val_spearman"]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in COLUMNS["scores"]:
        points = events.Scalars(f"epoch/{name}")
        assert [point.step for point in points] == updates
        assert [point.value for point in points] == pytest.approx([float(row[name]) for row in rows], rel=1e-5)
    for name in ("train/loss", "train/lr", "train/grad_norm", "speed/examples_per_second"):
        assert [point.step for point in events.Scalars(name)] == list(range(1, 31))
    (text,) = events.Tensors("config/text_summary")
    assert b"task: stsb" in text.tensor_proto.string_val[0]


def test_the_adapter_file_knows_task_classes_and_length(finished_text):
    header = capaboost_vit.read_header(finished_text("opinions")[0] / "adapter.safetensors")
    assert header["class_names"] == ["bad", "good"]
    assert header["text"] == {"task": "classification", "max_length": 40, "segments": 1}
    assert header["base"]["architecture"] == "BertForSequenceClassification"
    assert header["base"]["tag"] is None  # a local folder, which others do not have
    header = capaboost_vit.read_header(finished_text("scores")[0] / "adapter.safetensors")
    assert (header["class_names"], header["text"]["task"]) == ([], "stsb")


@every_kind
def test_the_stored_configuration_is_the_runs(finished_text, kind):
    folder, found = finished_text(kind)
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored == found["config"] == as_dict(TextConfig(**stored))


def test_what_is_said_names_the_splits_and_what_was_cut(text_material, tmp_path, capsys):
    config = texts.configure(text_material, "opinions", tmp_path / "run", epochs=1, max_length=8)
    found = train(config)
    lines = capsys.readouterr().err.splitlines()
    assert f"{config.model} on classification ({config.data}): 2 classes, train 40, val 13, test 15; 834 of" in lines[0]
    cut = found["data"]["cut"]
    assert cut["train"] == sum(len(text.split()) > 6 for text, _ in texts.opinions(40)) > 0
    assert lines[1] == "short cuts: the last block for the tokens alone that the head reads"
    assert lines[2] == f"warning: {cut['train']} of 40 texts of train are cut to --max-length 8"
    assert lines[-1].startswith("test accuracy ")


def test_as_many_tokens_as_the_model_takes_are_allowed_and_no_more(text_material):
    options = {"data": str(text_material / "nowhere"), "max_length": texts.POSITIONS}
    with pytest.raises(FileNotFoundError, match="no data at"):  # what is read after the length is checked
        encode_task(texts.configure(text_material, "opinions", "nowhere", **options))
    options["max_length"] += 1
    with pytest.raises(ValueError, match=f"the model takes {texts.POSITIONS} tokens at most"):
        encode_task(texts.configure(text_material, "opinions", "nowhere", **options))


# the model that is kept, and the test


@pytest.mark.parametrize(
    ("kind", "metric"),
    [("opinions", "accuracy"), ("scores", "pearson"), ("unanswered", "exact_match"), ("tags", "mAP")],
)
def test_the_best_epoch_by_the_first_metric_is_kept_as_a_run_that_ended_there_leaves_it(run, kind, metric):
    steady = {"sched": "none", "warmup_steps": 0, "lr": 1e-2}
    found, best, rows = run(kind, "best", epochs=5, **steady)
    scores = [float(row[f"val_{metric}"]) for row in rows]
    assert found[f"best_val_{metric}"] == max(scores)
    assert found["best_epoch"] == 1 + scores.index(max(scores))
    stopped, shorter, _ = run(kind, "stopped", epochs=found["best_epoch"], select="last", **steady)
    assert same(best, shorter)
    assert {n: v for n, v in stopped.items() if n.startswith("test")} == {
        n: v for n, v in found.items() if n.startswith("test")
    }


def test_the_last_epoch_is_kept_where_that_is_asked_for(run):
    steady = {"sched": "none", "warmup_steps": 0, "epochs": 5}
    _, last, rows = run("opinions", "last", select="last", **steady)
    found, best, others = run("opinions", "best", **steady)
    assert rows == others
    assert found["best_epoch"] < 5
    assert not same(last, best)


@pytest.mark.parametrize("kind", ["opinions", "three", "unanswered"])
def test_the_test_split_is_read_once_after_all_training(run, monkeypatch, kind):
    seen, read, trained, evaluated = [], EvalLoader.__iter__, TrainLoader.epoch, []
    evaluate = Job.evaluate

    def watched(self):
        seen.append(self.examples.encoded.names)
        return read(self)

    def epoch(self, number, start=0):
        seen.append("train")
        return trained(self, number, start)

    monkeypatch.setattr(EvalLoader, "__iter__", watched)
    monkeypatch.setattr(TrainLoader, "epoch", epoch)
    monkeypatch.setattr(
        Job, "evaluate", lambda job, part, **more: evaluated.append(part) or evaluate(job, part, **more)
    )
    run(kind, epochs=2)
    val = seen[1]
    during, after = seen[:4], seen[4:]
    assert during == ["train", val, "train", val]
    tests = {"opinions": 1, "three": 1 + 2, "unanswered": 1}[kind]  # of three: two sets, and the other val
    threshold = [val] if kind == "unanswered" else []  # chosen on val with the model that is kept
    assert after[: len(threshold)] == threshold
    assert len(after) == len(evaluated[2:]) == len(threshold) + tests  # behind the two on val
    assert len({*after} - {val}) == tests


def test_mnli_is_tested_on_both_of_its_sets(finished_text):
    _, found = finished_text("three")
    sizes = {name: part["examples"] for name, part in found["data"]["splits"].items()}
    assert sizes == {"train": 45, "val": 10, "test": 10, "val_mismatched": 7, "test_mismatched": 7}
    for name in ("test", "test_mismatched"):
        assert found[f"{name}_total"] == sizes[name]
        assert found[f"{name}_accuracy"] == pytest.approx(100 * found[f"{name}_right"] / sizes[name])


def test_without_test_or_val_its_scores_are_null(run, text_material, tmp_path, capsys):
    found, _, rows = run("pairs", protocol="dev", epochs=1)
    assert (found["test_accuracy"], found["val_accuracy"]) == (None, float(rows[0]["val_accuracy"]))
    assert "no test split" in capsys.readouterr().err
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(text_material / "RTE" / "train.tsv", data)
    found, _, rows = run("pairs", "alone", data=str(data), protocol="own", select="last", epochs=1)
    assert (found["test_accuracy"], found["val_accuracy"]) == (None, None)
    assert list(rows[0]) == ["epoch", "update", *ACCURACY]


# the scores, by hand


def answers_of(folder, examples):
    """The outputs of the stored adapter, one example at a time, by transformers' own tokenizer."""
    base = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = create_from_adapter(folder / "adapter.safetensors", model=base)
    with torch.no_grad():
        return [model(**tokenizer(*example, return_tensors="pt")).logits[0] for example in examples]


def test_the_scores_of_a_classification_are_scikit_learns(finished_text, text_material):
    folder, found = finished_text("opinions", epochs=1)
    lines = (text_material / "opinions" / "test.jsonl").read_text().splitlines()
    examples = [json.loads(line) for line in lines]
    targets = [("bad", "good").index(example["label"]) for example in examples]
    answers = [logits.argmax().item() for logits in answers_of(folder, [(example["text"],) for example in examples])]
    assert 0 < accuracy_score(targets, answers) < 1
    assert found["test_accuracy"] == pytest.approx(100 * accuracy_score(targets, answers))
    assert found["test_macro_f1"] == pytest.approx(100 * f1_score(targets, answers, average="macro", zero_division=0))


def test_the_scores_of_a_regression_are_scipys(finished_text, text_material):
    folder, found = finished_text("scores")
    with open(text_material / "STS-B" / "test.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    targets = np.array([float(row["score"]) for row in rows])
    outputs = answers_of(folder, [(row["sentence1"], row["sentence2"]) for row in rows])
    answers = torch.stack(outputs)[:, 0].numpy()
    assert found["test_pearson"] == pytest.approx(100 * pearsonr(answers, targets).statistic, abs=1e-3)
    assert found["test_spearman"] == pytest.approx(100 * spearmanr(answers, targets).statistic)
    assert found["test_pearson"] > 50


def spans_of(folder, split, config, **options):
    """Answers of the stored adapter to the questions of a split, one window at a time."""
    base = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = create_from_adapter(folder / "adapter.safetensors", model=base)
    lengths = {name: config[name] for name in ("max_length", "stride", "max_question")}
    windows = encode_questions(split, tokenizer, **lengths)
    start, end = (np.full((len(windows), config["max_length"]), -1e9) for _ in range(2))
    for i, ids in enumerate(windows.ids):
        inputs = {"input_ids": torch.tensor(ids[None].astype(np.int64))}
        if windows.types is not None:
            inputs["token_type_ids"] = torch.tensor(windows.types[i][None].astype(np.int64))
        with torch.no_grad():
            found = model(**inputs)
        start[i, : len(ids)], end[i, : len(ids)] = found.start_logits[0].numpy(), found.end_logits[0].numpy()
    return best_answers(split, windows, start, end, n_best=20, max_answer_length=30, **options)


def test_the_scores_of_questions_are_those_of_the_answers(finished_text):
    folder, found = finished_text("questions")
    test = open_questions(found["config"]["data"]).splits["test"]
    expected = score_answers(test, spans_of(folder, test, found["config"]))
    assert {name: found[f"test_{name}"] for name in expected} == pytest.approx(expected)
    assert expected["f1"] > 20


def test_the_threshold_of_no_answer_is_the_best_one_on_val(finished_text):
    folder, found = finished_text("unanswered", epochs=4)
    data, config = open_questions(found["config"]["data"]), found["config"]
    val, test = data.splits["val"], data.splits["test"]
    threshold = best_threshold(val, spans_of(folder, val, config, no_answer=True))
    assert abs(threshold) > 1e-3
    header = capaboost_vit.read_header(folder / "adapter.safetensors")
    assert header["text"]["no_answer_threshold"] == pytest.approx(threshold, abs=1e-4)
    by_threshold = {t: spans_of(folder, test, config, no_answer=True, threshold=t) for t in (threshold, 0.0)}
    expected = score_answers(test, by_threshold[threshold])
    assert {name: found[f"test_{name}"] for name in expected} == pytest.approx(expected)


# options


def test_a_run_is_bitwise_repeatable_whatever_the_random_state(run):
    options = {"epochs": 1, "dropout": 0.3, "method": {"name": "lora", "dropout": 0.2}}
    _, first, rows = run("pairs", "a", **options)
    torch.rand(5)
    _, second, others = run("pairs", "b", **options)
    assert same(first, second)
    assert rows == others
    _, third, _ = run("pairs", "c", seed=1, **options)
    masks = [name for name in first if name.endswith("mask")]
    assert not same(first, third)
    assert masks
    assert all(torch.equal(first[name], third[name]) for name in masks)


def test_the_seed_decides_about_order_masking_and_head(text_material):
    config = texts.configure(text_material, "masked", "nowhere", seed=3)
    train_data = build_job(config, ProcessGroup(), torch.device("cpu")).train
    assert (train_data.seed, train_data.examples.masking.seed) == (3, 3)
    heads = []
    for seed in (0, 0, 1):
        torch.rand(2)
        job = build_job(
            texts.configure(text_material, "pairs", "nowhere", seed=seed), ProcessGroup(), torch.device("cpu")
        )
        heads.append(job.model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("kind", ["opinions", "scores", "questions"])
@pytest.mark.parametrize(
    "options", [{"grad_accum_steps": 3}, {"grad_checkpointing": True}, {"validation_batch_size": 2}], ids=str
)
def test_what_saves_memory_hardly_changes_the_result(run, kind, options):
    plainly = {"opt": "sgd", "epochs": 2, "lr": 1e-2}
    expected, first, rows = run(kind, "plain", **plainly)
    found, second, others = run(kind, "saving", **plainly, **options)
    assert difference(first, second) < 1e-5
    for row, other in zip(rows, others, strict=True):
        values = [[float(value) for value in line.values()] for line in (row, other)]
        assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert {n: v for n, v in found.items() if n.startswith("test_")} == pytest.approx(
        {n: v for n, v in expected.items() if n.startswith("test_")}, rel=1e-3
    )


@pytest.mark.parametrize("kind", ["opinions", "scores", "unanswered", "masked", "choices"])
def test_mixed_precision_trains_too(text_material, tmp_path, finished_text, kind):
    config = texts.configure(text_material, kind, tmp_path / "run", amp=True, epochs=2)
    found = train(config)
    rows = rows_of(tmp_path / "run")
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    assert rows[0]["train_loss"] != rows_of(finished_text(kind)[0])[0]["train_loss"]
    assert found["config"]["amp"] is True


@pytest.mark.parametrize(
    "method",
    [
        {"name": "adapter", "placement": "sequential", "bottleneck": 4},
        {"name": "prefix", "prefix_length": 3, "bottleneck": 6, "shared": True},
        {"name": "prompt", "prompt_length": 3},
        {"name": "ia3"},
        {"name": "bitfit"},
        {"name": "head"},
        {"name": "full"},
        texts.UNIPELT,
    ],
    ids=lambda method: method["name"],
)
@pytest.mark.parametrize("model", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_every_method_trains_and_its_file_gives_the_scores_of_the_result(run, text_material, tmp_path, method, model):
    options = {"lr": 1e-3 if method["name"] == "full" else 1e-2}
    found, _, rows = run("scores", method=method, model=str(text_material / model), epochs=2, **options)
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    with open(text_material / "STS-B" / "test.tsv", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    outputs = answers_of(tmp_path / "run", [(row["sentence1"], row["sentence2"]) for row in table])
    answers, targets = torch.stack(outputs)[:, 0].numpy(), [float(row["score"]) for row in table]
    assert found["test_pearson"] == pytest.approx(100 * pearsonr(answers, targets).statistic, abs=1e-2)


def test_a_run_that_diverges_names_its_examples(text_material, tmp_path):
    config = texts.configure(text_material, "opinions", tmp_path / "run", opt="sgd", lr=1e30, warmup_steps=0)
    with pytest.raises(FloatingPointError, match="try a smaller --lr"):
        train(config)
    bad = json.loads((tmp_path / "run" / "bad_batch.json").read_text())
    assert len(bad["examples"]) == 8
    assert all(name.startswith("train.jsonl:") for name in bad["examples"])
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "method"), [("scores", texts.UNIPELT), ("unanswered", {"name": "adapter"}), ("choices", {"name": "lora"})]
)
def test_a_compiled_run_comes_near_the_eager_one(run, traced, kind, method):
    options = {"method": method, "opt": "sgd", "lr": 1e-2, "epochs": 2}
    eager, expected, _ = run(kind, "eager", **options)
    compiled, found, _ = run(kind, "compiled", compile=True, **options)
    assert difference(expected, found) < 1e-4
    names = [name for name in eager if name.startswith("test")]
    assert {name: compiled[name] for name in names} == pytest.approx({name: eager[name] for name in names}, rel=1e-3)


# masked tokens, and stages of continued pretraining


@pytest.mark.parametrize(
    "method", [{"name": name} for name in ("full", "lora", "ssf", "bitfit")], ids=lambda m: m["name"]
)
def test_masked_tokens_leave_a_model_that_transformers_loads(text_material, tmp_path, monkeypatch, method):
    kept, conclude = {}, result.fold
    monkeypatch.setattr(result, "fold", lambda model: kept.update(model=model) or conclude(model))
    train(texts.configure(text_material, "masked", tmp_path / "run", epochs=1, method=method))
    folder = tmp_path / "run" / "model"
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = AutoTokenizer.from_pretrained(folder)("the cat is [MASK] .", return_tensors="pt")
    with torch.no_grad():
        first, second = model.eval()(**tokens).logits, kept["model"].eval()(**tokens).logits
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    start = AutoModelForMaskedLM.from_pretrained(text_material / "bert").eval()(**tokens).logits
    assert (first - start).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["adapter", "prefix", "prompt", "unipelt", "head"])
def test_a_method_that_leaves_no_plain_model_is_not_for_masked_tokens(text_material, tmp_path, method):
    config = texts.configure(text_material, "masked", tmp_path / "run", method={"name": method})
    reason = (
        "method .head. trains nothing of this BertForMaskedLM"
        if method == "head"
        else f"--method.name {method} does not: an? .*"
    )
    with pytest.raises(ValueError, match=reason):
        train(config)
    assert not (tmp_path / "run").exists()


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def contents(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def pretrained(finished_text, text_material):
    """A run after DAPT and TAPT: its configuration and result."""
    stages = {"dapt_data": str(text_material / "documents.txt"), "dapt_epochs": 2, "tapt_epochs": 1}
    stages |= {"mlm_lr": 1e-2, "epochs": 2}
    folder, found = finished_text("pairs", **stages)
    return texts.configure(text_material, "pairs", folder, **stages), found


def test_stages_run_first_each_on_the_model_of_the_last(pretrained, text_material):
    config, found = pretrained
    folder = Path(config.output)
    first, second = (json.loads((folder / name / "result.json").read_text()) for name in ("dapt", "tapt"))
    assert (first["config"]["model"], first["config"]["data"]) == (config.model, config.dapt_data)
    assert (second["config"]["model"], second["config"]["data"]) == (str(folder / "dapt" / "model"), config.data)
    assert (first["epochs"], second["epochs"]) == (2, 1)
    assert [stage["method"][0]["method"] for stage in (first, second)] == ["full", "full"]
    assert second["config"]["texts_of"] == "rte"
    assert [stage["config"]["lr"] for stage in (first, second)] == [1e-2, 1e-2]
    # TAPT reads the training texts of the task's protocol, not those of its test
    assert second["data"]["splits"]["train"]["examples"] == found["data"]["splits"]["train"]["examples"] == 40
    start, after, last = (
        weights_of(Path(path)) for path in (config.model, folder / "dapt/model", folder / "tapt/model")
    )
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(start[name], after[name])
    assert not torch.equal(after[name], last[name])


def test_the_adapter_is_trained_on_the_model_of_the_last_stage(pretrained):
    config, found = pretrained
    folder = Path(config.output)
    assert base_model(config) == str(folder / "tapt" / "model")
    model = create_from_adapter(folder / "adapter.safetensors", model=base_model(config))
    stored = weights_of(folder / "tapt" / "model")
    query = model.bert.encoder.layer[0].attention.self.query
    assert torch.equal(query.base.weight, stored["bert.encoder.layer.0.attention.self.query.weight"])
    assert not query.base.weight.requires_grad
    assert branches(model)
    with pytest.raises(ValueError, match="other base weights"):
        create_from_adapter(folder / "adapter.safetensors", model=config.model)
    assert found["config"]["model"] == config.model


@pytest.mark.parametrize("where", ["there", "moved"])
def test_a_finished_run_with_stages_is_left_as_it_is(pretrained, tmp_path, where):
    config, found = pretrained
    folder = Path(config.output)
    if where == "moved":
        folder = shutil.copytree(folder, tmp_path / "moved away")
    before = contents(folder)
    again = train(TextConfig(**{**vars(config), "output": str(folder), "resume": True}))
    assert again == json.loads(json.dumps(found))
    assert contents(folder) == before


def test_a_run_that_lost_its_end_goes_on_behind_the_stages(pretrained, tmp_path):
    config, found = pretrained
    folder = shutil.copytree(config.output, tmp_path / "moved away")
    stages = {name: contents(folder / name) for name in ("dapt", "tapt")}
    expected = (folder / "adapter.safetensors").read_bytes()
    for path in ("result.json", "adapter.safetensors", f"checkpoints/update-{found['updates']:08d}.safetensors"):
        (folder / path).unlink()
    again = train(TextConfig(**{**vars(config), "output": str(folder), "resume": True}))
    assert {name: contents(folder / name) for name in ("dapt", "tapt")} == stages
    assert (folder / "adapter.safetensors").read_bytes() == expected
    assert again["test_accuracy"] == found["test_accuracy"]


def test_overwriting_a_run_begins_with_its_stages_again(pretrained, tmp_path):
    config, found = pretrained
    folder = shutil.copytree(config.output, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    assert len(before) == 2
    again = train(TextConfig(**{**vars(config), "output": str(folder), "overwrite": True}))
    assert all(path.stat().st_mtime_ns > time for path, time in before.items())
    assert again["test_accuracy"] == found["test_accuracy"]
    assert (folder / "adapter.safetensors").read_bytes() == Path(config.output, "adapter.safetensors").read_bytes()


def test_stages_hold_on_to_what_tells_the_tasks_data(text_material, tmp_path):
    data = tmp_path / "mine"
    data.mkdir()
    for name in ("train", "dev"):
        rows = (text_material / "RTE" / f"{name}.tsv").read_text()
        (data / f"{name}.tsv").write_text(rows.replace("label", "verdict", 1).replace("sentence2", "other", 1))
    options = {"data": str(data), "task": "classification", "protocol": "halves", "label_column": "verdict"}
    options |= {"text_columns": ("other",), "dapt_data": str(text_material / "documents.txt"), "tapt_epochs": 1}
    found = train(texts.configure(text_material, "pairs", tmp_path / "run", epochs=1, **options))
    assert found["data"]["protocol"] == "halves"
    second = json.loads((tmp_path / "run" / "tapt" / "result.json").read_text())
    assert second["data"]["protocol"] == "halves"
    assert json.loads((tmp_path / "run" / "dapt" / "result.json").read_text())["data"]["protocol"] == "own"


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("pairs", {"method": {}}, "say --method.name lora"),
        ("pairs", {"task": "tre"}, "there is no task 'tre'"),
        ("pairs", {"protocol": "thousand"}, "takes 1,000 examples"),
        ("questions", {"tapt_epochs": 1}, "--texts-of squad: its texts are not read for masked tokens"),
    ],
    ids=str,
)
def test_a_mistake_in_what_comes_after_the_stages_shows_before_them(text_material, tmp_path, kind, options, text):
    options = {"dapt_data": str(text_material / "documents.txt"), **options}
    with pytest.raises(ValueError, match=text):
        train(texts.configure(text_material, kind, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_random_weights_are_warned_of_but_not_behind_a_stage(text_material, tmp_path, capsys):
    options = {"pretrained": False, "epochs": 1}
    train(texts.configure(text_material, "pairs", tmp_path / "a", **options))
    assert "the base weights are random: leave out --pretrained false" in capsys.readouterr().err
    train(texts.configure(text_material, "pairs", tmp_path / "b", tapt_epochs=1, **options))
    assert "random" not in capsys.readouterr().err
    model = create_from_adapter(tmp_path / "b" / "adapter.safetensors", model=str(tmp_path / "b" / "tapt" / "model"))
    assert branches(model)


def test_metrics_of_ones_own_are_scikit_learns_and_a_drawn_val_is_said_to_be_one(run, text_material, tmp_path, capsys):
    folder = tmp_path / "no val"
    shutil.copytree(text_material / "opinions", folder)
    (folder / "dev.jsonl").unlink()
    found, _, table = run("opinions", data=str(folder), epochs=2, metrics=("balanced_accuracy", "matthews"))
    assert "val: 8 examples drawn of train, which has no val beside it" in capsys.readouterr().err
    assert list(table[0])[-2:] == ["val_balanced_accuracy", "val_matthews"]
    assert found["best_val_balanced_accuracy"] == max(float(row["val_balanced_accuracy"]) for row in table)
    scores = evaluate_text(tmp_path / "run")
    assert {name: scores[name] for name in ("balanced_accuracy", "matthews")} == {
        name: pytest.approx(found[f"test_{name}"]) for name in ("balanced_accuracy", "matthews")
    }
    assert f"matthews {scores['matthews']:.2f} %" in score_text(scores)


def test_a_rate_is_searched_for_texts_too_around_the_official_one(text_material, tmp_path, monkeypatch):
    monkeypatch.setattr("capaboost_vit.training.lr_search.save_figure", lambda *_: None)
    options = {"batch_size": 1, "max_steps": 128}
    found = train(texts.configure(text_material, "opinions", tmp_path / "auto", lr="auto", **options))
    assert [row["lr"] for row in found["lr_search"]["tried"]][:3] == [2.5e-4, 5e-4, 1e-3]
    number = texts.configure(text_material, "opinions", tmp_path / "number", lr=found["lr_search"]["lr"], **options)
    assert train(number)["test_accuracy"] == found["test_accuracy"]
    first, second = (tmp_path / name / "adapter.safetensors" for name in ("auto", "number"))
    assert first.read_bytes() == second.read_bytes()
