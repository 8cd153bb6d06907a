"""A split: names and labels of its images, and how to read the i-th, from encoded bytes to upright RGB."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .tree import Tree

# raster formats only: PIL has plug-ins for others that start programs (EPS), or take almost any bytes for an image
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (  # PIL's of these formats
    *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"),
    *(".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
_HASHED_BYTES = 1 << 30


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Args:
        names: one per image; they do not depend on where the data lies.
        labels: from 0, one per image.
        open: from a name to encoded bytes, or to a PIL image; it must survive pickling, for loader processes.
        locate: from a name to the words by which a person finds the image, such as its full path.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    open: Callable[[str], bytes | Image.Image] = field(repr=False)
    locate: Callable[[str], str] = field(default=str, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """The image as RGB, upright. Raises ValueError that names the file if it cannot be read."""
        with self.naming(index), decode(self.open(self.names[index])) as image:
            return to_rgb(image)

    def content(self, index: int) -> bytes:
        """The `content_of` the image as it is stored. Raises ValueError that names the file."""
        with self.naming(index):
            return content_of(self.open(self.names[index]))

    @contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Turns any exception of the block into a ValueError that names the file."""
        try:
            yield
        except Exception as error:  # decoders raise whatever the damaged bytes lead them to
            reason = str(error) or type(error).__name__
            raise ValueError(f"cannot read the image {self.locate(self.names[index])}: {reason}") from error

    def record(self) -> dict[str, int | str]:
        """The fingerprint that is stored with a result.

        `images`: their number; `sha256`: over all names, all labels, and the contents in order until a GiB has been
        read; `hashed_images`: how many contents went in.
        """
        digest = hashlib.sha256()
        for name, label in zip(self.names, self.labels, strict=True):
            digest.update(f"{name}\0{label}\n".encode("utf-8", "surrogateescape"))
        hashed, read = 0, 0
        while hashed < len(self) and read < _HASHED_BYTES:
            content = self.content(hashed)
            digest.update(f"{len(content)}\n".encode())
            digest.update(content)
            hashed, read = hashed + 1, read + len(content)
        return {"images": len(self), "sha256": digest.hexdigest(), "hashed_images": hashed}

    def only(self, indices: Iterable[int]) -> Split:
        """Some images of the split, in the order of the indices."""
        kept = tuple(indices)
        return replace(self, names=tuple(self.names[i] for i in kept), labels=tuple(self.labels[i] for i in kept))


def few_shot(split: Split, shots: int, *, seed: int, classes: Sequence[str]) -> Split:
    """`shots` images of each class: those with the lowest SHA-256 of (seed, name), in the order of the split.

    So the draw depends neither on the order of the images nor on any generator, and with the same seed fewer shots are
    a part of more.

    Args:
        classes: the names of all classes, in the order of the labels.

    Raises:
        ValueError: a class has fewer images.
    """
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(split.labels):
        by_label[label].append(index)
    drawn: list[int] = []
    for label, name in enumerate(classes):
        indices = by_label[label]
        if len(indices) < shots:
            few = [classes[i] for i in range(len(classes)) if len(by_label[i]) < shots]
            others = f", and {len(few) - 1} more have too few" if len(few) > 1 else ""
            raise ValueError(f"--shots {shots}: class {name!r} has {len(indices)} training images{others}")
        drawn += sorted(indices, key=lambda i: (name_digest(split.names[i], "few-shot", seed), i))[:shots]
    return split.only(sorted(drawn))


def name_digest(name: str, *key: str | int) -> bytes:
    """The SHA-256 of `key:key:name`: sorted by it, names are mixed, for each key in another way."""
    return hashlib.sha256(":".join([*map(str, key), name]).encode("utf-8", "surrogateescape")).digest()


def content_of(stored: bytes | Image.Image) -> bytes:
    """The encoded bytes of an image; mode, size and pixels where there are none."""
    if isinstance(stored, bytes):
        return stored
    with decode(stored) as image:
        return f"{image.mode} {image.width} {image.height}\n".encode() + image.tobytes()


def decode(stored: bytes | Image.Image) -> Image.Image:
    """The image of encoded bytes, its pixels not yet read; one that is decoded already is given back.

    Raises ValueError for bytes that hold no image, and for more than `PIL.Image.MAX_IMAGE_PIXELS` pixels (PIL itself
    only warns up to twice that).
    """
    if not stored:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(stored), formats=FORMATS) if isinstance(stored, bytes) else stored
    except UnidentifiedImageError:
        raise ValueError(
            f"this is no image in a format that is read here ({', '.join(FORMATS)}), or its header is damaged"
        ) from None
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width} x {image.height} pixels are more than {limit:,}, PIL's limit against decompression bombs: "
            "make it smaller"
        )
    return image


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


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as RGB: upright by its EXIF tag, 16-bit scaled to 8, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
        image = Image.fromarray((values * (255.0 / top)).clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
