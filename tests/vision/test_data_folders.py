"""Digits, lists, folders and zips are read as documented, and what is wrong is named."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capaboost_vit.vision.data import open_data
from capaboost_vit.vision.data import tree as tree_module
from capaboost_vit.vision.data.pixels import EXTENSIONS, FORMATS
from capaboost_vit.vision.data.tree import Folder

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def save(path, colour=RED, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def make_lists(folder, **lists):
    """A folder with one 4 x 4 picture for each line of each list."""
    for name, lines in lists.items():
        for line in lines:
            save(folder / line.rpartition(" ")[0])
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_classes(folder, **counts):
    for name, count in counts.items():
        for i in range(count):
            save(folder / name / f"{i}.png")
    return folder


def names_of(data):
    return {name: set(split.names) for name, split in data.splits.items()}


# digits


@pytest.mark.parametrize(
    ("spec", "sizes", "classes"),
    [
        ("digits", (899, 449, 449), "0123456789"),
        ("digits:0-4", (452, 219, 230), "01234"),
        ("digits:5-9", (447, 230, 219), "56789"),
        ("digits:7-7", None, "7"),
    ],
)
def test_digits_have_their_classes_and_disjoint_splits(spec, sizes, classes):
    data = open_data(spec)
    assert data.classes == tuple(classes)
    assert list(data.splits) == ["train", "val", "test"]
    if sizes:
        assert tuple(len(data.split(name)) for name in data.splits) == sizes
    names = names_of(data)
    assert len(set.union(*names.values())) == sum(len(part) for part in data.splits.values())
    for split in data.splits.values():
        assert set(split.labels) == set(range(len(classes)))  # labels start at 0 and every class is in every split


def test_the_label_of_a_digit_is_that_of_scikit_learn():
    from sklearn.datasets import load_digits

    digits = load_digits()
    split = open_data("digits:5-9").split("test")
    for i in range(0, len(split), 37):
        number = int(split.names[i].split()[1])
        assert split.labels[i] + 5 == digits.target[number]
        pixels = np.asarray(split.image(i))
        assert pixels.shape == (8, 8, 3)
        assert np.abs(pixels[..., 0] - digits.images[number] * 255 / 16).max() <= 0.5


def test_the_two_halves_of_the_digits_are_all_of_them():
    halves = [names_of(open_data(spec)) for spec in ("digits:0-4", "digits:5-9")]
    for name, names in names_of(open_data("digits")).items():
        assert halves[0][name] | halves[1][name] == names
        assert not halves[0][name] & halves[1][name]


@pytest.mark.parametrize("spec", ["digits:", "digits:3", "digits:a-b", "digits:1-2-3"])
def test_a_malformed_range_of_digits_says_how_to_write_one(spec):
    with pytest.raises(ValueError, match=r"such as digits:5-9"):
        open_data(spec)


@pytest.mark.parametrize("spec", ["digits:5-4", "digits:0-10"])
def test_a_range_beyond_the_digits_says_which_there_are(spec):
    with pytest.raises(ValueError, match="which are 0-9"):
        open_data(spec)


# lists


def test_lists_name_files_of_the_folder_by_label(tmp_path):
    save(tmp_path / "a.png", RED)
    save(tmp_path / "deep/er/b c.png", GREEN)  # a path with spaces: the label is behind the last one
    (tmp_path / "train.txt").write_text("a.png 0\n\n  deep/er/b c.png   2 \n")
    data = open_data(str(tmp_path))
    assert data.classes == ("0", "2")  # the labels that occur
    split = data.split("train")
    assert split.labels == (0, 1)
    assert [split.image(i).getpixel((0, 0)) for i in range(2)] == [RED, GREEN]


def test_lists_name_members_of_images_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        for name, colour in (("x/one two.png", BLUE), ("three.png", GREEN)):
            buffer = io.BytesIO()
            Image.new("RGB", (3, 3), colour).save(buffer, "png")
            file.writestr(name, buffer.getvalue())
    save(tmp_path / "outside.png", RED)
    (tmp_path / "test.txt").write_text("x/one two.png 0\nthree.png 1\noutside.png 1\n")
    split = open_data(str(tmp_path)).split("test")
    assert [split.image(i).getpixel((1, 1)) for i in (0, 1, 2, 0)] == [BLUE, GREEN, RED, BLUE]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("train800", "val200", "train800val200", "test"), {"train": 1, "val": 2, "train800val200": 3, "test": 4}),
        (("train", "val", "test"), {"train": 1, "val": 2, "test": 3}),
        (("train", "validation"), {"train": 1, "val": 2}),
        (("train", "valid"), {"train": 1, "val": 2}),
    ],
)
def test_usual_names_of_lists_are_aliases(tmp_path, files, found):
    lists = {name: [f"{name}{i}.png 0" for i in range(size)] for size, name in enumerate(files, start=1)}
    data = open_data(str(make_lists(tmp_path, **lists)))
    for name, size in found.items():
        assert data.has(name)
        assert len(data.split(name)) == size
    assert not data.has("val200val")


def test_a_list_of_its_own_name_wins_over_an_alias(tmp_path):
    data = open_data(str(make_lists(tmp_path, train=["a.png 0"], train800=["b.png 0", "c.png 0"])))
    assert len(data.split("train")) == 1
    assert len(data.split("train800")) == 2


def test_classes_txt_names_the_classes_in_the_order_of_the_labels(tmp_path):
    make_lists(tmp_path, train=["a.png 0", "b.png 1"])
    (tmp_path / "classes.txt").write_text("annual crop\r\nforest\nsea\n\n")
    assert open_data(str(tmp_path)).classes == ("annual crop", "forest", "sea")


def test_a_list_with_a_byte_order_mark_is_read(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "train.txt").write_text("a.png 0\n", encoding="utf-8-sig")
    assert open_data(str(tmp_path)).split("train").names == ("a.png",)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a.png 0\na.png\n", r"train\.txt, line 2: expected `path label`"),
        ("a.png 0\n\na.png zero\n", r"train\.txt, line 3: expected `path label`.*'a\.png zero'"),
        ("a.png -1\n", r"train\.txt, line 1: expected"),
        ("a.png 1.0\n", r"train\.txt, line 1: expected"),
        ("a.png nan\n", r"train\.txt, line 1: expected"),
        ("a.png \xb2\n", r"train\.txt, line 1: expected"),
        ("a.png " + 5000 * "9", r"train\.txt, line 1: the label 9{20} has more than 18 digits"),
        ("7\n", r"train\.txt, line 1: expected"),
        ("a.png 0\nb.png 1\n", r"train\.txt, line 2: no image 'b\.png'"),
        ("a.png 0\na.png 2\n", r"label 2 in a list, but classes\.txt names only 2 classes"),
        ("\n \n", r"train\.txt is empty"),
    ],
)
def test_a_wrong_list_is_named_by_file_and_line(tmp_path, text, error):
    save(tmp_path / "a.png")
    (tmp_path / "classes.txt").write_text("x\ny\n")
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(ValueError, match=error):
        open_data(str(tmp_path))


def test_a_damaged_zip_is_named(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK\x03\x04 not really")
    (tmp_path / "train.txt").write_text("a.png 0\n")
    with pytest.raises(ValueError, match=r"images\.zip"):
        open_data(str(tmp_path))


def test_a_damaged_member_of_the_zip_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(buffer, "png")
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("noise.png", buffer.getvalue())
    (tmp_path / "train.txt").write_text("noise.png 0\n")
    content = bytearray((tmp_path / "images.zip").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read the image .*images\.zip: noise\.png: "):
        open_data(str(tmp_path)).split("train").image(0)


def test_an_unknown_split_lists_what_there_is(tmp_path):
    data = open_data(str(make_lists(tmp_path, train=["a.png 0"], val200=["b.png 0"])))
    with pytest.raises(ValueError, match=r"has no split 'test'; it has: train, val200"):
        data.split("test")


# folders


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders_share_the_classes_of_train(tmp_path, val):
    make_classes(tmp_path / "train", cat=3, dog=2)
    make_classes(tmp_path / val, dog=2)  # no cat: a class may be missing here, and keeps its label
    make_classes(tmp_path / "test", cat=1, dog=1)
    (tmp_path / "train" / "cat" / "notes.text").write_text("no image")
    data = open_data(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.split("train").labels == (0, 0, 0, 1, 1)
    assert data.split("val").labels == (1, 1)
    assert data.split("test").labels == (0, 1)
    assert data.split("train").image(0).getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("make", "error"),
    [
        ({"train/cat": 1, "val/bird": 1}, r"val has the class 'bird', which train does not have"),
        ({"train/cat": 1, "train/dog": 0}, r"class folder .*dog holds no image"),
        ({"train": 0}, r"train/? holds no class folders"),
        ({"cat": 1, "test/cat": 1}, r"holds 'test' beside 'cat': is it a split\?"),
        (
            {"train/caf\u00e9": 1, "train/cafe\u0301": 1},
            r"two classes that look the same, 'cafe\\u0301' and 'caf\\xe9'",
        ),
        ({"Train/cat": 1, "training/cat": 1}, r"both train: keep one of them"),
        ({"cat": 12, "dog": 9}, r"class 'dog' has only 9 images, too few for 80 / 10 / 10"),
        ({"cat": 12, "dog": 0}, r"class folder .*dog holds no image"),
        ({"train/cat": 1, "val/cat": 1, "valid/cat": 1}, r"holds val and valid, both val: keep one of them"),
        ({"train/.cat": 1}, r"train/? holds no class folders"),
        ({}, r"holds no train\.txt, no train folder and no class folders"),
    ],
)
def test_wrong_folders_are_named(tmp_path, make, error):
    for name, count in make.items():
        (tmp_path / name).mkdir(parents=True)
        for i in range(count):
            save(tmp_path / name / f"{i}.png")
    with pytest.raises(ValueError, match=error):
        open_data(str(tmp_path))


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (("val",), {"val": 2}),
        (("Test",), {"test": 2}),
        (("Training", "Testing"), {"train": 2, "test": 2}),
        (("TRAIN", "Dev"), {"train": 2, "val": 2}),
        (("wrapped/twice/train", "wrapped/twice/Validation"), {"train": 2, "val": 2}),
    ],
)
def test_split_folders_are_known_by_name_in_any_case_and_below_lone_folders(tmp_path, folders, sizes):
    for folder in folders:
        make_classes(tmp_path / "data" / folder, cat=1, dog=1)
    (tmp_path / "data" / "README").write_text("no data")
    for spec in (tmp_path / "data", pack(tmp_path / "data")):
        data = open_data(str(spec))
        assert data.classes == ("cat", "dog")
        assert {name: len(split) for name, split in data.splits.items()} == sizes
        assert all(data.has(name) and data.has(name.upper()) for name in sizes)


def test_classes_of_two_splits_match_whatever_their_unicode_form(tmp_path):
    make_classes(tmp_path / "train", **{"b": 1, "caf\u00e9": 1})
    make_classes(tmp_path / "val", **{"cafe\u0301": 1})
    data = open_data(str(tmp_path))
    assert data.classes == ("b", "caf\u00e9")
    assert data.split("val").labels == (1,)


def test_images_are_known_by_pils_endings_or_by_content_without_one_and_others_are_counted(tmp_path):
    Image.init()
    assert set(EXTENSIONS) == {e for e, kind in Image.registered_extensions().items() if kind in {*FORMATS, "MPO"}}
    make_classes(tmp_path / "train", cat=2, dog=1)
    for name, content in {
        "a.JFIF": "jpeg", "b.jpe": "jpeg", "c.jp2": "jpeg2000", "d.avif": "avif", "e.pgm": "ppm", "none": "png",
    }.items():  # fmt: skip
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / "cat" / name, content)
    for name in ("cat/1.txt", "cat/2.txt", "cat/LICENSE", "dog/photo.heic"):
        (tmp_path / "train" / name).write_text("no image")
    save(tmp_path / "train" / "loose.png")
    data = open_data(str(tmp_path))
    assert len(data.split("train")) == 2 + 6 + 1
    assert data.left_out == (
        f"{tmp_path}/train holds 4 files that are no images (2 .txt, 1 without ending, 1 .heic): left out",
        f"{tmp_path}/train holds 1 images beside its class folders, which belong to no class: left out",
    )


def test_only_raster_formats_are_opened(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", "eps")  # PIL would start ghostscript for it
    (tmp_path / "train.txt").write_text("a.png 0\n")
    with pytest.raises(ValueError, match=r"a\.png: this is no image in a format that is read here"):
        open_data(str(tmp_path)).split("train").image(0)


def test_the_first_empty_class_folder_is_named_before_the_others_are_read(tmp_path, monkeypatch):
    for i in range(300):
        (tmp_path / f"{i:03}").mkdir()
    listed = []
    monkeypatch.setattr(Folder, "files", lambda tree, below="": listed.append(below) or [])
    with pytest.raises(ValueError, match=r"class folder .*000 holds no image"):
        open_data(str(tmp_path))
    assert {*listed} == {"", "000/"}


@pytest.mark.parametrize(
    "spec", ["nowhere", "digit", "digits5-9", "./gone", "gone/gone/images", "gone.zip", "", "a b/c"]
)
def test_no_such_data_says_what_can_be_given(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"no data at '{spec}': give digits, sprites:TASK, or")):
        open_data(spec)


def test_class_folders_are_split_80_10_10_in_disjoint_parts(tmp_path):
    data = open_data(str(make_classes(tmp_path, cat=20, dog=37)))
    assert data.classes == ("cat", "dog")
    labels = {name: [split.labels.count(label) for label in (0, 1)] for name, split in data.splits.items()}
    assert labels == {"train": [16, 31], "val": [2, 3], "test": [2, 3]}
    names = names_of(data)
    assert len(set.union(*names.values())) == 57
    for split in data.splits.values():
        assert all(f"{data.classes[label]}/" in name for name, label in zip(split.names, split.labels, strict=True))


def test_the_split_of_class_folders_depends_on_file_names_only(tmp_path):
    def parts(folder):
        data = open_data(str(folder))
        return {name: split.names for name, split in data.splits.items()}

    first = make_classes(tmp_path / "first", cat=20, dog=20)
    moved = tmp_path / "some where else"
    for number in reversed(range(20)):  # another folder, another order of creation, other pictures
        for name in ("dog", "cat"):
            save(moved / name / f"{number}.png", BLUE, size=(5, 7))
    assert parts(first) == parts(moved)
    save(moved / "dog" / "new.png")
    assert parts(first) != parts(moved)


def test_the_split_of_class_folders_is_the_one_that_was_released(tmp_path):
    data = open_data(str(make_classes(tmp_path, cat=10)))
    assert [name.rpartition("/")[2] for name in data.split("val").names] == ["8.png"]
    assert [name.rpartition("/")[2] for name in data.split("test").names] == ["0.png"]


# oracle: torchvision reads the same trees


@pytest.mark.parametrize("zipped", [False, True])
def test_split_folders_hold_what_torchvisions_image_folder_finds(tmp_path, zipped):
    from torchvision.datasets import ImageFolder

    for number, name in enumerate(("b/x/1.png", "b/2.PNG", "a c/3.jpg", "a c/y/z/4.webp", "B/5.png")):
        save(tmp_path / "data" / "train" / name, (number, 0, 0))
    spec = pack(tmp_path / "data") if zipped else tmp_path / "data"
    split = open_data(str(spec)).split("train")
    oracle = ImageFolder(str(tmp_path / "data" / "train"))
    found = {
        Path(name).relative_to("train").as_posix(): label for name, label in zip(split.names, split.labels, strict=True)
    }
    assert found == {Path(p).relative_to(oracle.root).as_posix(): label for p, label in oracle.samples}
    assert open_data(str(spec)).classes == tuple(oracle.classes)


# zips


def pack(folder, *, top="", extra=()):
    """A zip beside the folder, of all files in it."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for child in sorted(folder.rglob("*")):
            file.write(child, top + child.relative_to(folder).as_posix())
        for name in extra:
            file.writestr(name, b"rubbish")
    return path


