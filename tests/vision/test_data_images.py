"""Every kind of image becomes upright RGB, what cannot be read is named, and a fingerprint tells data sets apart."""

from __future__ import annotations

import io
import pickle
import random
import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from capaboost_vit.vision.data import Split, open_data, refuse_narrow, to_rgb, unreadable
from capaboost_vit.vision.data import split as split_module
from capaboost_vit.vision.data.tree import Folder

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


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


def half_transparent_palette():
    image = palette(transparent=False)
    image.info["transparency"] = b"\xff\x33"
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
    "integers": (lambda: encoded(two_by_one("I", 771, 65535), "tiff"), ((3, 3, 3), WHITE)),
    "animated gif": (
        lambda: encoded(
            two_by_one("RGB", RED, BLUE), "gif", save_all=True, append_images=[two_by_one("RGB", WHITE, WHITE)]
        ),
        (RED, BLUE),
    ),
    "palette with half transparency": (lambda: encoded(half_transparent_palette(), "png"), (RED, (204, 204, 255))),
    "rgb with a transparent colour": (
        lambda: encoded(two_by_one("RGB", RED, BLUE), "png", transparency=BLUE),
        (RED, WHITE),
    ),
    "float": (lambda: encoded(two_by_one("F", 0.2, float("nan")), "tiff"), ((51, 51, 51), (0, 0, 0))),
    "webp": (lambda: encoded(two_by_one("RGB", RED, BLUE), "webp", lossless=True), (RED, BLUE)),
}


def split_of(tmp_path, content, name="picture.png"):
    (tmp_path / name).write_bytes(content)
    return folder_split(tmp_path, name)


def folder_split(folder, *names):
    return Split(names, tuple(range(len(names))), Folder(folder).read, Folder(folder).locate)


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


@pytest.mark.parametrize(
    ("mode", "values", "value_range"),
    [("I;16", (0, 4095), (0, 4095)), ("I;16", (5, 300), (0, 4095)), ("I", (-1000, 400), (-1000, 400)),
     ("F", (-1.0, 1.0), (-1, 1)), ("F", (0.1, 9.0), (0, 1))],
)  # fmt: skip
def test_one_range_of_values_scales_all_images(tmp_path, mode, values, value_range):
    split = replace(split_of(tmp_path, encoded(two_by_one(mode, *values), "tiff")), value_range=value_range)
    low, high = value_range
    expected = (np.clip((np.array(values) - low) / (high - low), 0, 1) * 255).round()
    assert np.array_equal(np.asarray(split.image(0))[0, :, 0], expected)
    assert pickle.loads(pickle.dumps(split)).image(0).tobytes() == split.image(0).tobytes()


@pytest.mark.parametrize(
    ("mode", "values"), [("F", (-1.0, 1.0)), ("F", (0.0, 255.0)), ("I", (-5, 7)), ("I", (0, 70000))]
)
def test_values_beyond_the_range_of_their_mode_ask_for_one(tmp_path, mode, values):
    split = split_of(tmp_path, encoded(two_by_one(mode, *values), "tiff"))
    with pytest.raises(ValueError, match=r"picture\.png: its values go from .*: say --value-range LOW HIGH"):
        split.image(0)


@pytest.mark.parametrize(
    ("mode", "values", "advice"),
    [
        (
            "I;16",
            (0, 4095),
            "16 bit images hold values from 0 to 4095, read as 0 to 65535: say --value-range 0 4095, or",
        ),
        ("I", (0, 300), "integer images hold values from 0 to 300"),
        ("F", (-1.0, 1.0), "float images hold values from -1 to 1, read as 0 to 1: say --value-range -1 1, or 0 1"),
        ("I;16", (0, 40000), None),
        ("F", (0.1, 0.9), None),
        ("L", (3, 4), None),
    ],
)
def test_a_set_that_fills_little_of_its_range_asks_for_one(tmp_path, mode, values, advice):
    split = split_of(tmp_path, encoded(two_by_one(mode, *values), "tiff"))
    if advice is None:
        refuse_narrow(split)
    else:
        with pytest.raises(ValueError, match=re.escape(advice)):
            refuse_narrow(split)
    refuse_narrow(replace(split, value_range=(0, 1)))


def test_16_bit_colour_of_few_values_is_told_that_pil_cuts_it(tmp_path):
    png = _png16((100, 200, 4095))
    with pytest.raises(ValueError, match=r"16 bit colour images hold .* PIL keeps the upper 8 bits"):
        refuse_narrow(split_of(tmp_path, png))
    assert split_of(tmp_path, _png16((65535, 0, 256))).image(0).getpixel((0, 0)) == (255, 0, 1)
    with pytest.raises(ValueError, match="upper 8 bits of 16-bit colour"):
        replace(split_of(tmp_path, png), value_range=(0, 4095)).image(0)


def _png16(pixel):
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + struct.pack(">3H", *pixel))),
        (b"IEND", b""),
    ]
    packed = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("extra", [None, 0])
