"""The check finds what was planted, and nothing else; its page fits a terminal; the contact sheet shows the images."""

from __future__ import annotations

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from capaboost_vit.vision.data import check as check_module
from capaboost_vit.vision.data import check_data, draw_contact_sheet, open_configured, open_data
from capaboost_vit.vision.data.look_alikes import THRESHOLD, look_alikes


def noise(number, size=(40, 36), mode="RGB"):
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def plant(folder, **images):
    """Writes images `part/class/name` of noise, each another one."""
    number = 0
    for part, classes in images.items():
        for name, count in classes.items():
            for i in range(count):
                (folder / part / name).mkdir(parents=True, exist_ok=True)
                noise(number := number + 1).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture
def clean(tmp_path):
    return plant(tmp_path / "data", train={"cat": 6, "dog": 5}, val={"cat": 2, "dog": 1}, test={"cat": 1, "dog": 2})


def test_clean_data_has_no_problems(clean):
    told = []
    report = check_data(open_data(str(clean)), progress=told.append)
    assert report.problems == []
    assert "No problems found." in report.text()
    assert "No unusual images." in report.text()
    assert told == list(range(1, 18))
    assert {name: part.images for name, part in report.splits.items()} == {"train": 11, "val": 3, "test": 3}
    assert report.splits["train"].class_counts == (6, 5)
    assert report.splits["val"].sizes == ((40, 36),) * 3


def test_an_unreadable_image_is_a_problem_with_its_path_and_reason(clean):
    (clean / "val" / "dog" / "0.png").write_bytes(b"")
    report = check_data(open_data(str(clean)))
    assert report.problems == [f"val: cannot read the image {clean}/val/dog/0.png: the file is empty"]
    assert list(report.splits["val"].unreadable) == [2]
    assert report.splits["val"].sizes == ((40, 36),) * 3


@pytest.mark.parametrize(
    ("source", "target", "problem"),
    [
        ("train/cat/1", "test/cat/new", "train and test share 1 image, such as {source} and {target}"),
        ("train/cat/1", "val/cat/new", "train and val share 1 image, such as {source} and {target}"),
        ("val/dog/0", "test/dog/new", "val and test share 1 image, such as {source} and {target}"),
        ("test/cat/0", "test/cat/new", "test holds 1 image more than once, such as {source} and {target}"),
        ("train/dog/1", "train/dog/new", "train holds 1 image more than once, such as {source} and {target}"),
    ],
)
def test_a_duplicate_is_named_with_both_places(clean, source, target, problem):
    source, target = clean / f"{source}.png", clean / f"{target}.png"
    shutil.copy(source, target)
    report = check_data(open_data(str(clean)))
    assert report.problems == [problem.format(source=source, target=target)]


def test_one_image_under_two_labels_is_a_contradiction(clean):
    shutil.copy(clean / "train/cat/1.png", clean / "train/dog/1.png")
    problems = check_data(open_data(str(clean))).problems
    assert problems[0] == (
        f"one image under several labels: {clean}/train/cat/1.png (cat), {clean}/train/dog/1.png (dog)"
    )
    assert problems[1].startswith("train holds 1 image more than once")
    assert len(problems) == 2


def test_copies_are_counted_exactly(clean):
    for i in range(4):
        shutil.copy(clean / "train/cat/1.png", clean / f"train/cat/copy {i}.png")
    for i in range(3):
        shutil.copy(clean / "train/cat/1.png", clean / f"test/cat/copy {i}.png")
    report = check_data(open_data(str(clean)))
    assert {name: found.count for name, found in report.copies.items()} == {"train": 4, "test": 2}
    assert {pair: found.count for pair, found in report.shared.items()} == {("train", "test"): 3}


def test_a_class_without_images_in_a_split_is_a_problem(clean):
    shutil.rmtree(clean / "test" / "dog")
    report = check_data(open_data(str(clean)))
    assert report.problems == ["test has no image of 1 class: dog"]
    assert report.splits["test"].class_counts == (1, 0)


def test_values_and_their_kind_are_reported_by_class_and_a_wrong_range_is_a_problem(tmp_path):
    for name, top in (("cat", 4095), ("dog", 1023)):
        (tmp_path / "train" / name).mkdir(parents=True)
        values = np.random.default_rng(top).integers(0, top, (40, 40), dtype=np.uint16)
        values[0, :2] = 0, top
        Image.fromarray(values).save(tmp_path / "train" / name / "1.png")
    report = check_data(open_data(str(tmp_path)))
    assert "cat: 16 bit 0 to 4095" in report.text()
    assert "dog: 16 bit 0 to 1023" in report.text()
    (problem,) = report.problems
    assert problem.endswith("say --value-range 0 4095, or 0 65535 if that is meant")
    assert check_data(open_configured({"data": str(tmp_path), "value_range": (0, 4095)})).problems == []


