"""Where the data of a task is found, which of several places wins, and what is said where there is none."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from planted import folders, lists, pack, parquet

from capaboost_vit.study.suites.opening import find_tasks, look_at, open_suite
from capaboost_vit.vision.data import open_data

VTAB = {"train800": 4, "val200": 2, "test": 3}


def one(root, name, suite="vtab1k"):
    (task,) = open_suite(suite, data=str(root), tasks=(name,)).tasks
    return task


def splits_of(task):
    options = {name: value for name, value in task.options.items() if name.endswith("_column")}
    data = open_data(task.data, **options)
    return {name: data.split(getattr(task, name)) for name in ("train", "val", "full", "test")}


# vtab


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("where", ["cifar", "cifar100"])
def test_lists_are_found_under_both_names_and_in_zips(tmp_path, where, zipped):
    path = lists(tmp_path / where, **VTAB)
    path = pack(path) if zipped else path
    task = one(tmp_path, "cifar100")
    assert (task.data, task.name, task.group, task.classes) == (str(path), "cifar100", "natural", 100)
    assert (task.train, task.val, task.full, task.test) == ("train800", "val200", "train800val200", "test")
    assert task.sizes == {"train": 800, "val": 200, "full": 1000, "test": 10_000}
    assert task.notes == ()
    assert {name: len(split) for name, split in splits_of(task).items()} == {"train": 4, "val": 2, "full": 6, "test": 3}


def test_lists_without_the_joined_one_are_joined(tmp_path):
    (lists(tmp_path / "dtd", **VTAB) / "train800val200.txt").unlink()
    assert one(tmp_path, "dtd").full == "train800+val200"
    assert len(splits_of(one(tmp_path, "dtd"))["full"]) == 6


@pytest.mark.parametrize("name", ["cifar100", "svhn", "clevr_dist", "kitti", "smallnorb_azi", "dtd", "eurosat"])
@pytest.mark.parametrize("packed", ["folder", "zip", "images.zip"])
def test_jpeg_copies_of_lossless_images_are_noted_and_only_they(tmp_path, name, packed):
    folder = {"cifar100": "cifar"}.get(name, name)
    path = lists(tmp_path / folder, kind="jpeg", **VTAB)
    if packed == "zip":
        pack(path)
    elif packed == "images.zip":
        shutil.make_archive(str(path / "images"), "zip", path, "images")
        shutil.rmtree(path / "images")
    notes = one(tmp_path, name).notes
    if name in ("dtd", "eurosat"):  # the originals are JPEG
        assert notes == ()
    else:
        assert notes[0] == "JPEG copies of images that are lossless in the original"
        assert len(notes) == 1 + (name == "cifar100")


def test_an_ending_says_nothing_about_what_a_picture_is(tmp_path):
    path = lists(tmp_path / "svhn", **VTAB)
    (path / "train800.txt").write_text("images/a.jpg 0\n")
    shutil.copy(path / "images" / "test_0.png", path / "images" / "a.jpg")
    assert one(tmp_path, "svhn").notes == ()


def test_caltech101_may_have_6084_or_6085_test_images(tmp_path):
    lists(tmp_path / "caltech101", kind="jpeg", **VTAB)
    assert one(tmp_path, "caltech101").sizes["test"] == (6084, 6085)


def test_sets_of_the_hub_that_were_downloaded_are_known_by_their_splits(tmp_path):
    parquet(tmp_path / "vtab_cifar100", **VTAB)
    task = one(tmp_path, "cifar100")
    assert (task.train, task.val, task.full, task.test) == ("train800", "val200", "train800+val200", "test")
    assert task.notes == ()
    assert {name: len(split) for name, split in splits_of(task).items()} == {"train": 4, "val": 2, "full": 6, "test": 3}


@pytest.mark.parametrize(
    ("task", "folder", "column", "tests"),
    [
        ("clevr_count", "clevr", "label_count", {"validation": 5}),  # as in TFDS
        ("clevr_dist", "clevr", "label_distance", {"test": 3}),  # as on the hub
        ("dtd", "dtd", "label", {"validation": 200, "test": 3}),
    ],
)
def test_sets_in_tfdss_order_are_sliced_and_noted(tmp_path, task, folder, column, tests):
    columns = (column,) if column == "label" else ("label_count", "label_distance")
    parquet(tmp_path / folder, columns=columns, train=2010, **tests)
    found = one(tmp_path, task)
    assert found.notes[0] == "not VTAB-exact: the order of the images is not verified"
    assert len(found.notes) == 1 + (task == "clevr_dist")
    splits = splits_of(found)
    expected = list(tests.values())[-1]
    assert [len(splits[name]) for name in ("train", "val", "full", "test")] == [800, 200, 1000, expected]
    assert splits["train"].labels[:2] == ((1, 0) if task == "clevr_dist" else (0, 1))


def test_lists_win_over_exact_sets_and_those_over_others(tmp_path):
    shutil.copytree(parquet(tmp_path / "cifar100", train=5, test=3), tmp_path / "late" / "cifar100")
    assert one(tmp_path, "cifar100").notes
    parquet(tmp_path / "vtab_cifar100", **VTAB)
    assert one(tmp_path, "cifar100").data == str(tmp_path / "vtab_cifar100")
    pack(lists(tmp_path / "cifar", **VTAB))
    assert one(tmp_path, "cifar100").data == str(tmp_path / "cifar.zip")
    lists(tmp_path / "cifar", **VTAB)
    assert one(tmp_path, "cifar100").data == str(tmp_path / "cifar")
    (tmp_path / "cifar" / "test.txt").unlink()
    assert one(tmp_path, "cifar100").data == str(tmp_path / "cifar.zip")  # what is of no use is no obstacle


def test_what_is_missing_is_told_with_every_place_and_what_to_do(tmp_path):
    lists(tmp_path / "cifar", train800=1)
    (tmp_path / "cifar.zip").write_bytes(b"no zip")
    (tmp_path / "cifar100").mkdir()
    lists(tmp_path / "dtd", **VTAB)
    found = find_tasks("vtab1k", data=str(tmp_path), tasks=("cifar100", "dtd"))
    assert [task.name for task in found.tasks] == ["dtd"]
    assert list(found.missing) == ["cifar100"]
    reason = found.missing["cifar100"]
    assert reason.startswith(
        f"looked in {tmp_path} for cifar: other splits than this task needs; cifar.zip: cannot read"
    )
    assert "; vtab_cifar100: not there; cifar100: no lists, no parquet files and no train folder in it" in reason
    assert reason.endswith(
        ": bash scripts/get_vtab1k.sh fetches it from the hub; or put it below the folder of --data, as cifar with "
        "VTAB-1k's lists"
    )
    with pytest.raises(FileNotFoundError, match=f"^no data for cifar100: {re.escape(reason)}$"):
        open_suite("vtab1k", data=str(tmp_path), tasks=("cifar100", "dtd"))
    with pytest.raises(FileNotFoundError, match=r"^no data for cifar100 \(nor for caltech101, oxford_flowers102, "):
        open_suite("vtab1k", data=str(tmp_path))


def test_retinopathy_has_to_be_asked_for(tmp_path):
    for data, start in ((str(tmp_path), "looked in "), ("hub", "the hub has no set of it: ")):
        found = find_tasks("vtab1k", data=data, tasks=("diabetic_retinopathy",))
        assert found.tasks == ()
        assert found.missing["diabetic_retinopathy"].startswith(start)
        assert "ask Kaggle for Diabetic Retinopathy Detection by hand" in found.missing["diabetic_retinopathy"]
    assert len(find_tasks("vtab1k", data="hub").tasks) == 18


@pytest.mark.parametrize(
    ("spec", "data", "tasks", "error", "text"),
    [
        (
            "vtab1k",
            None,
            ("*",),
            ValueError,
            "the suite vtab1k needs data: say --data FOLDER with a folder or .zip per",
        ),
        ("vtab1k", "nowhere", ("*",), FileNotFoundError, "no folder nowhere: say --data FOLDER"),
        ("vtab1k", ".", ("mnist",), ValueError, "--tasks: nothing is called 'mnist'; there are cifar100"),
        (
            "vtab",
            ".",
            ("*",),
            ValueError,
            "no suite 'vtab': say vtab1k, fgvc, synthetic_vtab1k, or a YAML file",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, spec, data, tasks, error, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=re.escape(text)):
        open_suite(spec, data=data, tasks=tasks)


# fgvc


@pytest.mark.parametrize("zipped", [False, True])
def test_a_fine_grained_set_without_val_gives_a_tenth_of_train(tmp_path, zipped):
    path = folders(tmp_path / "cub", train=10, test=2)
    path = pack(path) if zipped else path
    task = one(tmp_path, "cub", "fgvc")
    assert task.data == str(path)
    splits = splits_of(task)
    assert {name: len(split) for name, split in splits.items()} == {"train": 18, "val": 2, "full": 20, "test": 4}
    assert not set(splits["train"].names) & set(splits["val"].names)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_fine_grained_set_with_val_is_chosen_by_it(tmp_path, name):
    folders(tmp_path / "dogs", train=3, test=2, **{name: 1})
    task = one(tmp_path, "dogs", "fgvc")
    assert {name: len(split) for name, split in splits_of(task).items()} == {"train": 6, "val": 2, "full": 8, "test": 4}
    assert task.notes == ()
    assert task.sizes == {"full": 12_000, "test": 8_580}


def test_downloads_of_fine_grained_sets_are_what_the_hub_has(tmp_path):
    parquet(tmp_path / "stanford-dogs", train=10, test=2)
    parquet(tmp_path / "oxford_flowers102", train=10, validation=4, test=2)
    dogs, flowers = one(tmp_path, "dogs", "fgvc"), one(tmp_path, "flowers", "fgvc")
    shutil.copytree(tmp_path / "stanford-dogs", tmp_path / "official" / "dogs")
    assert one(tmp_path / "official", "dogs", "fgvc").notes == ()
    assert "do not compare with papers" in dogs.notes[0]
    assert [len(split) for split in splits_of(dogs).values()] == [9, 1, 10, 2]
    assert [len(split) for split in splits_of(flowers).values()] == [10, 4, 14, 2]


def test_class_folders_alone_are_no_fine_grained_set(tmp_path):
    folders(tmp_path, cars=10)
    with pytest.raises(
        FileNotFoundError, match=r"no data for cars: .*cars: no lists, no parquet files and no train folder"
    ):
        open_suite("fgvc", data=str(tmp_path), tasks=("cars",))
    folders(tmp_path / "nabirds", train=10)
    with pytest.raises(
        FileNotFoundError, match=r"nabirds: other splits than this task needs; nabirds\.zip: not there: put"
    ):
        open_suite("fgvc", data=str(tmp_path), tasks=("nabirds",))


# places


def test_the_splits_of_saved_sets_are_known(tmp_path):
    import datasets

    table = datasets.load_dataset("parquet", data_files={"train": str(parquet(tmp_path / "a", train=2) / "data" / "*")})
    datasets.DatasetDict({"train800": table["train"], "test": table["train"]}).save_to_disk(tmp_path / "saved")
    place = look_at(tmp_path / "saved")
    assert (place.table, place.splits) == (True, {"train800", "test"})


def test_the_splits_of_a_converted_set_are_its_folders(tmp_path):
    for name in ("train", "validation"):
        source = parquet(tmp_path / name, **{name: 1}) / "data" / f"{name}-00000-of-00001.parquet"
        (tmp_path / "set" / "default" / name).mkdir(parents=True)
        shutil.copy(source, tmp_path / "set" / "default" / name / "0000.parquet")
    assert look_at(tmp_path / "set").splits >= {"train"}
    assert look_at(tmp_path / "set" / "default").splits == {"train", "validation"}
    (tmp_path / "set" / "x.json").write_text(json.dumps({}))
