"""What is wrong with the data of a suite is found, and what is known of it is said."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import pytest
from planted import folders, lists, parquet

from capaboost_vit.cli import main
from capaboost_vit.study.suites import vtab1k
from capaboost_vit.study.suites.checking import check_suite
from capaboost_vit.study.suites.opening import open_suite
from capaboost_vit.study.suites.task import Suite, SuiteTask
from capaboost_vit.vision.data import open_data, sprites


def suite_of(*tasks, name="mine"):
    return Suite(name, tasks)


@pytest.fixture
def clean(tmp_path):
    folder = folders(tmp_path / "birds", train=6, val=2, test=3)
    return SuiteTask("birds", str(folder), classes=2, sizes={"train": 12, "val": 4, "full": 16, "test": (5, 6)})


def test_clean_data_has_no_problems_and_one_line(clean):
    told = []
    report = check_suite(suite_of(clean), progress=lambda *values: told.append(values))
    assert report.problems == []
    assert told == [("birds", i, 22) for i in range(1, 23)]  # full is train and val, and not read again
    first, last = report.text().splitlines()
    data = open_data(clean.data)
    hashes = (f"{name} {data.split(name).record()['sha256'][:16]}" for name in ("train", "val", "test"))
    assert first == f"birds; 2 classes; train 12, val 4, full 16, test 6; disjoint; sha256 of {', '.join(hashes)}"
    assert last == "mine: 1 task looked at, no problems"


def test_generated_images_are_drawn_once(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        sprites, "scene", lambda task, name, scene=sprites.scene: drawn.append(name) or scene(task, name)
    )
    task = SuiteTask(
        "count", "sprites:count:16", classes=8, train="train[:16]", val="val[:8]", full="train[:16]+val[:8]",
        test="test[:24]", sizes={"train": 16, "val": 8, "full": 24, "test": 24},
    )  # fmt: skip
    report = check_suite(suite_of(task))
    assert report.problems == []
    assert len(drawn) == len({*drawn}) == 48
    data = open_data(task.data)
    for name in ("train", "val", "test"):
        assert f"{name} {data.split(getattr(task, name)).record()['sha256'][:16]}" in report.text()


def copy(source, target):
    return lambda root: shutil.copy(root / source, root / target)


@pytest.mark.parametrize(
    ("damage", "change", "problems"),
    [
        (
            copy("train/class 0/1.png", "test/class 1/9.png"),
            {"sizes": {}},
            ["train and test share 1 image, such as .*"],
        ),
        (copy("train/class 0/1.png", "val/class 1/9.png"), {"sizes": {}}, ["train and val share 1 image, such as .*"]),
        (copy("val/class 0/1.png", "test/class 1/9.png"), {"sizes": {}}, ["val and test share 1 image, such as .*"]),
        (
            None,
            {"val": "train[:3]", "full": "train"},
            ["val has 3 images, expected 4", "full has 12 .*", "train and val.*"],
        ),
        (
            None,
            {"val": "train", "full": "train"},
            ["val has 12 .*", "full has 12 .*", "train and val share 12 images.*"],
        ),
        (
            None,
            {"full": "train+val+test[:2]"},
            ["full has 18 images, expected 16", "full and test share 2 images, such as .*"],
        ),
        (None, {"classes": 3}, ["2 classes, expected 3"]),
        (None, {"sizes": {"test": (7, 1_008)}}, ["test has 6 images, expected 7 or 1,008"]),
        (None, {"test": "tset"}, [".*birds has no split 'tset'; it has: train, val, test"]),
        (None, {"test": "test[:900]"}, [r".*test\[:900\] goes beyond the last image: 900 of 6 images"]),
        (None, {"data": "nowhere"}, ["no data at 'nowhere': .*"]),
        (
            lambda root: (root / "test" / "class 0" / "1.png").write_bytes(b""),
            {},
            [r"test: cannot read the image .*1\.png: the file is empty"],
        ),
        (
            lambda root: [path.write_bytes(b"") for path in (root / "train" / "class 0").iterdir()],
            {},
            ["train: cannot read.*"] * 3 + ["and 3 more like this"],
        ),
    ],
)
def test_a_problem_is_named(clean, tmp_path, damage, change, problems):
    if damage:
        damage(tmp_path / "birds")
    report = check_suite(suite_of(dataclasses.replace(clean, **change)))
    assert len(report.problems) == len(problems), report.problems
    for line, expected in zip(report.problems, problems, strict=True):
        assert re.fullmatch(f"birds: {expected}", line), line
    assert f"mine: 1 task looked at, {len(problems)} problem" in report.text()


def test_what_official_sets_have_too_is_no_problem(clean, tmp_path):
    copy("train/class 0/1.png", "train/class 1/9.png")(tmp_path / "birds")
    report = check_suite(suite_of(dataclasses.replace(clean, sizes={}, notes=("of birds only",))))
    assert report.problems == []
    (found,) = report.tasks
    assert found.remarks[0] == "of birds only"
    assert found.remarks[1].startswith("one image under several labels: ")
    assert found.remarks[2].startswith("train holds 1 image more than once")


def test_a_task_without_val_and_tables_can_be_checked(tmp_path):
    parquet(tmp_path / "rows", columns=("label_count", "label_distance"), train=6, validation=2, test=3)
    task = SuiteTask("a", str(tmp_path / "rows"), val=None, full="train", options={"label_column": "label_distance"})
    report = check_suite(
        suite_of(task, SuiteTask("b", task.data, val="validation", full="train+val", options=task.options))
    )
    assert report.problems == []
    assert [found.summary.split("; ")[2] for found in report.tasks] == [
        "train 6, full 6, test 3",
        "train 6, val 2, full 8, test 3",
    ]
    assert check_suite(suite_of(dataclasses.replace(task, options={}))).problems[0].startswith("a: ")


def test_a_missing_task_is_a_problem(clean):
    report = check_suite(Suite("mine", (clean,), missing={"dtd": "looked everywhere"}))
    assert report.problems == ["dtd: looked everywhere"]
    assert "dtd; no data\n  problem: looked everywhere\n" in report.text()


# what is known of vtab


def test_other_class_counts_than_vtabs_are_a_problem_unless_it_was_noted(tmp_path):
    path = lists(tmp_path / "dtd", train800=4, val200=2, test=3)
    task = SuiteTask("dtd", str(path), train="train800", val="val200", full="train800val200")
    text = "not VTAB-1k's images: train or val has other numbers of images per class"
    report = check_suite(suite_of(task, name="vtab1k"))
    assert report.problems == [f"dtd: {text}"]
    noted = check_suite(suite_of(dataclasses.replace(task, notes=("not VTAB-exact",)), name="vtab1k"))
    assert noted.problems == []
    assert noted.tasks[0].remarks == ("not VTAB-exact", text)
    assert check_suite(suite_of(task)).problems == []  # another suite may call a task dtd


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kitti", "its images have other names than VTAB-1k's, and nothing else is"),
        ("svhn", "nothing is known to compare"),
    ],
)
def test_where_nothing_is_known_that_is_said(tmp_path, name, text):
    path = lists(tmp_path / name, train800=4, val200=2, test=3)
    task = SuiteTask(name, str(path), train="train800", val="val200", full="train800val200")
    report = check_suite(suite_of(task, name="vtab1k"))
    assert report.problems == []
    assert report.tasks[0].remarks[0].startswith(text)


def test_hashes_know_neither_order_nor_folders_nor_what_classes_are_called():
    assert vtab1k.hash_names(["a/x.jpg", "y.png"]) == vtab1k.hash_names(["y", "b/c/x.jpeg"])
    assert vtab1k.hash_names(["a.jpg"]) != vtab1k.hash_names(["b.jpg"])
    assert vtab1k.hash_counts([0, 0, 1]) == vtab1k.hash_counts("aba")
    assert vtab1k.hash_counts([0, 0, 1]) != vtab1k.hash_counts([0, 1, 2])


CLASS = {
    "eurosat": lambda name: name.rpartition("_")[0],
    "resisc45": lambda name: name.rpartition("_")[0],
    "oxford_iiit_pet": lambda name: name.rpartition("_")[0],
    "dtd": lambda name: name.rpartition("/")[0],
    "sun397": lambda name: name.rpartition("/")[0],
}
LISTED = {
    "cifar(num_classes=100)": "cifar100",
    'clevr(task="closest_object_distance")': "clevr_dist",
    'clevr(task="count_all")': "clevr_count",
    'kitti(task="closest_vehicle_distance")': "kitti",
    'diabetic_retinopathy(config="btgraham-300")': "diabetic_retinopathy",
}


@pytest.mark.realdata
def test_the_known_hashes_are_those_of_the_lists(real_data):
    found = json.loads((real_data / "vtab1k_id_lists" / "vtab_trainval_splits.json").read_text())
    names = {LISTED.get(name, name): ids for name, ids in found.items()}
    hashes = {
        row.name: {"train": row.train_hashes, "val": row.val_hashes}
        for row in vtab1k.TASKS.values()
        if row.train_hashes
    }
    assert names.keys() - hashes.keys() == {"caltech101"}
    assert hashes.keys() <= names.keys()
    for name, splits in hashes.items():
        for part, one in splits.items():
            assert one["names"] == vtab1k.hash_names(names[name][part])
            if name in CLASS:
                assert one["counts"] == vtab1k.hash_counts(map(CLASS[name], names[name][part]))
            else:
                assert ("counts" in one) == (name == "cifar100")


@pytest.mark.realdata
def test_the_real_eurosat_is_vtabs_own_and_nothing_is_wrong_with_it(real_data, tmp_path):
    (tmp_path / "eurosat").symlink_to(real_data / "eurosat_vtab1k")
    report = check_suite(open_suite("vtab1k", data=str(tmp_path), tasks=("eurosat",)))
    (found,) = report.tasks
    assert report.problems == []
    assert found.remarks == ("train and val are VTAB-1k's own images, by their names",)
    assert "; train 800, val 200, full 1,000, test 5,400; " in found.summary
    assert "sha256 of train 1a64bcc71bdc887f, " in found.summary  # as in test_data_vtab


@pytest.mark.realdata
def test_the_real_cifar_has_vtabs_class_counts_and_no_jpeg(real_data, tmp_path):
    (tmp_path / "cifar").symlink_to(real_data / "cifar100_1k")
    (task,) = open_suite("vtab1k", data=str(tmp_path), tasks=("cifar100",)).tasks
    assert task.notes == ()
    data = open_data(task.data)
    assert vtab1k.compare("cifar100", data.split(task.train), data.split(task.val)) == (
        True,
        "train and val have as many images of each class as in VTAB-1k",
    )
    moved = data.split("train800[9:]+val200[191:]")
    assert vtab1k.compare("cifar100", moved, data.split(task.val))[0] is False


# the command


def test_the_command_prints_the_report_and_ends_with_1_on_problems(clean, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(f"tasks: {{birds: {{data: {clean.data}}}, more: {{data: {clean.data}, classes: 5}}}}")
    assert main(["study", "check", "--suite", str(path), "--tasks", "birds"]) == 0
    assert capsys.readouterr().out.endswith("mine: 1 task looked at, no problems\n")
    assert main(["study", "check", "--suite", str(path)]) == 1
    said = capsys.readouterr()
    assert "  problem: 2 classes, expected 5\n" in said.out
    assert said.err == ""
    assert main(["study", "check", "--data", str(tmp_path), "--tasks", "dtd"]) == 1
    assert "dtd; no data" in capsys.readouterr().out
