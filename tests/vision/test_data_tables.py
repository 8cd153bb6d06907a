"""Parquet files, metadata files, saved sets and the hub: what `datasets` reads is what we read, and errors say more."""

from __future__ import annotations

import gc
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capaboost_vit.io import tables as hub
from capaboost_vit.vision.data import open_data
from capaboost_vit.vision.data.table_labels import number_labels

NAN = float("nan")


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


def png(number):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def table(labels, kind=None, **columns):
    """A data set with an image per label."""
    features = {"image": datasets.Image(), "label": kind or datasets.ClassLabel(names=["cat", "dog", "bird"])}
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(len(labels))], "label": labels}
    features |= {name: value[1] for name, value in columns.items()}
    rows |= {name: value[0] for name, value in columns.items()}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def as_files(folder, tables):
    for name, one in tables.items():
        one.to_parquet(folder / f"{name}-00000-of-00001.parquet")


def as_files_of_a_clone(folder, tables):
    (folder / "data").mkdir()
    as_files(folder / "data", tables)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA data set\n")


def as_the_hub_converts(folder, tables):
    for name, one in tables.items():
        (folder / "default" / name).mkdir(parents=True)
        one.to_parquet(folder / "default" / name / "0000.parquet")
    (folder / "metadata.json").write_text("{}")  # not one that labels images


def saved_together(folder, tables):
    datasets.DatasetDict(tables).save_to_disk(folder)


@pytest.mark.parametrize("write", [as_files, as_files_of_a_clone, as_the_hub_converts, saved_together])
@pytest.mark.parametrize("names", [("train", "validation", "test"), ("train", "test"), ("train",)])
def test_a_folder_is_what_datasets_reads_in_it(tmp_path, write, names):
    tables = {name: table([0, 2, 1, 1][: 4 - i]) for i, name in enumerate(names)}
    folder = tmp_path / "my data"
    folder.mkdir()
    write(folder, tables)
    data = open_data(str(folder))
    assert data.classes == ("cat", "dog", "bird")
    assert set(data.splits) == set(names)  # none is invented
    for name, oracle in tables.items():
        split = data.splits[name]
        assert split.labels == tuple(oracle["label"])
        assert len(split) == len(oracle)
        for i, row in enumerate(oracle):
            assert split.image(i).tobytes() == row["image"].convert("RGB").tobytes()
            assert split.content(i) == png(i)
    assert data.has("val") == ("validation" in names)
    if "validation" in names:
        assert data.split("val") == data.split("valid" if "valid" in data.splits else "validation")


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train.parquet", "train"),
        ("flowers.parquet", "train"),
        ("test-00000-of-00001.parquet", "test"),
        ("my_validation.parquet", "validation"),
        ("latest.parquet", "train"),
        ("TEST.parquet", "test"),
    ],
)
def test_a_single_parquet_file_is_the_split_that_its_name_says(tmp_path, file, split):
    table([0, 1]).to_parquet(tmp_path / file)
    assert list(open_data(str(tmp_path / file)).splits) == [split]


def test_a_single_saved_set_is_the_split_that_it_was_saved_as(tmp_path):
    table([0, 1]).save_to_disk(tmp_path / "plain")
    assert list(open_data(str(tmp_path / "plain")).splits) == ["train"]