LAYOUTS = {
    "lists": lambda folder: make_lists(folder, train=["x/a.png 0", "b.png 1"], val=["c.png 0"]),
    "split folders": lambda folder: (
        make_classes(folder / "train", cat=2, dog=1).parent,
        make_classes(folder / "val", cat=1),
    )[0],
    "train alone": lambda folder: make_classes(folder / "train", cat=2, dog=1).parent,
    "class folders": lambda folder: make_classes(folder, cat=10, dog=20),
}
RUBBISH = ("__MACOSX/cat/._1.png", ".DS_Store", "cat/.hidden.png")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("top", ["", "data set/"])
@pytest.mark.parametrize("rubbish", [(), RUBBISH[:2]])
def test_a_zip_is_read_like_the_folder_that_it_holds(tmp_path, layout, top, rubbish):
    folder = LAYOUTS[layout](tmp_path / "data")
    zipped, plain = open_data(str(pack(folder, top=top, extra=rubbish))), open_data(str(folder))
    assert zipped.classes == plain.classes
    assert list(zipped.splits) == list(plain.splits)
    for name, split in plain.splits.items():
        assert zipped.splits[name].record() == split.record()
        assert zipped.splits[name].image(0).tobytes() == split.image(0).tobytes()


def test_a_zip_survives_pickling_with_an_open_handle(tmp_path):
    split = open_data(str(pack(LAYOUTS["lists"](tmp_path / "data")))).split("train")
    split.image(0)
    assert pickle.loads(pickle.dumps(split)).record() == split.record()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.zip", b"", r"cannot read .*a\.zip: File is not a zip file"),
        ("a.zip", b"PK\x03\x04 not really", r"cannot read .*a\.zip"),
        ("a.tar", b"whatever", r"a\.tar is a file, but neither \.zip nor \.parquet"),
        ("a.txt", b"", r"a\.txt is a file, but neither"),
    ],
)
def test_a_file_that_is_no_data_set_is_named(tmp_path, name, content, error):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=error):
        open_data(str(tmp_path / name))