def test_a_tiff_whose_fourth_band_is_no_transparency_is_refused(tmp_path, extra):
    content = encoded(two_by_one("RGBA", (1, 2, 3, 4), (5, 6, 7, 8)), "tiff")
    entry = struct.pack("<HHI", 338, 3, 1)  # ExtraSamples: 2 is transparency
    assert content.count(entry) == 1
    start = content.index(entry)
    changed = struct.pack("<HHIHH", 338 if extra is not None else 337, 3, 1, 0, 0)
    with pytest.raises(ValueError, match="4 bands, of which RGB would be read: choose three"):
        split_of(tmp_path, content[:start] + changed + content[start + 12 :]).image(0)
    assert split_of(tmp_path, content).image(0).mode == "RGB"


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
    split = folder_split(tmp_path, "gone.png")
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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_pixels_than_pils_limit_are_an_error_not_a_warning(tmp_path, monkeypatch):
    split = split_of(tmp_path, noise("png"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 24)
    assert split.image(0).size == (24, 24)
    for limit in (24 * 24 - 1, 24 * 12, 24 * 12 - 1, 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=r"cannot read the image .*picture\.png: .*pixels"):
            split.image(0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert split.image(0).size == (24, 24)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (
            b"text",
            "this is no image in a format that is read here (AVIF, BMP, DIB, GIF, JPEG, JPEG2000, PNG, PPM, TIFF, "
            "WEBP), its header is damaged, or it has bands that PIL cannot read",
        ),
    ],
)
def test_the_reason_is_in_plain_words(tmp_path, content, reason):
    text = f"cannot read the image {tmp_path}/a b.png: {reason}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        split_of(tmp_path, content, "a b.png").image(0)


def test_an_error_without_words_is_named_by_its_kind():
    def out_of_memory(name):
        raise MemoryError

    with pytest.raises(ValueError, match="cannot read the image big: MemoryError"):
        Split(("big",), (0,), out_of_memory).image(0)


# the images that cannot be read


@pytest.fixture
def mixed(tmp_path):
    """Good images, and each broken kind between them."""
    names = []
    for kind, make in BROKEN.items():
        (tmp_path / f"good {kind}.png").write_bytes(noise("png"))
        (tmp_path / f"{kind}.png").write_bytes(make())
        names += [f"good {kind}.png", f"{kind}.png"]
    return folder_split(tmp_path, *names)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_unreadable_names_exactly_the_broken_ones_in_order(mixed, workers):
    reasons = unreadable(mixed, workers=workers)
    assert list(reasons) == list(range(1, len(mixed), 2))
    for index, reason in reasons.items():
        assert reason.startswith(f"cannot read the image {mixed.locate(mixed.names[index])}: ")


def test_a_split_without_the_unreadable_ones_can_be_read_whole(mixed):
    reasons = unreadable(mixed)
    left = mixed.only(index for index in range(len(mixed)) if index not in reasons)
    assert left.names == mixed.names[::2]
    assert left.labels == mixed.labels[::2]
    assert [left.image(i).size for i in range(len(left))] == [(24, 24)] * len(left)
    assert unreadable(left) == {}
    assert len(mixed) == 2 * len(BROKEN)  # the split itself is as it was


def test_an_image_whose_later_frames_are_damaged_is_readable_as_training_reads_the_first_one(tmp_path):
    whole = io.BytesIO()
    frames = [Image.fromarray(pixels) for pixels in np.random.default_rng(0).integers(0, 255, (3, 20, 20, 3), np.uint8)]
    frames[0].save(whole, "GIF", save_all=True, append_images=frames[1:])
    cut = whole.getvalue()[: len(whole.getvalue()) // 2]
    with pytest.raises(IndexError):
        _ = Image.open(io.BytesIO(cut)).is_animated
    (tmp_path / "cut.gif").write_bytes(cut)
    split = folder_split(tmp_path, "cut.gif")
    assert split.image(0).size == (20, 20)
    assert unreadable(split) == {}


# contents and fingerprints


class Stored:
    """Reads from a dict, and counts."""

    def __init__(self, contents):
        self.contents, self.read = contents, []

    def __call__(self, name):
        self.read.append(name)
        return self.contents[name]


def test_content_is_the_encoded_bytes_or_mode_size_and_pixels(tmp_path):
    assert split_of(tmp_path, noise("jpeg")).content(0) == noise("jpeg")
    assert split_of(tmp_path, b"no image").content(0) == b"no image"
    image = two_by_one("L", 7, 200)
    assert Split(("x",), (0,), lambda name: image).content(0) == b"L 2 1\n\x07\xc8"
    with pytest.raises(ValueError, match=r"cannot read the image .*gone\.png"):
        folder_split(tmp_path, "gone.png").content(0)


def test_a_record_changes_with_names_labels_contents_and_order():
    contents = {"a": b"1", "b": b"22", "c": b"22", "d": b"2"}

    def record(names, labels, contents=contents):
        return Split(names, labels, Stored(contents)).record()

    one = record(("a", "b"), (0, 1))
    assert one == record(("a", "b"), (0, 1))
    others = [
        record(("a", "c"), (0, 1)),
        record(("a", "b"), (0, 2)),
        record(("b", "a"), (1, 0)),
        record(("a", "b"), (0, 1), {"a": b"1", "b": b"23"}),
        record(("a", "b"), (0, 1), {"a": b"12", "b": b"2"}),
        record(("a",), (0,)),
        record((), ()),
    ]
    assert len({other["sha256"] for other in [one, *others]}) == 8
    assert one["images"] == one["hashed_images"] == 2


def test_contents_are_read_up_to_the_limit_and_names_beyond_it_count(monkeypatch):
    monkeypatch.setattr(split_module, "_HASHED_BYTES", 25)
    names = tuple("abcdef")
    stored = Stored(dict.fromkeys(names, b"0123456789"))
    record = Split(names, (0,) * 6, stored).record()
    assert (record["images"], record["hashed_images"]) == (6, 3)
    assert stored.read == ["a", "b", "c"]
    assert record != Split((*names[:5], "F"), (0,) * 6, stored).record()
    assert record != Split(names, (0,) * 5 + (1,), stored).record()


@pytest.mark.parametrize("spec", ["digits", "digits:3-4"])
def test_a_split_survives_pickling(spec):
    for split in open_data(spec).splits.values():
        again = pickle.loads(pickle.dumps(split))
        assert again.record() == split.record()
        assert again.image(3).tobytes() == split.image(3).tobytes()
