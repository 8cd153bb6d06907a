"""What a run answered: its confusion matrix and worst mistakes, with the images where the data are at hand."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...io.json import read_object
from ...io.sources import sources_of
from ...training.confusion import MOST_DRAWN, most_confused
from ...training.metrics import wilson_interval
from ...vision.data import open_configured
from ...vision.data.split import Split
from ..outcomes import Outcome

SIDE = 96  # pixels of a thumbnail
_FEW_PIXELS = 24
_AS_TABLE = 20  # most classes of a table
_COLOUR = (50, 130, 190)  # seen on white and on black
_LISTED = 10  # confusions that are named


@dataclass(frozen=True)
class Predictions:
    """The confusion matrix of one run (rows: true classes), its most frequent confusions, and its worst mistakes.

    Args:
        recalls: (right answers, images) of each class.
        explained: what the `explanation` of the worst mistakes shows; empty where there are none.
        counts: None with more than 20 classes; then `picture` is a PNG of it as a data: URI, up to 1,000 classes.
        confusions: (true class, answer, how often, of how many), the most frequent first.
        worst: lines of predictions.json, with the names of image and classes; `picture` and `explanation` are
            data: URIs or None.
    """

    outcome: Outcome
    classes: tuple[str, ...]
    recalls: tuple[tuple[int, int], ...]
    counts: tuple[tuple[int, ...], ...] | None
    picture: str | None
    confusions: tuple[tuple[str, str, int, int], ...]
    worst: tuple[dict[str, Any], ...]
    explained: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """Of the accuracy, in per cent: Wilson's, of other test images."""
        return wilson_interval(sum(right for right, _ in self.recalls), max(1, sum(total for _, total in self.recalls)))

    @property
    def lowest(self) -> list[tuple[str, int, int]]:
        """The classes with the lowest recall: name, right answers, images; none where all are right."""
        rows = [
            (right / total, name, right, total)
            for name, (right, total) in zip(self.classes, self.recalls, strict=True)
            if total
        ]
        return [row[1:] for row in sorted(rows, key=lambda row: row[0])[:_LISTED] if row[0] < 1]


class Thumbnails:
    """Small images of test splits, each of them opened once; data of the hub are not fetched for this.

    `problems` says, by task, why there are none.
    """

    def __init__(self) -> None:
        self.splits: dict[str, Split | None] = {}
        self.made: dict[tuple[str, int], str] = {}
        self.problems: dict[str, str] = {}

    def find(self, outcome: Outcome, place: int, name: str | None) -> tuple[str | None, str | None]:
        """(name, data: URI) of the image at a place of the test split; None for what cannot be had."""
        config = outcome.trial.config
        options = ("data", "image_column", "label_column", "data_dir", "test_split")
        key = json.dumps([config.get(option) for option in options])
        try:
            if key not in self.splits:
                self.splits[key] = None  # what cannot be opened is not tried again
                self.splits[key] = _open(config)
            split = self.splits[key]
            if split is None:
                return name, None
            stored = split.names[place]
            if name not in (None, stored):
                raise ValueError(f"{config['data']} has changed: image {place} is {stored}, it was {name}")
            if (key, place) not in self.made:
                self.made[key, place] = thumbnail(split.image(place))
            return stored, self.made[key, place]
        except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
            self.problems.setdefault(outcome.trial.task, " ".join(str(error).split()))
            return name, None


def read_predictions(outcome: Outcome, thumbnails: Thumbnails | None, *, most: int) -> Predictions | None:
    """The predictions.json of a run; None where it is missing or damaged.

    Args:
        most: worst mistakes that are given.
    """
    try:
        content = read_object(outcome.folder / "predictions.json")
        classes = tuple(map(str, content["classes"]))
        cells = [(int(label), int(answer), int(count)) for label, answer, count in content["counts"]]
        if not all(0 <= place < len(classes) for label, answer, _ in cells for place in (label, answer)):
            raise ValueError("a count of a class that is not there")
        explained, pictures = read_explanations(outcome.folder) if thumbnails is not None else ("", {})
        worst = tuple(_mistake(outcome, row, classes, thumbnails, pictures) for row in content["worst"][:most])
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    totals, right = Counter[int](), Counter[int]()
    for label, answer, count in cells:
        totals[label] += count
        right[label] += count * (label == answer)
    recalls = tuple((right[i], totals[i]) for i in range(len(classes)))
    table = picture = None
    if len(classes) <= MOST_DRAWN:  # nothing is square in thousands of classes
        counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
        for label, answer, count in cells:
            counts[label, answer] = count
        if len(classes) <= _AS_TABLE:
            table = tuple(map(tuple, counts.tolist()))
        else:
            picture = confusion_png(counts)
    return Predictions(
        outcome, classes, recalls, table, picture, most_confused(cells, classes, _LISTED), worst, explained
    )


def confusion_png(counts: np.ndarray) -> str:
    """A pixel for each pair of classes, as opaque as the square root of its share of the true class."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    levels = np.round(15 * np.sqrt(shares)).astype(np.uint8)
    picture = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    picture.putpalette([*_COLOUR] * 16)
    return _image_uri(picture, "PNG", bits=4, transparency=bytes(17 * level for level in range(16)))


def thumbnail(image: Image.Image) -> str:
    """An image of at most 96 x 96 pixels as a data: URI: a PNG of few pixels, which the page shows as they are."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    if max(small.size) <= _FEW_PIXELS:
        return _image_uri(small.convert("RGB"), "PNG")
    return _image_uri(small.convert("RGB"), "JPEG", quality=72)


def read_explanations(folder: Path) -> tuple[str, dict[int, str]]:
    """What `capaboost explain RUN` has left: what is shown, in words, and a picture by place as a data: URI."""
    try:
        content = read_object(folder / "explanations.json")
        pictures = {int(place): base64.b64decode(jpeg, validate=True) for place, jpeg in content["pictures"].items()}
        return str(content["shown"]), {place: data_uri("image/jpeg", picture) for place, picture in pictures.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", {}


def _image_uri(image: Image.Image, kind: str, **options: Any) -> str:
    out = io.BytesIO()
    image.save(out, format=kind, optimize=True, **options)
    return data_uri(f"image/{kind.lower()}", out.getvalue())


def _mistake(
    outcome: Outcome,
    row: dict[str, Any],
    classes: Sequence[str],
    thumbnails: Thumbnails | None,
    explanations: Mapping[int, str],
) -> dict[str, Any]:
    place, name, picture = int(row["place"]), row.get("name"), None
    if thumbnails is not None:
        name, picture = thumbnails.find(outcome, place, name)
    return {
        "name": f"image {place}" if name is None else str(name),
        **{key: classes[row[key]] for key in ("label", "answer")},
        **{key: float(row[key]) for key in ("label_probability", "answer_probability")},
        "picture": picture,
        "explanation": explanations.get(place),
    }


def _open(config: dict[str, Any]) -> Split:
    """The test split of a run, where it need not be fetched."""
    spec = config["data"]
    kinds = ("digits", "sprites", "synthetic", "torchvision")
    if not all(Path(s).expanduser().exists() or s.partition(":")[0].lower() in kinds for s in sources_of(spec)):
        raise FileNotFoundError(f"{spec} is not on this machine")
    return open_configured({**config, "data_download": False}).split(config["test_split"])


def data_uri(kind: str, content: bytes) -> str:
    """Content inside a link."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