def test_backslashes_in_a_zip_are_folders(tmp_path):
    picture = save(tmp_path / "a.png", GREEN)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("cat", "dog"):
            file.write(picture, f"set\\train\\{name}\\1.png")
    split = open_data(str(tmp_path / "a.zip")).split("train")
    assert split.names == ("train/cat/1.png", "train/dog/1.png")
    assert split.image(1).getpixel((0, 0)) == GREEN


def test_a_file_of_more_than_the_limit_is_never_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tree_module, "_LARGEST", 10_000)
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.png").write_bytes(bytes(10_001))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train/a/1.png", bytes(10_000_000))
    for spec in (tmp_path / "a.zip", tmp_path):
        split = open_data(str(spec)).split("train")
        with pytest.raises(ValueError, match=r"1\.png: it takes more than"):
            split.image(0)


def test_a_zip_without_images_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("cat/", "")
        file.writestr("dog/1.png", "")
    with pytest.raises(ValueError, match=r"the class folder .*a\.zip: cat holds no image"):
        open_data(str(tmp_path / "a.zip"))


# names and links


def test_names_do_not_depend_on_where_the_data_lies_but_errors_say_where_it_is(tmp_path):
    here, there = (LAYOUTS["split folders"](tmp_path / name) for name in ("here", "there"))
    splits = [open_data(str(folder)).split("train") for folder in (here, there)]
    assert splits[0].names == splits[1].names == ("train/cat/0.png", "train/cat/1.png", "train/dog/0.png")
    assert splits[0].record() == splits[1].record()
    (there / "train" / "cat" / "1.png").write_bytes(b"")
    text = f"cannot read the image {there}/train/cat/1.png: the file is empty"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        splits[1].image(1)


