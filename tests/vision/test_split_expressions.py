"""Split expressions: the same images as in Hugging Face's own slices, names that find them, and one error each."""

from __future__ import annotations

import hashlib
import pickle

import pytest
from datasets.arrow_reader import ReadInstruction

from capaboost_vit.vision.data import ImageData, Split, open_data, parse_split


def of(**counts):
    """A set whose splits share one way to open images, as in a folder: image `train 3` of `train`."""
    splits = {
        name: Split(tuple(f"{name} {i}" for i in range(n)), tuple(range(n)), str, "at {}".format)
        for name, n in counts.items()
    }
    return ImageData("mine", ("a",), splits)


class Rows:
    """Opens `row i` of one table: bytes with the name of the table in it."""

    def __init__(self, table):
        self.table = table

    def read(self, name):
        return f"{self.table} {name}".encode()

    def locate(self, name):
        return f"{name} of {self.table}"


def tables(**counts):
    """A set whose splits all have rows of the same names, as in parquet."""
    splits = {}
    for name, n in counts.items():
        rows = Rows(name)
        splits[name] = Split(tuple(f"row {i}" for i in range(n)), tuple(range(n)), rows.read, rows.locate)
    return ImageData("mine", ("a",), splits)


@pytest.mark.parametrize(
    "bounds",
    [
        "[:5]",
        "[3:6]",
        "[6:]",
        "[:]",
        "[-3:]",
        "[:-2]",
        "[-5:-1]",
        "[90%:]",
        "[:33%]",
        "[25%:75%]",
        "[-10%:]",
        "[:-45%]",
    ],
)
def test_a_slice_is_that_of_hugging_face(bounds):
    for count in (7, 200, 999, 3059):
        (oracle,) = ReadInstruction.from_spec(f"train{bounds}").to_absolute({"train": count})
        start, stop = oracle.from_ or 0, count if oracle.to is None else oracle.to
        if start == stop:
            with pytest.raises(ValueError, match="is empty"):
                of(train=count).split(f"train{bounds}")
        else:
            names = of(train=count).split(f"train{bounds}").names
            assert names == tuple(f"train {i}" for i in range(start, stop))


def test_where_hugging_face_would_give_all_images_or_other_units_we_do_not():
    data = of(train=10)
    with pytest.raises(ValueError, match=r"train\[-1%:\] is empty"):  # a tenth of an image is none, and not -0 = 0
        data.split("train[-1%:]")
    assert len(data.split("train[:-1%]")) == 10
    assert data.split("train[2:50%]").names == tuple(f"train {i}" for i in range(2, 5))  # not from 2 %
    assert data.split("train[-4:90%]").names == tuple(f"train {i}" for i in range(6, 9))


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("train[4:][:2]", ["train 4", "train 5"]),
        ("train[50%:][:40%]", ["train 5", "train 6"]),  # 40 % of the five that are left
        ("train[:1]+val[1:]", ["train 0", "val 1"]),
        ("val[:1]+train[9:]+train[:1]", ["val 0", "train 9", "train 0"]),
        (" train [ 2 : 3 ] + val[:1] ", ["train 2", "val 0"]),
        ("train800val200[:1]", ["train800val200 0"]),
    ],
)
def test_parts_are_in_the_order_in_which_they_are_written(expression, names):
    assert list(of(train=10, val=2, train800val200=3).split(expression).names) == names


def test_a_plain_name_is_what_it_was():
    data = of(train800=3, val200=2, test=1)
    assert data.split("train") is data.splits["train800"]
    assert data.split("val") is data.splits["val200"]
    assert data.split("test") is data.splits["test"]


def test_aliases_hold_in_expressions():
    data = of(train800=3, val200=2, test=1)
    assert data.split("train+val").names == (*data.splits["train800"].names, *data.splits["val200"].names)
    assert data.has("train[:2]+val")
    assert not data.has("train[:4]")
    assert not data.has("train[:2]+dev2")


def test_a_list_whose_name_looks_like_an_expression_is_a_name():
    data = of(**{"train": 3, "val": 2, "train+val": 4, "test (old)": 1})
    assert len(data.split("train+val")) == 4
    assert len(data.split("test (old)")) == 1