def test_pairs_that_look_alike_are_found_and_drawn(clean, tmp_path):
    shade = np.random.default_rng(0).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(shade).resize((60, 60), Image.Resampling.BICUBIC)
    picture.save(clean / "train/cat/a.png")
    picture.resize((50, 50)).save(clean / "test/dog/b.jpg", quality=80)
    report = check_data(open_data(str(clean)))
    (pair,) = report.look_alikes
    assert {name for name, _ in pair.places} == {"train", "test"}
    assert (pair.across, pair.contradicts) == (True, True)
    assert report.problems == []
    assert "1 pair of images look alike (1 in two splits, 1 under two" in report.text()
    data = open_data(str(clean))
    heights = []
    for pairs in ((), report.look_alikes):
        with Image.open(draw_contact_sheet(data, tmp_path / "sheet.png", pairs=pairs)) as sheet:
            heights.append(sheet.height)
    assert heights[1] > heights[0] + 100


def test_look_alikes_are_those_that_numpy_finds_by_comparing_all():
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (60, 16, 16)).astype(float)
    levels[30:] = levels[:30] * 0.8 + generator.normal(0, generator.uniform(1, 30, (30, 1, 1)), (30, 16, 16))
    levels = levels.clip(0, 255).astype(np.uint8)
    correlations = np.triu(np.corrcoef(levels.reshape(60, -1)), 1)
    expected = {tuple(pair) for pair in np.argwhere(correlations > THRESHOLD).tolist()}
    assert len(expected) > 10
    assert {pair[:2] for pair in look_alikes([image.tobytes() for image in levels])} == expected


def test_one_class_is_a_problem(tmp_path):
    (problem,) = check_data(open_data(str(plant(tmp_path, train={"cat": 2})))).problems
    assert problem == "all images are of one class, cat: is this the folder of the class folders?"


def lists(folder, **parts):
    for name, numbers in parts.items():
        for number in numbers:
            noise(number).save(folder / f"{number}.png")
        (folder / f"{name}.txt").write_text("".join(f"{number}.png {number % 2}\n" for number in numbers))
    return open_data(str(folder))


def test_splits_that_are_made_of_others_are_no_duplicates(tmp_path):
    data = lists(tmp_path, train800=range(8), val200=range(8, 10), train800val200=range(10), test=range(10, 14))
    assert check_data(data).problems == []


@pytest.mark.parametrize(("train", "test"), [(range(6), range(3)), (range(4), range(2, 8)), (range(2), range(6))])
def test_a_test_image_in_the_training_list_is_a_leak_even_if_all_of_them_are(tmp_path, train, test):
    shared = len(set(train) & set(test))
    problems = check_data(lists(tmp_path, train=train, test=test)).problems
    assert len(problems) == 1
    assert problems[0].startswith(f"train and test share {shared} images, such as {tmp_path}/")


def test_odd_images_are_counted_by_kind(tmp_path, monkeypatch):
    folder = plant(tmp_path, train={"cat": 2, "dog": 1})
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "grey.png": (noise(1, mode="L"), {}),
        "cmyk.jpg": (noise(2, mode="CMYK"), {}),
        "turned.jpg": (noise(3), {"exif": exif}),
        "upright.jpg": (noise(4), {"exif": Image.Exif()}),
        "moving.gif": (noise(5), {"save_all": True, "append_images": [noise(6)]}),
        "tiny.png": (noise(7, (31, 40)), {}),
        "not tiny.png": (noise(8, (32, 32)), {}),
        "long.png": (noise(9, (161, 40)), {}),
        "not long.png": (noise(10, (160, 40)), {}),
        "large.png": (noise(11, (100, 101)), {}),
    }
    for name, (image, options) in kinds.items():
        image.save(folder / "train" / "cat" / name, **options)
    monkeypatch.setattr(check_module, "_LARGE", 10_000)
    report = check_data(open_data(str(folder)))
    odd = dict(report.splits["train"].odd)
    assert odd.pop("over 0 megapixels") == 1
    assert odd.pop("mode P", 0) + odd.pop("mode RGB", 0) <= 1  # how PIL opens this gif
    assert odd == {
        "mode L": 1,
        "mode CMYK": 1,
        "turned by EXIF": 1,
        "several frames": 1,
        "smaller than 32 px": 1,
        "longer than 4:1": 1,
    }
    assert report.problems == []
    assert report.splits["train"].sizes == ((32, 32), (40, 36), (100, 101))


def test_the_digits_hold_no_problem():
    assert check_data(open_data("digits:0-4")).problems == []


# the page