# pandas leaves the file open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_files_label_the_images_beside_them(tmp_path, kind):
    for part, labels in {"train": ["rose", "aster", "rose"], "test": ["aster"]}.items():
        (tmp_path / part).mkdir()
        for i in range(len(labels)):
            (tmp_path / part / f"{i}.png").write_bytes(png(i))
        rows = {f"{i}.png": label for i, label in enumerate(labels)}
        text = "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in rows.items())
        if kind == "jsonl":
            text = "".join(f'{{"file_name": "{name}", "label": "{label}"}}\n' for name, label in rows.items())
        (tmp_path / part / f"metadata.{kind}").write_text(text)
    data = open_data(str(tmp_path))
    assert data.classes == ("aster", "rose")
    assert data.split("train").labels == (1, 0, 1)
    assert data.split("test").labels == (0,)
    assert data.split("train").content(2) == png(2)
    (tmp_path / "train" / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"row 2 of train in .*2\.png\): the file is empty"):
        data.split("train").image(2)
    gc.collect()  # or the warning comes in another test


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("written", "classes"),
    [
        (["007", "042", "7"], ("007", "042", "7")),
        (["NA", "nan", "None"], ("NA", "None", "nan")),
        (["5", "NA", "null"], ("5", "NA", "null")),
        (["48978", "5", "1203"], ("5", "1203", "48978")),
    ],
)
def test_labels_of_a_metadata_file_are_those_that_stand_there(tmp_path, written, classes):
    (folder := tmp_path / "set").mkdir()
    rows = "".join(f"{i}.png,{label}\n" for i, label in enumerate(written))
    (folder / "metadata.csv").write_text("file_name,label\n" + rows)
    for i in range(len(written)):
        (folder / f"{i}.png").write_bytes(png(i))
    (tmp_path / "link").symlink_to(folder)
    data = open_data(str(tmp_path / "link"))
    assert data.classes == classes
    labels = {data.split("train").content(i): data.classes[data.split("train").labels[i]] for i in range(len(written))}
    assert labels == {png(i): label for i, label in enumerate(written)}
    gc.collect()  # or the warning comes in another test


def test_rows_survive_pickling(tmp_path):
    table([0, 1]).to_parquet(tmp_path / "a.parquet")
    split = open_data(str(tmp_path / "a.parquet")).split("train")
    again = pickle.loads(pickle.dumps(split))
    assert again.record() == split.record()
    assert again.image(1).tobytes() == split.image(1).tobytes()


def test_the_record_of_a_table_does_not_depend_on_its_place(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        table([0, 1]).to_parquet(tmp_path / name / "a.parquet")
    first, second = (open_data(str(tmp_path / name / "a.parquet")).split("train") for name in ("here", "there"))
    assert first.record() == second.record()


def test_a_broken_image_and_a_missing_one_are_named_by_row(tmp_path):
    cells = [{"bytes": png(0), "path": None}, {"bytes": b"rubbish", "path": "x/1.jpg"}, None]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"image": cells, "label": [0, 0, 1]}, features=features)
    rows.save_to_disk(tmp_path / "saved")
    split = open_data(str(tmp_path / "saved")).split("train")
    assert split.image(0).size == (4, 5)
    with pytest.raises(ValueError, match=r"cannot read the image row 1 of train in .*saved.*: this is no image"):
        split.image(1)
    with pytest.raises(ValueError, match=r"cannot read the image row 2 of train in .*: there is no image in this row"):
        split.image(2)


# columns


def test_bytes_without_the_type_of_an_image_are_found_by_name(tmp_path):
    plain = pa.table({"img": [png(0), png(1)], "other": [b"x", b"y"], "class": ["b", "a"]})
    pq.write_table(plain, tmp_path / "plain.parquet")
    struct = pa.table({"image": [{"bytes": png(0), "path": "0.png"}, {"bytes": png(1), "path": None}], "label": [1, 0]})
    pq.write_table(struct, tmp_path / "struct.parquet")
    for name, classes in (("plain", ("a", "b")), ("struct", ("0", "1"))):
        data = open_data(str(tmp_path / f"{name}.parquet"))
        assert data.classes == classes
        assert data.split("train").labels == (1, 0)
        assert [data.split("train").content(i) for i in range(2)] == [png(0), png(1)]


TEXT = datasets.Value("string")
TWO = {"fine": ([1, 1], datasets.ClassLabel(names=["x", "y"]))}
MORE = {"second": ([{"bytes": png(7), "path": None}] * 2, datasets.Image())}


