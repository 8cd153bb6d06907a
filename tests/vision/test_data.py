"""Every kind of data set is read as documented, every kind of image becomes upright RGB, and what is wrong is named."""

from __future__ import annotations

import io
import random
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from capaboost_vit.vision.data import Split, open_data, to_rgb

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
    with pytest.raises(ValueError, match="classes are 0-9"):
        open_data(spec)


# lists


def test_lists_name_files_of_the_folder_by_label(tmp_path):
    save(tmp_path / "a.png", RED)
    save(tmp_path / "deep/er/b c.png", GREEN)  # a path with spaces: the label is behind the last one
    (tmp_path / "train.txt").write_text("a.png 0\n\n  deep/er/b c.png   2 \n")
    data = open_data(str(tmp_path))
    assert data.classes == ("0", "1", "2")
    split = data.split("train")
    assert split.labels == (0, 2)
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
    with pytest.raises(ValueError, match=r"cannot read the image noise\.png"):
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
        ({"train": 0}, r"train holds no class folders"),
        ({"cat": 12, "dog": 9}, r"class 'dog' has only 9 images, too few for 80 / 10 / 10"),
        ({"cat": 12, "dog": 0}, r"class folder .*dog holds no image"),
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


@pytest.mark.parametrize("spec", ["nowhere", "digit", "digits5-9", "gone/images"])
def test_no_such_data_says_what_can_be_given(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no data at '{spec}': give digits, or the path of an image folder"):
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
        return {name: [path[len(str(folder)) :] for path in split.names] for name, split in data.splits.items()}

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


def test_a_digest_changes_with_names_labels_and_order():
    def digest(names, labels):
        return Split(names, labels, Image.open).digest()

    assert digest(("a", "b"), (0, 1)) == digest(("a", "b"), (0, 1))
    others = {digest(("a", "c"), (0, 1)), digest(("a", "b"), (0, 2)), digest(("b", "a"), (1, 0))}
    assert len(others | {digest(("a", "b"), (0, 1))}) == 4


@pytest.mark.realdata
def test_the_real_eurosat_lists_are_those_of_vtab(real_data):
    data = open_data(str(real_data / "eurosat_vtab1k"))
    names = names_of(data)
    assert [len(names[name]) for name in ("train800", "val200", "train800val200", "test")] == [800, 200, 1000, 5400]
    assert names["train800"] | names["val200"] == names["train800val200"]
    assert not names["train800val200"] & names["test"]
    assert len(data.classes) == 10
    assert data.split("test").image(0).size == (64, 64)


# images


def two_by_one(mode, *values):
    image = Image.new(mode, (2, 1))
    image.putdata(list(values))
    return image


def palette(*, transparent: bool):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    if transparent:
        image.info["transparency"] = 1
    return image


def rotated():
    image = two_by_one("RGB", RED, BLUE)
    image.getexif()[0x0112] = 6  # stored a quarter turn to the left: upright, red is on top
    return image


def encoded(image, kind, **options):
    if "transparency" in image.info:
        options["transparency"] = image.info["transparency"]
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


IMAGES = {
    "rgb": (lambda: encoded(two_by_one("RGB", RED, BLUE), "png"), (RED, BLUE)),
    "black and white": (lambda: encoded(two_by_one("1", 0, 255), "png"), ((0, 0, 0), WHITE)),
    "grey": (lambda: encoded(two_by_one("L", 7, 200), "png"), ((7, 7, 7), (200, 200, 200))),
    "palette": (lambda: encoded(palette(transparent=False), "png"), (RED, BLUE)),
    "palette with transparency": (lambda: encoded(palette(transparent=True), "png"), (RED, WHITE)),
    "rgba": (lambda: encoded(two_by_one("RGBA", (*RED, 255), (*BLUE, 0)), "png"), (RED, WHITE)),
    "half transparent": (
        lambda: encoded(two_by_one("RGBA", (0, 0, 0, 255), (0, 0, 0, 51)), "png"),
        ((0, 0, 0), (204, 204, 204)),
    ),
    "grey with alpha": (lambda: encoded(two_by_one("LA", (9, 255), (9, 0)), "png"), ((9, 9, 9), WHITE)),
    "cmyk": (lambda: encoded(two_by_one("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "tiff"), (RED, BLUE)),
    "16 bits": (lambda: encoded(two_by_one("I;16", 0, 65535), "png"), ((0, 0, 0), WHITE)),
    "16 bits, dark": (lambda: encoded(two_by_one("I;16", 0, 255), "png"), ((0, 0, 0), (1, 1, 1))),
    "16 bits, tiff": (lambda: encoded(two_by_one("I;16", 257, 25700), "tiff"), ((1, 1, 1), (100, 100, 100))),
    "32 bits of 8": (lambda: encoded(two_by_one("I", 3, 250), "tiff"), ((3, 3, 3), (250, 250, 250))),
    "animated gif": (
        lambda: encoded(
            two_by_one("RGB", RED, BLUE), "gif", save_all=True, append_images=[two_by_one("RGB", WHITE, WHITE)]
        ),
        (RED, BLUE),
    ),
    "webp": (lambda: encoded(two_by_one("RGB", RED, BLUE), "webp", lossless=True), (RED, BLUE)),
}


def split_of(tmp_path, content, name="picture.png"):
    (tmp_path / name).write_bytes(content)
    return Split((str(tmp_path / name),), (0,), Image.open)


@pytest.mark.parametrize("kind", IMAGES)
def test_every_mode_becomes_rgb_with_its_pixels(tmp_path, kind):
    make, pixels = IMAGES[kind]
    image = split_of(tmp_path, make()).image(0)
    assert (image.mode, image.size) == ("RGB", (2, 1))
    assert [image.getpixel((x, 0)) for x in range(2)] == list(pixels)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_an_image_is_turned_upright_by_its_exif_tag(tmp_path, kind):
    image = split_of(tmp_path, encoded(rotated(), kind, exif=rotated_exif())).image(0)
    assert (image.mode, image.size) == ("RGB", (1, 2))
    assert [image.getpixel((0, y)) for y in range(2)] == [RED, BLUE]


def rotated_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_to_rgb_leaves_the_image_it_was_given_as_it_was():
    image = two_by_one("RGB", RED, BLUE)
    to_rgb(image).putpixel((0, 0), WHITE)
    assert image.getpixel((0, 0)) == RED


def noise(kind):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), kind)


BROKEN = {
    "truncated png": lambda: noise("png")[:-600],
    "truncated jpeg": lambda: noise("jpeg")[:400],
    "truncated webp": lambda: noise("webp")[:100],
    "truncated tiff": lambda: noise("tiff")[:-700],
    "zero byte": lambda: b"",
    "text": lambda: b"<html>404 not found</html>",
    "flipped header": lambda: b"\x00" + noise("png")[1:],
    "cut in the header": lambda: noise("png")[:20],
    "size of a bomb": lambda: noise("png")[:16] + struct.pack(">II", 60000, 60000) + noise("png")[24:],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_and_never_replaced(tmp_path, kind):
    split = split_of(tmp_path, BROKEN[kind](), "holiday 7.png")
    with pytest.raises(ValueError, match=r"cannot read the image .*holiday 7\.png: "):
        split.image(0)


def test_an_image_that_is_gone_is_named(tmp_path):
    split = Split((str(tmp_path / "gone.png"),), (0,), Image.open)
    with pytest.raises(ValueError, match=r"cannot read the image .*gone\.png"):
        split.image(0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL warns about damaged metadata that it can do without
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"])
def test_a_damaged_file_gives_an_image_or_a_value_error_that_names_it(tmp_path, kind):
    whole = noise(kind)
    draw = random.Random(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(min(len(content), 300))] = draw.randrange(256)
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        split = split_of(tmp_path, bytes(content))
        try:
            assert split.image(0).mode == "RGB"
        except ValueError as error:
            assert "picture.png" in str(error)  # noqa: PT017
            refused += 1
    assert refused