@pytest.mark.parametrize("classes", [1, 24, 25, 300])
@pytest.mark.parametrize("length", [3, 120])
def test_the_page_fits_80_columns_and_abbreviates_long_lists(tmp_path, classes, length):
    names = [f"{i:03}".ljust(length, "x") for i in range(classes)]
    for i, name in enumerate(names):
        (tmp_path / f"{i}.png").write_bytes(b"" if i % 7 == 0 else name.encode())
    (tmp_path / "classes.txt").write_text("\n".join(names))
    for part in ("train", "val", "train_and_val_of_the_second_year", "test"):
        (tmp_path / f"{part}.txt").write_text("".join(f"{i}.png {i}\n" for i in range(classes)))
    report = check_data(open_data(str(tmp_path)))
    text = report.text()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert len(text.splitlines()) < 100
    shown = [name for name in names if re.search(rf"^{name[:16]}", text, re.MULTILINE)]
    assert len(shown) == (classes if classes <= 24 else 20)
    assert ("between the rarest" in text) == (classes > 24)
    assert len(report.problems) >= 4 * classes  # nothing is left out of the list


def test_the_rarest_and_the_most_frequent_classes_are_shown(tmp_path):
    noise(0).save(tmp_path / "a.png")
    (tmp_path / "train.txt").write_text("".join(f"a.png {label}\n" for label in range(40) for _ in range(label + 1)))
    lines = check_data(open_data(str(tmp_path))).text().splitlines()
    found = [line.split() for line in lines if re.fullmatch(r"\d+ +\d+", line)]
    assert found == [[str(i), str(i + 1)] for i in (*range(10), *range(30, 40))]
    assert "... 20 classes between the rarest and the most frequent" in lines
    assert "with 1 to 4 images: train 4 classes" in lines


def test_the_page_can_be_printed_whatever_the_names_are(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    try:
        plant(tmp_path, train={name: 1})
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    check_data(open_data(str(tmp_path))).text().encode("utf-8")


# the contact sheet


def colours(path):
    return {colour for _, colour in Image.open(path).convert("RGB").getcolors(1 << 20)}


def plain(folder, colour_of, per_class=2):
    for name, colour in colour_of.items():
        (folder / "train" / name).mkdir(parents=True)
        for i in range(per_class):
            Image.new("RGB", (9, 7), colour).save(folder / "train" / name / f"{i}.png")
    return folder


def test_the_sheet_shows_images_of_every_class(tmp_path):
    shown = {"pink": (250, 20, 200), "teal": (10, 130, 120), "olive": (120, 130, 9)}
    data = open_data(str(plain(tmp_path / "data", shown)))
    path = draw_contact_sheet(data, tmp_path / "new" / "sheet.png")
    assert path == tmp_path / "new" / "sheet.png"
    assert set(shown.values()) <= colours(path)
    assert (214, 39, 40) not in colours(path)
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]


def test_an_unreadable_image_is_a_red_cross(tmp_path):
    folder = plain(tmp_path / "data", {"teal": (10, 130, 120)})
    (folder / "train" / "teal" / "1.png").write_bytes(b"")
    draw_contact_sheet(open_data(str(folder)), tmp_path / "sheet.png")
    assert {(214, 39, 40), (10, 130, 120)} <= colours(tmp_path / "sheet.png")


def test_twenty_classes_are_shown_and_the_rest_is_counted(tmp_path):
    shades = {f"class {i:02}": (10 * i, 255 - 10 * i, 7) for i in range(22)}
    draw_contact_sheet(open_data(str(plain(tmp_path / "data", shades, 1))), tmp_path / "sheet.png")
    found = colours(tmp_path / "sheet.png")
    assert [name for name, colour in shades.items() if colour in found] == [f"class {i:02}" for i in range(20)]


def test_a_sheet_is_a_function_of_data_and_seed(tmp_path):
    data = open_data("digits")
    sheets = []
    for seed in (0, 0, 1):
        draw_contact_sheet(data, tmp_path / "sheet.png", seed=seed, columns=3)
        sheets.append((tmp_path / "sheet.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


@pytest.mark.parametrize("columns", [1, 3, 30])
def test_a_sheet_may_have_any_number_of_columns_and_fewer_images(tmp_path, columns):
    data = open_data(str(plain(tmp_path / "data", {"a very long name of a class " * 4: (1, 2, 250)})))
    draw_contact_sheet(data, tmp_path / "sheet.png", columns=columns)
    assert (1, 2, 250) in colours(tmp_path / "sheet.png")


@pytest.mark.parametrize(
    ("options", "error"),
    [({"columns": 0}, "needs a column at least, got 0"), ({"split": "tset"}, "has no split 'tset'")],
)
def test_a_sheet_that_cannot_be_is_named(tmp_path, options, error):
    with pytest.raises(ValueError, match=error):
        draw_contact_sheet(open_data("digits"), tmp_path / "sheet.png", **options)
    assert list(tmp_path.iterdir()) == []