def test_mixed_is_a_fixed_order_of_the_same_images_that_only_depends_on_the_names():
    data = of(train=100)
    mixed = data.split("mixed(train)")
    assert set(mixed.names) == set(data.split("train").names)
    assert mixed.names != data.split("train").names
    assert [f"train {label}" for label in mixed.labels] == list(mixed.names)
    turned = ImageData("mine", ("a",), {"train": data.splits["train"].only(reversed(range(100)))})
    assert turned.split("mixed(train)").names == mixed.names
    assert data.split("mixed(train[:50])").names == tuple(n for n in mixed.names if int(n.split()[1]) < 50)
    by_hand = sorted(data.split("train").names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert list(mixed.names) == by_hand


def test_the_two_ends_of_a_mixed_split_are_disjoint_and_together_all():
    data = of(train=101)
    train, val = data.split("mixed(train)[:90%]"), data.split("mixed(train)[90%:]")
    assert (len(train), len(val)) == (91, 10)
    assert {*train.names, *val.names} == set(data.split("train").names)
    assert data.split("mixed(train)[:90%]+mixed(train)[90%:]").names == data.split("mixed(train)").names


def test_rows_of_several_tables_keep_apart_and_are_found():
    data = tables(train=5, validation=4, test=3)
    both = data.split("train[:2]+val[1:3]")
    assert both.names == ("train: row 0", "train: row 1", "validation: row 1", "validation: row 2")
    assert both.labels == (0, 1, 1, 2)
    assert [both.content(i) for i in range(4)] == [
        b"train row 0",
        b"train row 1",
        b"validation row 1",
        b"validation row 2",
    ]
    assert both.locate(both.names[2]) == "row 1 of validation"
    again = pickle.loads(pickle.dumps(both))
    assert again.record() == both.record()
    assert data.split("train[:2]+validation[1:3]").record() == both.record()  # an alias changes nothing
    nested = data.split("mixed(train+val)+test[:1]")
    assert sorted(nested.content(i) for i in range(9)) == sorted(
        [*(b"train row %d" % i for i in range(5)), *(b"validation row %d" % i for i in range(4))]
    )
    assert nested.content(9) == b"test row 0"


def test_parts_of_one_table_are_called_as_before():
    assert tables(train=5, test=3).split("train[:1]+train[4:]").names == ("row 0", "row 4")


def test_the_fingerprint_is_that_of_the_images():
    data = tables(train=5, train800=5, test=3)
    assert data.split("train[:]").record() == data.split("train").record()
    assert data.split("train[1:][1:]").record() == data.split("train[2:]").record()
    assert data.split("train[:2]").record() != data.split("train[1:3]").record()
    assert data.split("mixed(train)").record() != data.split("train").record()


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        (
            "train[5]",
            r"cannot read 'train\[5\]' in the split 'train\[5\]': write names, slices and sums of splits, such as",
        ),
        ("train[:", r"cannot read 'train\[:'"),
        ("train[:5", r"cannot read 'train\[:5'"),
        ("train[:5.5]", r"cannot read"),
        ("train[:5%%]", r"cannot read"),
        ("train[a:b]", r"cannot read"),
        ("train[:1]x", r"cannot read"),
        ("[:5]", r"cannot read '\[:5\]'"),
        ("+", r"cannot read '' in the split '\+'"),
        ("train+", r"cannot read '' in the split 'train\+'"),
        ("train++val", r"cannot read ''"),
        ("mixed()", r"cannot read '' in the split 'mixed\(\)'"),
        ("mixed(train", r"cannot read 'mixed\(train'"),
        ("mixed(train))", r"cannot read"),
        ("mixed(train)(val)", r"cannot read"),
        ("shuffled(train)", r"cannot read 'shuffled\(train\)'"),
        ("tran", "mine has no split 'tran'; it has: train, val$"),
        ("tran[:5]", "mine has no split 'tran'; it has: train, val$"),
        ("train+tset", "mine has no split 'tset'; it has: train, val$"),
        ("", "mine has no split ''"),
        ("hidden[:5]", "mine: the split 'hidden' has no labels"),
        ("train[5:5]", r"mine: train\[5:5\] is empty: \[5:5\] of 10 images"),
        ("train[6:3]", r"mine: train\[6:3\] is empty"),
        ("train[10:]", r"mine: train\[10:\] is empty: \[10:\] of 10 images"),
        ("val[:1%]", r"mine: val\[:1%\] is empty: \[:1%\] of 2 images"),
        ("train[:800]", r"mine: train\[:800\] goes beyond the last image: 800 of 10 images"),
        ("train[-11:]", r"mine: train\[-11:\] goes beyond the last image: -11 of 10 images"),
        ("train[:150%]", r"mine: train\[:150%\] goes beyond the last image: 150% of 10 images"),
        ("train[5:][:6]", r"goes beyond the last image: 6 of 5 images"),
        ("train+train", "mine: train and train share 10 images, such as at train 0"),
        ("train[:6]+val+train[5:]", r"mine: train\[:6\] and train\[5:\] share an image, such as at train 5"),
        ("mixed(train)+train[:1]", r"mine: mixed\(train\) and train\[:1\] share an image, such as at train 0"),
        ("mixed(train+train[:1])", r"mine: train and train\[:1\] share an image"),
    ],
)
def test_what_is_wrong_with_an_expression_is_one_line(expression, error):
    data = of(train=10, val=2)
    data = ImageData(data.spec, data.classes, data.splits, unlabelled=("hidden",))
    assert not data.has(expression)
    with pytest.raises(ValueError, match=error) as caught:
        data.split(expression)
    assert "\n" not in str(caught.value)


