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
THUMB, GAP, MARGIN = 104, 6, 20
_TITLE, _FOOT = 64, 34
INK, FAINT, PAPER, EMPTY, RED = "#1a1a1a", "#6b6b6b", "#ffffff", "#eeeeee", "#d62728"


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
    if data.task == "regression":
        raise ValueError(f"a contact sheet has a row for each class, and {data.spec} has numbers: leave --sheet out")
    name = split or ("train" if data.has("train") else next(iter(data.splits)))
    part = data.split(name)
    shown = data.classes[:_CLASSES]
    left_out = len(data.classes) - len(shown)
    large, bold, small = (ImageFont.load_default(size) for size in (24, 17, 14))
    names = int(min(max(90, *map(bold.getlength, shown)), 230)) + 2 * GAP
    width = 2 * MARGIN + names + columns * (THUMB + GAP) - GAP
    end = MARGIN + _TITLE + len(shown) * (THUMB + GAP) - GAP + (_FOOT if left_out else 0)
    height = end + MARGIN + (_FOOT + len(pairs[:_PAIRS]) * (THUMB + GAP) if pairs else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    title = f"{Path(data.spec).name or data.spec}: {name}"
    draw.text((MARGIN, MARGIN), fit(title, large, width - 2 * MARGIN), INK, large)
    line = f"{len(part):,} images, {len(data.classes)} classes; drawn at random with seed {seed}"
    draw.text((MARGIN, MARGIN + 32), fit(line, small, width - 2 * MARGIN), FAINT, small)
    for label, class_name in enumerate(shown):
        top = MARGIN + _TITLE + label * (THUMB + GAP)
        tagged = [label in tags for tags in part.labels] if data.task == "multi-label" else np.equal(part.labels, label)
        indices = np.flatnonzero(tagged)
        draw.text((MARGIN, top + THUMB // 2 - 20), fit(class_name, bold, names - 2 * GAP), INK, bold)
        draw.text((MARGIN, top + THUMB // 2 + 4), images(len(indices)), FAINT, small)
        drawn = np.random.default_rng([seed, label]).permutation(indices)[:columns]
        for column, index in enumerate(drawn.tolist()):
            _place(sheet, draw, part, int(index), (MARGIN + names + column * (THUMB + GAP), top))
    if left_out:
        draw.text((MARGIN, end - 16), f"and {left_out} more classes", FAINT, small)
    if pairs:
        draw.text((MARGIN, end + _FOOT - 22), f"Images that look alike: {len(pairs):,}", INK, bold)
    for number, pair in enumerate(pairs[:_PAIRS]):
        top = end + _FOOT + number * (THUMB + GAP)
        for column, (name, index) in enumerate(pair.places):
            part, left = data.splits[name], MARGIN + column * (THUMB + GAP)
            _place(sheet, draw, part, index, (left, top))
            line = f"{name}, {data.label_text(part.labels[index])}: {pair.where[column]}"
            room = width - 2 * MARGIN - 2 * (THUMB + GAP)
            draw.text((MARGIN + 2 * (THUMB + GAP), top + 30 + 24 * column), fit(line, small, room), FAINT, small)
    with replacing(path) as partial:
        sheet.save(partial, "png")
    return Path(path)


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, part: Split, index: int, corner: tuple[int, int]) -> None:
    """One image, whole, in the middle of its square."""
    x, y = corner
    draw.rectangle((x, y, x + THUMB - 1, y + THUMB - 1), EMPTY)
    try:
        image = part.image(index)
    except ValueError:
        near, far = THUMB // 4, THUMB - THUMB // 4
        draw.line((x + near, y + near, x + far, y + far), RED, 6)
        draw.line((x + near, y + far, x + far, y + near), RED, 6)
        return
    scale = THUMB / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    kind = Image.Resampling.NEAREST if scale > 4 else Image.Resampling.LANCZOS  # few pixels are shown as they are
    image = image.resize((size[0], size[1]), kind)
    sheet.paste(image, (x + (THUMB - size[0]) // 2, y + (THUMB - size[1]) // 2))


def fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its end cut off where it is too wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
