"""A picture with some images of each class, to look at before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...io.atomic import replacing
from .image_data import ImageData
from .report import Pair, images
from .split import Split

_CLASSES = _PAIRS = 20
_THUMB, _GAP, _MARGIN = 104, 6, 20
_TITLE, _FOOT = 64, 34
_INK, _FAINT, _PAPER, _EMPTY, _RED = "#1a1a1a", "#6b6b6b", "#ffffff", "#eeeeee", "#d62728"


def draw_contact_sheet(
    data: ImageData,
    path: str | Path,
    *,
    columns: int = 8,
    seed: int = 0,
    split: str | None = None,
    pairs: Sequence[Pair] = (),
) -> Path:
    """Writes a PNG with up to `columns` images of each of the first 20 classes, drawn at random; returns the path.

    An image that cannot be read is a red cross. Raises ValueError for fewer than one column, or an unknown split.

    Args:
        split: which one; None takes train, or the first one there is.
        pairs: images that look alike; the first 20 are drawn below the classes, side by side.
    """
    if columns < 1:
        raise ValueError(f"a contact sheet needs a column at least, got {columns}")
    name = split or ("train" if data.has("train") else next(iter(data.splits)))
    part = data.split(name)
    shown = data.classes[:_CLASSES]
    left_out = len(data.classes) - len(shown)
    large, bold, small = (ImageFont.load_default(size) for size in (24, 17, 14))
    names = int(min(max(90, *map(bold.getlength, shown)), 230)) + 2 * _GAP
    width = 2 * _MARGIN + names + columns * (_THUMB + _GAP) - _GAP
    end = _MARGIN + _TITLE + len(shown) * (_THUMB + _GAP) - _GAP + (_FOOT if left_out else 0)
    height = end + _MARGIN + (_FOOT + len(pairs[:_PAIRS]) * (_THUMB + _GAP) if pairs else 0)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    title = f"{Path(data.spec).name or data.spec}: {name}"
    draw.text((_MARGIN, _MARGIN), _fit(title, large, width - 2 * _MARGIN), _INK, large)
    line = f"{len(part):,} images, {len(data.classes)} classes; drawn at random with seed {seed}"
    draw.text((_MARGIN, _MARGIN + 32), _fit(line, small, width - 2 * _MARGIN), _FAINT, small)
    for label, class_name in enumerate(shown):
        top = _MARGIN + _TITLE + label * (_THUMB + _GAP)
        indices = np.flatnonzero(np.asarray(part.labels) == label)
        draw.text((_MARGIN, top + _THUMB // 2 - 20), _fit(class_name, bold, names - 2 * _GAP), _INK, bold)
        draw.text((_MARGIN, top + _THUMB // 2 + 4), images(len(indices)), _FAINT, small)
        drawn = np.random.default_rng([seed, label]).permutation(indices)[:columns]
        for column, index in enumerate(drawn.tolist()):
            _place(sheet, draw, part, int(index), (_MARGIN + names + column * (_THUMB + _GAP), top))
    if left_out:
        draw.text((_MARGIN, end - 16), f"and {left_out} more classes", _FAINT, small)
    if pairs:
        draw.text((_MARGIN, end + _FOOT - 22), f"Images that look alike: {len(pairs):,}", _INK, bold)
    for number, pair in enumerate(pairs[:_PAIRS]):
        top = end + _FOOT + number * (_THUMB + _GAP)
        for column, (name, index) in enumerate(pair.places):
            part, left = data.splits[name], _MARGIN + column * (_THUMB + _GAP)
            _place(sheet, draw, part, index, (left, top))
            line = f"{name}, {data.classes[part.labels[index]]}: {pair.where[column]}"
            room = width - 2 * _MARGIN - 2 * (_THUMB + _GAP)
            draw.text((_MARGIN + 2 * (_THUMB + _GAP), top + 30 + 24 * column), _fit(line, small, room), _FAINT, small)
    with replacing(path) as partial:
        sheet.save(partial, "png")
    return Path(path)


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, part: Split, index: int, corner: tuple[int, int]) -> None:
    """One image, whole, in the middle of its square."""
    x, y = corner
    draw.rectangle((x, y, x + _THUMB - 1, y + _THUMB - 1), _EMPTY)
    try:
        image = part.image(index)
    except ValueError:
        near, far = _THUMB // 4, _THUMB - _THUMB // 4
        draw.line((x + near, y + near, x + far, y + far), _RED, 6)
        draw.line((x + near, y + far, x + far, y + near), _RED, 6)
        return
    scale = _THUMB / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    kind = Image.Resampling.NEAREST if scale > 4 else Image.Resampling.LANCZOS  # few pixels are shown as they are
    image = image.resize((size[0], size[1]), kind)
    sheet.paste(image, (x + (_THUMB - size[0]) // 2, y + (_THUMB - size[1]) // 2))


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its end cut off where it is too wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
