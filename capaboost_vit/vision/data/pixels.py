"""From encoded bytes to upright RGB of 8 bits, by one rule for each of PIL's modes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from .tree import Tree

# raster formats only: PIL has plug-ins for others that start programs (EPS), or take almost any bytes for an image
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (  # PIL's of these formats
    *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"),
    *(".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
_OWN_RANGES = {"I": (0.0, 65535.0), "F": (0.0, 1.0)}  # by the mode's first letter, so I;16 too
_SAMPLES, _EXTRA_SAMPLES = 277, 338  # tags of TIFF

ValueRange = tuple[float, float]


def is_image(tree: Tree, name: str) -> bool:
    """Whether a file is taken for an image: by the ending of its name, or by its content if the name has none."""
    if name.lower().endswith(EXTENSIONS):
        return True
    if PurePosixPath(name).suffix:
        return False
    try:
        decode(tree.read(name)).close()
    except Exception:  # decoders raise whatever foreign bytes lead them to
        return False
    return True


def decode(stored: bytes | Image.Image) -> Image.Image:
    """The image of encoded bytes, its pixels not yet read; one that is decoded already is given back.

    Raises ValueError for bytes that hold no image, for a TIFF with bands that would be dropped, and for more than
    `PIL.Image.MAX_IMAGE_PIXELS` pixels (PIL itself only warns up to twice that).
    """
    if not stored:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(stored), formats=FORMATS) if isinstance(stored, bytes) else stored
    except UnidentifiedImageError:
        raise ValueError(
            f"this is no image in a format that is read here ({', '.join(FORMATS)}), its header is damaged, or it has "
            "bands that PIL cannot read"
        ) from None
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width} x {image.height} pixels are more than {limit:,}, PIL's limit against decompression bombs: "
            "make it smaller"
        )
    _refuse_bands(image)
    return image


def content_of(stored: bytes | Image.Image) -> bytes:
    """The encoded bytes of an image; mode, size and pixels where there are none."""
    if isinstance(stored, bytes):
        return stored
    with decode(stored) as image:
        return f"{image.mode} {image.width} {image.height}\n".encode() + image.tobytes()


def to_rgb(image: Image.Image, value_range: ValueRange | None = None) -> Image.Image:
    """Any image as RGB: upright by its EXIF tag, transparency on white, and values as levels from 0 to 255.

    Modes of 8 bits are taken as they are. Grey images of 16 bits or integers become `255 (v - low) / (high - low)`,
    rounded and clipped, from 0 to 65535, floats from 0 to 1, with NaN as `low`; never by what the one image holds, as
    brightness would be lost. Of colour with 16 bits PIL reads the upper 8.

    Args:
        value_range: low and high, for all grey images that have more than 8 bits.

    Raises:
        ValueError: without `value_range`, a value outside of the mode's own range; with another than (0, 65535),
            16-bit colour.
    """
    if value_range not in (None, (0, 65535)) and has_deep_colour(image):
        raise ValueError("PIL reads the upper 8 bits of 16-bit colour, whatever --value-range says: save it as 8 bits")
    own = own_range(image)
    image = ImageOps.exif_transpose(image)
    if own is not None:
        values = np.asarray(image, dtype=np.float64)
        low, high = own if value_range is None else value_range
        if value_range is None and (np.nanmin(values, initial=low) < low or np.nanmax(values, initial=high) > high):
            lowest, highest = np.nanmin(values), np.nanmax(values)
            raise ValueError(
                f"its values go from {lowest:g} to {highest:g}, {_read_as(own)}: say --value-range LOW HIGH in "
                "training, the same for the whole data set"
            )
        levels = (np.nan_to_num(values, nan=low) - low) * (255 / (high - low))
        image = Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def own_range(image: Image.Image) -> ValueRange | None:
    """The values that stand for black and white where nobody says others; None for modes of 8 bits."""
    return _OWN_RANGES.get(image.mode.partition(";")[0])


def has_deep_colour(image: Image.Image) -> bool:
    """Whether these are colours of 16 bits, of which PIL drops the lower 8; known only before the pixels are read."""
    return own_range(image) is None and any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


class Values(NamedTuple):
    """What an image holds: the kind of its numbers, the range that they stand for, the lowest and the highest one."""

    kind: str
    own: ValueRange
    low: float
    high: float

    def joined(self, other: Values) -> Values:
        """Those of both images, which are of one kind."""
        return self._replace(low=min(self.low, other.low), high=max(self.high, other.high))

    def advice(self) -> str | None:
        """What to do where the values leave their range or, with more than 8 bits, fill less than a quarter of it."""
        (low, high), quarter = self.own, (self.own[1] - self.own[0]) / 4
        if self.kind == "8 bit" or (low <= self.low and self.high <= high and self.high - self.low >= quarter):
            return None
        scale = f"{self.kind} images hold values from {self.low:g} to {self.high:g}, {_read_as(self.own)}"
        if "colour" in self.kind:
            return f"{scale}, of which PIL keeps the upper 8 bits: save them as 8 bits, or say --value-range 0 65535"
        return f"{scale}: say --value-range {self.low:g} {self.high:g}, or {low:g} {high:g} if that is meant"


def values_of(image: Image.Image) -> Values:
    """The values of an image whose pixels have not been read yet; NaN is none of them."""
    deep, own = has_deep_colour(image), own_range(image)
    if own is None:
        extremes = np.asarray(image.convert("RGB")) * (257.0 if deep else 1.0)
        kind, own = ("16 bit colour", (0.0, 65535.0)) if deep else ("8 bit", (0.0, 255.0))
    else:
        extremes = np.asarray(image, dtype=np.float64)
        kind = {"F": "float", "I": "integer"}.get(image.mode, "16 bit")
    low, high = np.nanmin(extremes, initial=np.inf), np.nanmax(extremes, initial=-np.inf)
    return Values(kind, own, float(low), float(high))


def _read_as(own: ValueRange) -> str:
    return f"read as {own[0]:g} to {own[1]:g}"


def checked_range(value_range: Sequence[float]) -> ValueRange:
    """Two finite numbers, the lower first. Raises ValueError for others."""
    numbers = tuple(map(float, value_range))
    if len(numbers) != 2 or not np.isfinite(numbers).all() or numbers[0] >= numbers[1]:
        raise ValueError(f"--value-range {list(value_range)}: give two numbers, the lower one first")
    return numbers[0], numbers[1]


def _refuse_bands(image: Image.Image) -> None:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bands, tags = len(image.getbands()), image.tag_v2
        unnamed = image.mode == "RGBA" and _EXTRA_SAMPLES not in tags  # PIL would take the fourth for transparency
        if image.mode != "P" and (tags.get(_SAMPLES, 1) > bands or unnamed):
            raise ValueError(
                f"this TIFF has {tags.get(_SAMPLES)} bands, of which {image.mode[:3]} would be read: choose three, or "
                "one, and save them as an image of their own"
            )
