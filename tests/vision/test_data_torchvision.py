"""torchvision's own classes read files in their real formats, made here; nothing is downloaded."""

from __future__ import annotations

import gzip
import inspect
import pickle
import struct

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from capaboost_vit.vision.data import open_data, torchvision_sets
from capaboost_vit.vision.data.torchvision_sets import default_root


def pixels(number, *shape):
    return np.random.default_rng(number).integers(0, 255, shape, dtype=np.uint8)


def make_mnist(root):
    """Four files with idx headers, in MNIST/raw; torchvision checks no checksum when they are there."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, count in (("train", 12), ("t10k", 7)):
        images = struct.pack(">IIII", 0x803, count, 28, 28) + pixels(count, count, 28, 28).tobytes()
        labels = struct.pack(">II", 0x801, count) + bytes(i % 10 for i in range(count))
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
        for name in ("images-idx3", "labels-idx1"):
            path = folder / f"{prefix}-{name}-ubyte"
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))


def save(path, number=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number, 6, 5, 3)).convert(mode).save(path)


def make_gtsrb(root):
    folder = root / "gtsrb"
    for i in range(4):
        save(folder / "GTSRB" / "Training" / f"0000{i % 2}" / f"{i}.ppm", i)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i in range(3):
        save(folder / "GTSRB" / "Final_Test" / "Images" / f"{i}.ppm", 10 + i)
        lines.append(f"{i}.ppm;5;6;0;0;5;6;{i % 2}")
    (folder / "GT-final_test.csv").write_text("\n".join(lines) + "\n")


def make_imagenette(root):
    for part in ("train", "val"):
        for number, wnid in enumerate(torchvision.datasets.Imagenette._WNID_TO_CLASS):
            save(root / "imagenette2" / part / wnid / f"{wnid}_{part}.JPEG", number, "L")


def make_country211(root):
    for part in ("train", "valid", "test"):
        for number, country in enumerate(("AD", "ZW")):
            save(root / "country211" / part / country / "1.png", number, "RGBA")


def make_eurosat(root):
    for number, name in enumerate(("Forest", "River")):
        save(root / "eurosat" / "2750" / name / f"{name}_1.jpg", number)


SETS = {  # name: (maker, splits with the arguments of torchvision's class)
    "MNIST": (make_mnist, {"train": {"train": True}, "test": {"train": False}}),
    "GTSRB": (make_gtsrb, {"train": {"split": "train"}, "test": {"split": "test"}}),
    "Imagenette": (make_imagenette, {"train": {"split": "train"}, "val": {"split": "val"}}),
    "Country211": (make_country211, {name: {"split": name} for name in ("train", "valid", "test")}),
    "EuroSAT": (make_eurosat, {"train": {}}),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("change", [str, str.lower, str.upper])
def test_a_set_has_the_images_and_labels_of_torchvision(tmp_path, name, change):
    make, parts = SETS[name]
    make(tmp_path)
    data = open_data(f"torchvision:{change(name)}", root=str(tmp_path))
    assert list(data.splits) == list(parts)
    for part, options in parts.items():
        oracle = getattr(torchvision.datasets, name)(str(tmp_path), **options)
        split = data.splits[part]
        assert split.labels == tuple(label for _, label in oracle)
        for i in range(len(oracle)):
            assert split.image(i).tobytes() == oracle[i][0].convert("RGB").tobytes()


def test_class_names_are_torchvisions_and_several_names_of_one_class_are_joined(tmp_path):
    make_imagenette(tmp_path)
    make_mnist(tmp_path)
    make_gtsrb(tmp_path)
    classes = open_data("torchvision:Imagenette", root=str(tmp_path)).classes
    assert classes[:2] == ("tench / Tinca tinca", "English springer / English springer spaniel")
    assert open_data("torchvision:MNIST", root=str(tmp_path)).classes[3] == "3 - three"
    assert open_data("torchvision:GTSRB", root=str(tmp_path)).classes == ("0", "1")  # it has no names


def test_files_are_read_by_our_own_loader_which_keeps_transparency_for_to_rgb(tmp_path):
    make_country211(tmp_path)
    Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(tmp_path / "country211" / "train" / "AD" / "1.png")
    assert (
        open_data("torchvision:country211", root=str(tmp_path)).split("train").image(0).getpixel((0, 0)) == (255,) * 3
    )


def test_a_broken_file_is_named_by_its_number_and_leaves_the_others(tmp_path):
    make_gtsrb(tmp_path)
    (tmp_path / "gtsrb" / "GTSRB" / "Training" / "00000" / "2.ppm").write_bytes(b"")
    split = open_data("torchvision:GTSRB", root=str(tmp_path)).split("train")
    assert split.image(0).size == (5, 6)
    with pytest.raises(ValueError, match=r"cannot read the image image 1 of torchvision's GTSRB train in .*2\.ppm"):
        split.image(1)


def test_a_set_survives_pickling_and_its_record_does_not_depend_on_the_root(tmp_path):
    make_mnist(tmp_path / "here")
    make_mnist(tmp_path / "there")
    first, second = (open_data("torchvision:MNIST", root=str(tmp_path / name)) for name in ("here", "there"))
    record = first.split("test").record()
    assert record == second.split("test").record()
    assert record == pickle.loads(pickle.dumps(first)).split("test").record()


@pytest.mark.parametrize(
    "name", ["CIFAR10", "MNIST", "EuroSAT", "Imagenette", "STL10", "USPS", "ImageNet", "Flowers102"]
)
def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"{name} \(train\) is not in .*--data-dir FOLDER.*--data-download"):
        open_data(f"torchvision:{name}", root=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_another_error_than_none(tmp_path):
    make_mnist(tmp_path)
    for path in (tmp_path / "MNIST" / "raw").iterdir():
        path.write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match=r"cannot read torchvision's MNIST \(train\) in "):
        open_data("torchvision:MNIST", root=str(tmp_path))


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(OSError, match=r"CIFAR10 cannot be had from the network .*: no route to host$"):
        open_data("torchvision:CIFAR10", root=str(tmp_path / "new"), download=True)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("torchvision:CIFAR11", r"\(did you mean 'torchvision:CIFAR10'\?\); it has: CIFAR10, "),
        ("torchvision:minst", r"did you mean 'torchvision:MNIST'\?"),
        ("torchvision:CocoDetection", r"no such set of labelled images"),
        ("torchvision:FakeData", r"no such set of labelled images"),
        ("torchvision:", r"no such set of labelled images; it has: "),
    ],
)
def test_an_unknown_set_is_answered_with_the_nearest(spec, error):
    with pytest.raises(ValueError, match=error):
        open_data(spec)


def test_the_default_root_is_below_the_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(default_root()) == "/somewhere/capaboost_vit/torchvision"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(default_root()) == "/home/me/.cache/capaboost_vit/torchvision"


def test_the_table_of_sets_is_that_of_the_installed_torchvision():
    for name, parts in torchvision_sets._SETS.items():
        takes = inspect.signature(getattr(torchvision.datasets, name)).parameters
        assert ("train" in takes or "split" in takes) == (parts != ("train",)), name
        assert "split" in takes or set(parts) <= {"train", "test"}, name  # a flag has no third part
        required = [p for p in takes.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        assert [p.name for p in required] == ["root"], name