@pytest.mark.parametrize(
    ("columns", "asked", "error"),
    [
        ({}, {}, None),
        ({}, {"image_column": "image", "label_column": "label"}, None),
        ({"label_text": (["a", "b"], TEXT)}, {}, None),
        (TWO, {"label_column": "fine"}, None),
        (MORE, {"image_column": "image"}, None),
        (TWO, {}, r"has several columns of labels: choose with --label-column label or fine"),
        (MORE, {}, r"has several columns of images: choose with --image-column image or second"),
        (
            {},
            {"image_column": "img"},
            r"a\.parquet has no column 'img'.*; it has: image, label. Choose another one with --image-column",
        ),
        ({}, {"label_column": "lable"}, r"has no column 'lable' \(did you mean 'label'\?\); it has: image, label"),
        ({}, {"image_column": "label"}, r"the column 'label' holds no images"),
        ({}, {"label_column": "image"}, r"the column 'image' holds .*, not one label for each image"),
    ],
)
def test_columns_are_found_by_type_or_named_by_flags(tmp_path, columns, asked, error):
    table([0, 1], **columns).to_parquet(tmp_path / "a.parquet")
    if error is None:
        assert len(open_data(str(tmp_path / "a.parquet"), **asked).split("train")) == 2
        return
    with pytest.raises(ValueError, match=error):
        open_data(str(tmp_path / "a.parquet"), **asked)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (
            {"text": ["a"], "label": [0]},
            r"has no column of images that is known: choose with --image-column text or label",
        ),
        ({"image": [png(0)], "name": ["a"]}, r"has no column of labels that is known: .* --label-column image or name"),
    ],
)
def test_a_table_without_what_is_needed_says_which_columns_it_has(tmp_path, rows, error):
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=error):
        open_data(str(tmp_path / "a.parquet"))


def test_a_split_without_rows_is_named(monkeypatch):
    loaded = datasets.DatasetDict(train=table([0, 1]), test=table([]))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: loaded)
    with pytest.raises(ValueError, match=r"a/b: test has no rows"):
        open_data("a/b")


def test_a_parquet_file_without_rows_is_named(tmp_path):
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: a parquet file without rows"):
        open_data(str(tmp_path / "a.parquet"))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no, not really")
    with pytest.raises(ValueError, match=r"cannot read .*a\.parquet: "):
        open_data(str(tmp_path / "a.parquet"))


# labels


@pytest.mark.parametrize(
    ("values", "names", "classes", "labels"),
    [
        ({"train": [2, 0], "test": [3]}, None, ("0", "2", "3"), {"train": (1, 0), "test": (2,)}),
        ({"train": [48978, 5, 1203]}, None, ("5", "1203", "48978"), {"train": (2, 0, 1)}),
        ({"train": [1.0, 0.0]}, None, ("0", "1"), {"train": (1, 0)}),
        ({"train": [1, 0]}, ["x", "y", "z"], ("x", "y", "z"), {"train": (1, 0)}),
        ({"test": ["b"], "train": ["b", "a", "b"]}, None, ("a", "b"), {"test": (1,), "train": (1, 0, 1)}),
        ({"train": [True, False]}, None, ("False", "True"), {"train": (1, 0)}),
        ({"test": ["b", "a"]}, None, ("a", "b"), {"test": (1, 0)}),
        ({"train": ["10", "9"]}, None, ("10", "9"), {"train": (0, 1)}),
    ],
)
def test_labels_are_numbers_from_0(values, names, classes, labels):
    assert number_labels("data", "label", values, names) == (classes, labels, ())


@pytest.mark.parametrize(
    ("values", "names", "error"),
    [
        ({"train": [0, None]}, None, r"data: row 1 of train has no label in 'label' \(None\)"),
        ({"train": [0, NAN]}, None, r"row 1 of train has no label in 'label' \(nan"),
        ({"train": [0], "test": [0, -1, 1]}, None, r"row 1 of test has no label in 'label' \(-1"),
        ({"train": ["a", " "]}, None, r"row 1 of train has no label in 'label' \(' '"),
        ({"train": ["a", ""]}, None, r"row 1 of train has no label in 'label' \(''"),
        ({"train": ["a", 3]}, None, r"row 1 of train has the label 3, others are text"),
        (
            {"train": ["a"], "test": ["a", "b"]},
            None,
            r"row 1 of test has the label 'b' in 'label'; the classes are: a$",
        ),
        ({"train": [0, 3]}, ["x", "y", "z"], r"row 1 of train has the label 3 in 'label'; expected 0 to 2"),
        ({"train": [0, -2]}, None, r"row 1 of train has the label -2"),
        ({"train": [0.5]}, None, r"row 0 of train has the label 0\.5"),
        ({"train": [float("inf")]}, None, r"row 0 of train has the label inf"),
        ({"train": ["caf\u00e9", "cafe\u0301"]}, None, "data has two classes that look the same"),
        ({"train": [[1]]}, None, r"row 0 of train has the label \[1\]"),
        ({"train": [None, None]}, None, r"data: the column 'label' holds no label"),
        ({"train": [-1], "test": [-1]}, ["x"], r"the column 'label' holds no label"),
    ],
)
def test_noise_in_labels_is_named_by_row(values, names, error):
    with pytest.raises(ValueError, match=error):
        number_labels("data", "label", values, names)


