"""From encoded bytes to an upright RGB image."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def decode(content: bytes) -> Image.Image:
    """The image of encoded bytes, its pixels not yet read. Raises ValueError if they hold no image."""
    if not content:
        raise ValueError("the file is empty")
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise ValueError("this is no image in a format that PIL knows, or its header is damaged") from None


def refuse_bomb(image: Image.Image) -> None:
    """Raises ValueError for more than `PIL.Image.MAX_IMAGE_PIXELS` pixels (PIL itself only warns up to twice that)."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width} x {image.height} pixels are more than {limit:,}, PIL's limit against decompression bombs: "
            "make it smaller"
        )


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