def test_an_image_under_two_labels_is_still_the_same_image():
    data = of(train=3, more=3)
    data.splits["more"] = Split(("train 2",), (0,), str)
    with pytest.raises(ValueError, match="train and more share an image"):
        data.split("train+more")


def test_an_expression_can_be_read_before_there_is_data():
    (first, second) = parse_split("mixed(train[:9]+more)[:90%][2:] + val")
    assert (first.text, first.slices) == ("mixed(train[:9]+more)[:90%][2:]", ((None, "90%"), ("2", None)))
    assert [part.source for part in first.source] == ["train", "more"]
    assert (second.source, second.slices) == ("val", ())


@pytest.mark.realdata
def test_the_slices_of_a_real_set(real_data):
    data = open_data(str(real_data / "eurosat_vtab1k"))
    assert data.split("train+val").record() == data.split("train800val200").record()
    train, test = data.split("train"), data.split("mixed(test)[:10%]")
    assert data.split("train[:400]+train[400:]").record() == train.record()
    assert len(test) == 540
    assert test.image(0).size == (64, 64)
    with pytest.raises(
        ValueError, match=r"train800 and train800val200 share 800 images, such as .*images\.zip: images/"
    ):
        data.split("train800+train800val200")


# folds


@pytest.mark.parametrize("seed", ["", ", 1"])
@pytest.mark.parametrize("count", [2, 5])
def test_folds_part_a_split_evenly_and_of_each_class_evenly_and_the_others_are_the_rest(seed, count):
    data = open_data("digits")
    whole = data.split("train")
    folds = [data.split(f"fold(train, {k}/{count}{seed})") for k in range(1, count + 1)]
    assert sorted(name for fold in folds for name in fold.names) == sorted(whole.names)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for label in range(10):
        sizes = [fold.labels.count(label) for fold in folds]
        assert max(sizes) - min(sizes) <= 1
    others = data.split(f"all_but_fold(train, 1/{count}{seed})")
    assert (*others.names,) == tuple(name for name in whole.names if name not in set(folds[0].names))


def test_another_seed_makes_other_folds_and_a_fold_can_be_sliced_and_be_of_a_sum():
    data = open_data("digits")
    assert data.split("fold(train, 1/5)").names != data.split("fold(train, 1/5, 1)").names
    assert data.split("fold(train, 1/5, 0)").names == data.split("fold(train,1/5)").names
    assert len(data.split("fold(train+val, 1/2)[:10]")) == 10


@pytest.mark.parametrize("text", ["fold(train, 0/5)", "fold(train, 6/5)", "all_but_fold(train, 1/1)"])
def test_a_fold_that_is_none_says_how_folds_are_counted(text):
    with pytest.raises(ValueError, match=r"write folds as 1/5, 2/5, \.\.\., 5/5, two at least"):
        open_data("digits").split(text)