def test_a_relative_path_and_one_below_home_are_the_same_data(tmp_path, monkeypatch):
    folder = LAYOUTS["lists"](tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    records = [open_data(spec).split("train").record() for spec in (str(folder), "data", "./data/", "~/data")]
    assert all(record == records[0] for record in records)


def test_a_local_path_wins_over_other_readings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spec in ("digits", "owner/name", "torchvision:MNIST"):
        LAYOUTS["lists"](tmp_path / spec)
        assert open_data(spec).split("train").names == ("x/a.png", "b.png")


def test_hidden_files_are_no_images(tmp_path):
    make_classes(tmp_path, cat=10)
    for name in ("cat/._0.png", "cat/.x/1.png", ".git/2.png", "__MACOSX/cat/3.png"):
        save(tmp_path / name)
    data = open_data(str(tmp_path))
    assert data.classes == ("cat",)
    assert sum(len(split) for split in data.splits.values()) == 10


def test_names_that_are_not_utf_8_are_read_hashed_and_printed(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    try:
        save(tmp_path / "train" / name / f"{name}.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    data = open_data(str(tmp_path))
    assert data.classes == ("caf\\xe9",)
    assert data.split("train").image(0).size == (4, 4)
    assert data.split("train").record()["hashed_images"] == 1
    (tmp_path / "train" / name / f"{name}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"caf\\xe9\.png: the file is empty") as caught:
        data.split("train").image(0)
    str(caught.value).encode("utf-8")


def test_a_list_may_name_files_that_are_not_utf_8(tmp_path):
    name = os.fsdecode(b"\xff.png")
    try:
        save(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (tmp_path / "train.txt").write_bytes(b"\xff.png 0\n")
    assert open_data(str(tmp_path)).split("train").names == (name,)


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    make_classes(tmp_path / "elsewhere", far=3)
    data = make_classes(tmp_path / "data", cat=10, dog=10)
    (data / "cat" / "linked").symlink_to(tmp_path / "elsewhere" / "far")
    (data / "bird").symlink_to(tmp_path / "elsewhere" / "far")
    for number in range(10, 20):
        (tmp_path / "elsewhere" / "far" / f"{number}.png").symlink_to(data / "cat" / "1.png")
    (data / "cat" / "up").symlink_to(data)
    (data / "cat" / "self").symlink_to(data / "cat")
    (data / "cat" / "there").symlink_to(data / "dog")
    (data / "dog" / "back").symlink_to(data / "cat")
    (data / "loop").symlink_to(tmp_path)
    assert Folder(data).folders() == ["bird", "cat", "dog"]
    found = [name for _, names in Folder(data).by_folder() for name in names]
    assert len(found) == len(set(found))
    count = {name: sum(path.startswith(f"{name}/") for path in found) for name in ("bird", "cat", "dog")}
    assert count == {"bird": 13, "cat": 10 + 13 + 10, "dog": 10 + 10 + 13}  # each folder once per class


def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path):
    make_classes(tmp_path / "train", cat=1)
    (tmp_path / "train" / "cat" / "gone.png").symlink_to(tmp_path / "nothing")
    split = open_data(str(tmp_path)).split("train")
    assert split.names == ("train/cat/0.png", "train/cat/gone.png")
    with pytest.raises(ValueError, match=r"cannot read the image .*gone\.png"):
        split.image(1)


@pytest.mark.parametrize("layout", ["lists", "split folders"])
def test_a_set_of_one_image_is_a_set(tmp_path, layout):
    if layout == "lists":
        make_lists(tmp_path, train=["a.png 0"])
    else:
        make_classes(tmp_path / "train", cat=1)
    data = open_data(str(tmp_path))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1}
    assert not data.has("test")
