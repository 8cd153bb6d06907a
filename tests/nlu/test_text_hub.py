"""Saved sets, parquet and the hub: what `datasets` reads is what we read, and errors say more."""

from __future__ import annotations

import datasets
import pytest

from capaboost_vit.io.tables import cache_folder
from capaboost_vit.nlu.data import open_texts
from capaboost_vit.nlu.tasks import GLUE, TASKS


@pytest.fixture(autouse=True)
def _own_cache_and_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _quiet_while_data_is_made():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def table(labels, *, names=("entailment", "not_entailment"), columns=("sentence1", "sentence2")):
    kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("float32")
    features = {**{name: datasets.Value("string") for name in columns}, "label": kind, "idx": datasets.Value("int32")}
    rows = {name: [f"{name} {i}" for i in range(len(labels))] for name in columns}
    rows |= {"label": labels, "idx": list(range(len(labels)))}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def rte():
    tables = {"train": table([0, 1, 1, 0]), "validation": table([1, 0]), "test": table([-1, -1, -1])}
    return datasets.DatasetDict(tables)


@pytest.fixture
def hub(monkeypatch):
    """What the hub has, by name and configuration."""
    sets = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config=None, **_: sets[name, config])
    return sets


def check_rte(data):
    assert data.classes == ("entailment", "not_entailment")
    assert {name: split.labels for name, split in data.splits.items()} == {"train": (0, 1, 1, 0), "val": (1, 0)}
    assert data.splits["train"].texts[2] == ("sentence1 2", "sentence2 2")
    assert data.splits["train"].names == ("train:0", "train:1", "train:2", "train:3")
    assert data.unlabelled == ("test",)


def test_a_folder_that_datasets_saved(tmp_path):
    rte().save_to_disk(str(tmp_path / "saved"))
    check_rte(open_texts(str(tmp_path / "saved"), TASKS["rte"], protocol="own"))


def test_a_folder_with_parquet_files(tmp_path):
    (tmp_path / "rte").mkdir()
    for name, rows in rte().items():
        rows.to_parquet(tmp_path / "rte" / f"{name}-00000-of-00001.parquet")
    check_rte(open_texts(str(tmp_path / "rte"), TASKS["rte"], protocol="own"))
    check_rte(open_texts(str(tmp_path), TASKS["rte"], protocol="own"))  # the folder of all tasks


@pytest.mark.parametrize("form", ["{}.parquet", "{}-00000-of-00001.parquet", "{}/0.parquet"])
def test_parquet_files_are_splits_whatever_the_case_of_their_names(tmp_path, form):
    """`datasets` takes all of them for train, the test set too."""
    for name, rows in (("Train", rte()["train"]), ("Dev", rte()["validation"])):
        path = tmp_path / form.format(name)
        path.parent.mkdir(exist_ok=True)
        rows.to_parquet(path)
    data = open_texts(str(tmp_path), TASKS["rte"], protocol="own")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": len(rte()["train"]),
        "val": len(rte()["validation"]),
    }


@pytest.mark.parametrize("spec", ["hub", "nyu-mll/glue:rte"])
def test_the_tasks_own_set_of_the_hub(hub, spec):
    hub["nyu-mll/glue", "rte"] = rte()
    check_rte(open_texts(spec, TASKS["rte"], protocol="own"))


@pytest.mark.parametrize("name", [*GLUE, "wnli"])
def test_the_protocol_of_each_task_is_applied_to_the_hubs_splits(hub, name):
    task = TASKS[name]
    count = 1200
    labels = [i % max(1, len(task.classes)) for i in range(count)]
    kinds = ["_matched", "_mismatched"] if name == "mnli" else [""]
    tables = {"train": labels} | {f"validation{kind}": labels[:10] for kind in kinds}
    tables |= {f"test{kind}": [-1] * 3 for kind in kinds}
    hub[task.hub] = {key: table(value, names=task.classes, columns=task.columns) for key, value in tables.items()}
    data = open_texts("hub", task)
    large = task.protocol == "thousand"
    sizes = {"train": 200 if large else 1200, "val": 1000 if large else 5, "test": 10 if large else 5}
    assert {key: len(data.splits[key]) for key in sizes} == sizes
    assert ("test_mismatched" in data.splits) is (name == "mnli")
    assert data.classes == task.classes


def test_classes_that_the_data_names_keep_its_order(hub):
    hub["stanfordnlp/imdb", None] = {
        "train": table([1, 0], names=("pos", "neg"), columns=("text",)),
        "test": table([0], names=("pos", "neg"), columns=("text",)),
        "unsupervised": table([-1, -1], names=("pos", "neg"), columns=("text",)),
    }
    data = open_texts("hub", TASKS["imdb"], protocol="own")
    assert data.classes == ("pos", "neg")
    assert data.splits["train"].labels == (1, 0)
    assert data.unlabelled == ("unsupervised",)


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ({"train": table([0, -1])}, r"train of a/b, row 1 has no label in 'label'"),
        ({"train": table([0, 1], columns=("sentence1", "other"))}, r"train of a/b has no column 'sentence2'; it has"),
        (
            {"train": table([0, 1], names=("yes", "no"))},
            r"train of a/b, row 0 has the label 'yes' .* the classes are: ent",
        ),
        ({"test": table([0, 1])}, r"a/b has no train split; it has: test"),
        ({"train": table([0]), "dev": table([0]), "validation": table([0])}, r"a/b holds dev and validation, both val"),
    ],
)
def test_what_is_wrong_is_named_by_split_and_row(hub, tables, text):
    hub["a/b", None] = tables
    with pytest.raises(ValueError, match=text):
        open_texts("a/b", TASKS["rte"], protocol="own")


def test_a_local_path_wins_over_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\t0\n")
    assert len(open_texts("hub", TASKS["rte"], protocol="own").splits["train"]) == 1


def test_offline_the_message_tells_to_give_a_path():
    with pytest.raises(FileNotFoundError, match=r"no data at 'some/where'.*offline\?\): give a local folder or file"):
        open_texts("some/where", TASKS["rte"])


def test_a_damaged_folder_is_an_error_of_one_line(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="cannot read") as caught:
        open_texts(str(tmp_path), TASKS["rte"])
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_to_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    assert cache_folder() != str(tmp_path / "file" / "cache")
    rte()["train"].to_parquet(tmp_path / "train.parquet")
    assert len(open_texts(str(tmp_path), TASKS["rte"], protocol="own").splits["train"]) == 4
