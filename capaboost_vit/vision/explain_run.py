"""`capaboost explain`: pictures beside what a finished run's answers to them rest on; its worst mistakes by default."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..io.atomic import replacing, write_text
from ..io.json import read_object
from ..training.distributed import pick_device
from ..training.saved import ModelSource, open_source
from .build import build_transform
from .data import Split, open_configured
from .data.sheet import FAINT, GAP, INK, MARGIN, PAPER, fit
from .data.tree import Folder
from .evaluate import outputs_on
from .explain import explain
from .loader import Normalise
from .mistakes import Question, answer_lines, worst_outputs
from .predict import image_files
from .saved import Saved, open_saved, task_of

_BATCH = 8
_SIDE = 150  # pixels of a picture of the sheet
_COLUMNS = 4
_THUMBNAIL = 96  # pixels of a picture of the page
_TITLE, _FOOT, _LINES, _LINE = 70, 50, 3, 19
# from 0 to 1, of matplotlib's inferno
_COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=np.float32)


@dataclass(frozen=True)
class _Explained:
    """A picture as the model sees it, the same with its map over it, and three lines: text, and the colour of it."""

    picture: Image.Image
    overlay: Image.Image
    lines: tuple[tuple[str, str], ...]


def explain_mistakes(run: str | Path, *, initial_checkpoint: str | None = None, device: str | None = None) -> Path:
    """The worst mistakes of a run on its test split, with what the answers rest on: mistakes.png and explanations.json.

    The pictures are read again from the data set, whose names must still be those of predictions.json. Of tags and
    numbers the mistakes are those of one more pass over the split (`worst_outputs`), and there is mistakes.png alone.

    Args:
        run: folder of a finished run. initial_checkpoint: see `open_saved`.

    Raises:
        FileNotFoundError, ValueError: no run on images, no mistakes, no data, or data that have changed.
    """
    folder = Path(run)
    source = open_source(folder)
    if source.is_text:
        raise ValueError(f"{run} is of a model on texts: explain is for models on images")
    target = pick_device(device)
    if task_of(source) != "classification" and source.config:
        return _explain_outputs(folder, source, initial_checkpoint, target)
    path = folder / "predictions.json"
    if not path.is_file() or not source.config:
        raise FileNotFoundError(f"{folder} has no predictions.json of a test split: name the pictures to explain")
    content = read_object(path)
    worst, classes = content.get("worst"), content.get("classes")
    if not worst or not classes:
        raise ValueError(f"{folder} has no wrong answer on its test split: name the pictures to explain")
    config = source.config
    split = open_configured({**config, "data_download": False}).split(config["test_split"])
    for row in worst:
        stored = split.names[row["place"]] if row["place"] < len(split.names) else "not there"
        if row["name"] not in (None, stored):
            raise ValueError(f"{config['data']} has changed: image {row['place']} is {stored}, it was {row['name']}")
    questions = [Question(row["place"], str(classes[row["label"]])) for row in worst]
    saved = open_saved(source, initial_checkpoint=initial_checkpoint)
    rows, shown = _explained(saved, split, questions, target)
    pictures = {str(asked.place): _jpeg(row.overlay) for asked, row in zip(questions, rows, strict=True)}
    text = json.dumps({"shown": shown, "pictures": pictures}, indent=0)
    write_text(folder / "explanations.json", f"{text}\n")
    title = f"{folder.resolve().name}: the worst mistakes on {config['test_split']}"
    return _draw(rows, folder / "mistakes.png", title, shown)


def explain_pictures(
    model: str | Path,
    pictures: Sequence[str | Path],
    output: str | Path,
    *,
    initial_checkpoint: str | None = None,
    device: str | None = None,
) -> Path:
    """What a model's answers to pictures rest on, as a PNG.

    Args:
        model: a run folder, an adapter file, or a folder in timm's hub format.
        pictures: files, and folders with pictures.

    Raises:
        FileNotFoundError, ValueError: no such model or picture, or one that cannot be read.
    """
    files = image_files(pictures, lambda line: None)
    tree = Folder(Path())
    split = Split(tuple(map(str, files)), (0,) * len(files), tree.read, tree.locate, None)
    questions = [Question(place) for place in range(len(files))]
    saved = open_saved(Path(model), initial_checkpoint=initial_checkpoint)
    rows, shown = _explained(saved, split, questions, pick_device(device))
    return _draw(rows, Path(output), f"What {Path(model).resolve().name} looks at", shown)


def _explain_outputs(folder: Path, source: ModelSource, initial_checkpoint: str | None, device: torch.device) -> Path:
    """mistakes.png of a run on tags or numbers. Raises as `explain_mistakes` does."""
    saved = open_saved(source, initial_checkpoint=initial_checkpoint)
    config = source.config
    images = open_configured({**config, "data_download": False, "task": saved.task})
    split = images.split(config["test_split"])
    found = outputs_on(saved, images, split, tta="none", batch_size=64, device=device, short_cuts=False)
    questions = worst_outputs(saved, *found)
    if not questions:
        raise ValueError(f"{folder} has no wrong answer on its test split: name the pictures to explain")
    rows, shown = _explained(saved, split, questions, device)
    what = "largest errors" if saved.task == "regression" else "worst mistakes"
    return _draw(rows, folder / "mistakes.png", f"{folder.resolve().name}: the {what} on {config['test_split']}", shown)


def _explained(
    saved: Saved, split: Split, questions: Sequence[Question], device: torch.device
) -> tuple[list[_Explained], str]:
    """The image of each question, and what the maps show."""
    model: Any = saved.model.to(device)
    transform, prepare = build_transform(saved.input), Normalise(saved.input, device)
    names = saved.classes or tuple(map(str, range(model.num_classes)))
    rows, shown = [], ""
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        pixels = torch.stack([torch.as_tensor(transform(split.image(asked.place))) for asked in batch])
        inputs = prepare((pixels, torch.zeros(len(batch))))[0]
        asked_for = [asked.output for asked in batch]
        found = explain(model, inputs, outputs=asked_for, task=saved.task, temperature=saved.temperature)
        shown = found.shown
        for asked, image, answers, heat in zip(batch, pixels, found.answers.cpu(), found.maps.cpu(), strict=True):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            lines = answer_lines(saved, asked, answers, names, split.names[asked.place])
            rows.append(_Explained(_large(picture), _overlay(picture, heat), lines))
    return rows, shown


def _large(picture: Image.Image) -> Image.Image:
    """As large as it goes into a square of the sheet; few pixels stay pixels."""
    scale = _SIDE / max(picture.size)
    kind = Image.Resampling.NEAREST if scale > 4 else Image.Resampling.LANCZOS
    return picture.resize((max(1, round(scale * picture.width)), max(1, round(scale * picture.height))), kind)


def _overlay(picture: Image.Image, heat: Tensor) -> Image.Image:
    """The picture in grey with the map over it: patches as they are, without an edge that the model does not know."""
    grey = np.asarray(_large(picture).convert("L"), dtype=np.float32)[..., None]
    levels = Image.fromarray(heat.float().numpy()).resize(grey.shape[1::-1], Image.Resampling.NEAREST)
    place = np.asarray(levels)[..., None] * (len(_COLOURS) - 1)
    low = np.minimum(place[..., 0].astype(int), len(_COLOURS) - 2)
    colour = _COLOURS[low] + (place - low[..., None]) * (_COLOURS[low + 1] - _COLOURS[low])
    mixed = 0.45 * grey + 0.55 * colour
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def _draw(rows: Sequence[_Explained], path: Path, title: str, shown: str) -> Path:
    """A PNG in the style of the contact sheet: each picture beside its map, its lines below."""
    large, small = (ImageFont.load_default(size) for size in (24, 14))
    columns = min(_COLUMNS, len(rows))
    cell, high = 2 * _SIDE + GAP + 2 * MARGIN, _SIDE + _LINES * _LINE + GAP + MARGIN
    width = max(2 * MARGIN + columns * cell - 2 * MARGIN, 2 * MARGIN + round(large.getlength(title)), 700)
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (width, MARGIN + _TITLE + lines * high + _FOOT), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, large)
    draw.text((MARGIN, MARGIN + 34), fit(shown, small, width - 2 * MARGIN), FAINT, small)
    for number, row in enumerate(rows):
        left, top = MARGIN + number % columns * cell, MARGIN + _TITLE + number // columns * high
        sheet.paste(row.picture, (left, top))
        sheet.paste(row.overlay, (left + _SIDE + GAP, top))
        for place, (text, colour) in enumerate(row.lines):
            draw.text((left, top + _SIDE + GAP + place * _LINE), fit(text, small, cell - 2 * MARGIN), colour, small)
    _draw_scale(sheet, draw, MARGIN + _TITLE + lines * high, small)
    with replacing(path) as partial:
        sheet.save(partial, "png")
    return path


def _draw_scale(sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int, font: Any) -> None:
    """The colours of the maps, named."""
    ramp = _overlay(Image.new("L", (200, 12), 128).resize((_SIDE, 12)), torch.linspace(0, 1, _SIDE)[None])
    least, most = "least in the picture", "most"
    left = MARGIN + round(font.getlength(least)) + 10
    draw.text((MARGIN, top), least, FAINT, font)
    sheet.paste(ramp, (left, top + 2))
    draw.text((left + ramp.width + 10, top), most, FAINT, font)


def _jpeg(picture: Image.Image) -> str:
    """A small copy, in base64."""
    small = picture.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.NEAREST)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()
