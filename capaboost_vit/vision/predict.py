"""The classes of single pictures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..io.atomic import replacing
from ..training.distributed import pick_device
from .build import build_transform
from .data import Split, is_image
from .data.tree import Folder
from .loader import Normalise, image_eval_loader
from .saved import open_saved


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture and their probabilities, the highest first."""

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict_images(
    model: str | Path,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    initial_checkpoint: str | None = None,
    batch_size: int = 64,
    device: str | None = None,
) -> list[Prediction]:
    """The `top` most probable classes of each picture, `softmax(logits)` in float32.

    Args:
        model: a run folder, an adapter file, or a folder in timm's hub format (`local-dir:` may stand before it).
        images: files, and folders that are searched for pictures at any depth; each file once, in this order.
        top: cut to the number of classes; those without a name are numbers.
        initial_checkpoint: see `open_saved`.

    Raises:
        FileNotFoundError, ValueError: no such model or picture, or a picture that cannot be read.
    """
    for name, value in (("top", top), ("batch-size", batch_size)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    target = pick_device(device)
    files = _image_files(images)
    saved = open_saved(Path(model), initial_checkpoint=initial_checkpoint)
    network = saved.model.to(target)
    count: int = network.num_classes  # type: ignore[assignment]
    classes = saved.classes or tuple(map(str, range(count)))
    tree = Folder(Path())
    split = Split(tuple(map(str, files)), (0,) * len(files), tree.read, tree.locate)
    batches = image_eval_loader(split, build_transform(saved.input), batch_size=batch_size, keep=False, device=target)
    prepare = Normalise(saved.input, target)
    predictions: list[Prediction] = []
    with torch.inference_mode():
        for batch in batches:
            best = network(prepare(batch)[0]).float().softmax(-1).topk(min(top, count))
            for probabilities, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                names = tuple(classes[i] for i in indices)
                predictions.append(Prediction(files[len(predictions)], names, tuple(probabilities)))
    return predictions


def write_predictions(predictions: Sequence[Prediction], path: Path) -> Path:
    """Writes `image,rank,class,probability` rows, rank from 1, in UTF-8; bytes of file names stay as they are."""
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image", "rank", "class", "probability"))
        for prediction in predictions:
            ranked = zip(prediction.classes, prediction.probabilities, strict=True)
            for rank, (name, probability) in enumerate(ranked, start=1):
                rows.writerow((prediction.image, rank, name, f"{probability:.9g}"))  # nine digits tell any two float32
    return path


def _image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files, and the pictures below the folders, as data sets find them, each once."""
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"no picture and no folder at {path}")
        inside = [path]
        if path.is_dir():
            tree = Folder(path)
            names = (*tree.files(), *(name for _, inner in tree.by_folder() for name in inner))
            inside = sorted(path / name for name in names if is_image(tree, name))
            if not inside:
                raise ValueError(f"the folder {path} holds no picture")
        files |= dict.fromkeys(inside)
    return list(files)