def test_a_split_without_labels_is_there_but_cannot_be_used(tmp_path):
    as_files(tmp_path, {"train": table([0, 1]), "test": table([-1, -1, -1])})
    data = open_data(str(tmp_path))
    assert (list(data.splits), data.unlabelled, data.has("test")) == (["train"], ("test",), False)
    with pytest.raises(ValueError, match="the split 'test' has no labels"):
        data.split("test")


# the hub


@pytest.mark.parametrize("spec", ["owner/name", "owner/name:config", "gone/images", "o-w.n/n_a.me"])
def test_without_the_hub_a_name_says_what_to_give_instead(spec):
    with pytest.raises(FileNotFoundError) as caught:
        open_data(spec)
    assert str(caught.value) == (
        f"no data at '{spec}' on this machine, and the hub cannot be reached (offline?): "
        "give a local folder of images, a .zip, or a .parquet file instead"
    )


@pytest.mark.parametrize(
    ("raised", "kind", "error"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub (ConnectError)"), FileNotFoundError, "the hub cannot be re"),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"),
            FileNotFoundError,
            "exist",
        ),
        (
            RuntimeError("Dataset scripts are no longer supported, but found b.py"),
            ValueError,
            "a/b is made by a loading script, and scripts are not run here: convert it to parquet",
        ),
        (ValueError("Config name is missing.\nPlease pick one"), ValueError, "from the hub: Config name is missing.;"),
        (TimeoutError("timed out"), ValueError, "cannot load a/b from the hub: timed out; give a local folder"),
    ],
)
def test_what_the_hub_answers_is_one_line(monkeypatch, raised, kind, error):
    def load_dataset(*args, **kwargs):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(kind, match=re.escape(error)) as caught:
        open_data("a/b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("spec", "arguments"), [("a/b", ("a/b", None)), ("a/b:small", ("a/b", "small"))])
def test_a_name_of_the_hub_is_given_to_datasets_with_its_configuration(monkeypatch, spec, arguments):
    asked = []
    loaded = datasets.DatasetDict(train=table([0, 1]), dev=table([1]), extra=table([2]))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append(args) or loaded)
    data = open_data(spec)
    assert asked == [arguments]
    assert list(data.splits) == ["train", "dev", "extra"]
    assert len(data.split("val")) == len(data.split("extra")) == 1


# surroundings


def test_nothing_is_written_to_stderr_without_a_terminal_and_the_bars_stay_as_they_were(tmp_path, capfd):
    table([0, 1]).to_parquet(tmp_path / "a.parquet")
    datasets.enable_progress_bars()
    capfd.readouterr()
    open_data(str(tmp_path / "a.parquet"))
    assert capfd.readouterr() == ("", "")
    assert not datasets.utils.are_progress_bars_disabled()


def test_without_a_cache_that_can_be_written_to_there_is_one_for_the_process(tmp_path, monkeypatch):
    table([0, 1]).to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("/proc/nowhere"))
    monkeypatch.setattr(hub, "_FOLDERS", [])
    for _ in range(2):
        assert open_data(str(tmp_path / "a.parquet")).split("train").image(1).size == (4, 5)
    (folder,) = hub._FOLDERS
    assert any(Path(folder.name).rglob("*.arrow"))
    folder.cleanup()


@pytest.mark.slow
def test_parquet_is_read_with_a_home_that_cannot_be_written_to(tmp_path):
    table([0, 1]).to_parquet(tmp_path / "a.parquet")
    code = f"""if True:
        from capaboost_vit.vision.data import open_data
        split = open_data({str(tmp_path / "a.parquet")!r}).split("train")
        print(split.image(1).size, split.labels)"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    surroundings = {"HOME": "/proc/nowhere", "TMPDIR": str(tmp_path / "tmp"), "HF_HUB_OFFLINE": "1"}
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | surroundings, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "(4, 5) (0, 1)\n"), done.stderr
    assert list(Path(tmp_path / "tmp").iterdir()) == []  # its cache is gone again
