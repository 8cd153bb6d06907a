"""Predictions for single images."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..io.atomic import replacing
from ..io.options import check_value
from ..training.distributed import pick_device
from ..training.evaluation import not_finite, refuse_outputs
from ..training.outputs import ranked
from .data import Split, is_image
from .data.tree import Folder
from .loader import Normalise
from .saved import Saved, open_saved
from .test_time_augmentation import MeanOfViews, Views, view_transform

UNSURE = "unsure"


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image: its most probable classes with their probabilities, its tags, or a number."""

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    number: float | None = None

    def answer(self, threshold: float = 0.0) -> str:
        """The most probable class, or `unsure` if its probability is below the threshold."""
        return self.classes[0] if self.probabilities and self.probabilities[0] >= threshold else UNSURE


def predict_images(model: str | Path, images: Sequence[str | Path], **options: Any) -> list[Prediction]:
    """The predictions of `predict_each`, with its options, as a list."""
    return list(predict_each(model, images, **options))


def predict_each(
    model: str | Path,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    tag_threshold: float = 0.5,
    initial_checkpoint: str | None = None,
    batch_size: int = 64,
    tta: Views = "none",
    bad_images: Literal["error", "skip"] = "error",
    note: Callable[[str], None] = warnings.warn,
    device: str | None = None,
    short_cuts: bool = True,
) -> Iterator[Prediction]:
    """Yields the `top` most probable classes of each image, by `softmax(logits / T)` in float32, batch by batch.

    T is the temperature stored with the model, or 1. With a model for tags or a regression, predictions are tags or
    numbers.

    Args:
        model: a run folder, an adapter file, or a folder in timm's hub format (with or without `local-dir:`).
        images: files, and folders that are searched for images at any depth; each file once, in this order.
        top: number of classes, at most all; classes without names are called by their numbers.
        tag_threshold: for tags: all tags with a probability, `sigmoid(logit)`, of at least this value.
        initial_checkpoint: see `open_saved`.
        tta: test-time augmentation, see `view_transform`: probabilities, or numbers, are averaged over the views.
        bad_images: for an image that cannot be read: an error, after the predictions of the images before it, or skip
            it.
        note: called with each image that is skipped, and why; and with the number of files in a folder that are no
            images.
        short_cuts: see `evaluate_images`.

    Raises:
        FileNotFoundError, ValueError: no such model or image, an image that cannot be read, or none that can be.
        FloatingPointError: outputs that are not finite.
    """
    for name, value in (("top", top), ("batch-size", batch_size)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    check_value("--bad-images", bad_images, str, {"choices": ("error", "skip")})
    target = pick_device(device)
    files = image_files(images, note)
    saved = open_saved(Path(model), initial_checkpoint=initial_checkpoint)
    network = MeanOfViews(saved.for_logits(target, short_cuts=short_cuts), saved.temperature, saved.task)
    count: int = saved.model.num_classes  # type: ignore[assignment]
    classes = saved.classes or tuple(map(str, range(count)))
    tree = Folder(Path())
    split = Split(tuple(map(str, files)), (0,) * len(files), tree.read, tree.locate, saved.value_range)
    transform, prepare = view_transform(saved.input, tta), Normalise(saved.input, target)
    skipped = 0
    for start in range(0, len(files), batch_size):
        pixels: dict[Path, Tensor] = {}
        broken: ValueError | None = None
        for index in range(start, min(start + batch_size, len(files))):
            try:
                pixels[files[index]] = torch.as_tensor(transform(split.image(index)))
            except ValueError as error:
                if bad_images == "error":  # raised behind the predictions of the pictures before it
                    broken = error
                    break
                skipped += 1
                note(str(error))
        if pixels:
            with torch.inference_mode():  # not around the yield, as the caller's code runs there
                outputs = network(prepare((torch.stack([*pixels.values()]), torch.zeros(len(pixels))))[0])
                wrong = not_finite(outputs).tolist()
                if any(wrong):
                    names = [tree.locate(str(file)) for file, flag in zip(pixels, wrong, strict=True) if flag]
                    refuse_outputs(names, len(pixels), "pictures")
                given = _answers(saved, outputs, top=min(top, count), tag_threshold=tag_threshold)
            for file, (probabilities, indices, number) in zip(pixels, given, strict=True):
                yield Prediction(file, tuple(classes[i] for i in indices), tuple(probabilities), number)
        if broken is not None:
            raise broken
    if skipped == len(files):
        raise ValueError(f"none of the {len(files)} pictures can be read")


def _answers(
    saved: Saved, outputs: Tensor, *, top: int, tag_threshold: float
) -> list[tuple[list[float], list[int], float | None]]:
    """Probabilities and classes, the highest first, or a number in its own unit, of each row of the outputs."""
    if saved.scale is not None:
        return [([], [], value) for value in saved.scale.back(outputs).squeeze(-1).tolist()]
    if saved.task == "multi-label":
        rows = ranked(outputs.float().sigmoid(), top=outputs.shape[-1], least=tag_threshold)
    else:
        rows = ranked((outputs.float() / saved.temperature).softmax(-1), top=top)
    return [(probabilities, indices, None) for probabilities, indices in rows]


def write_predictions(predictions: Iterable[Prediction], path: Path, *, threshold: float | None = None) -> Path:
    """Writes rows `image,rank,class,probability`, rank from 1, in UTF-8; bytes of file names are kept.

    For numbers the rows are `image,number`; an image without any tag has one row with rank 0. With a threshold there is
    one more column, `answer`, the same in all rows of an image; see `Prediction.answer`.

    If the predictions end with an error, the rows before it are written, and the error is raised.
    """
    failed: BaseException | None = None
    predictions = iter(predictions)
    first = list(islice(predictions, 1))  # where there is none, a table that is there already stays
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        of_numbers = bool(first) and first[0].number is not None
        named = ("rank", "class", "probability", *(() if threshold is None else ("answer",)))
        rows.writerow(("image", *(("number",) if of_numbers else named)))
        try:
            for prediction in chain(first, predictions):
                if prediction.number is not None:
                    rows.writerow((prediction.image, f"{prediction.number:.9g}"))
                    continue
                last = () if threshold is None else (prediction.answer(threshold),)
                ranked = zip(prediction.classes, prediction.probabilities, strict=True)
                for rank, (name, probability) in enumerate(ranked, start=1):
                    # nine digits tell any two float32
                    rows.writerow((prediction.image, rank, name, f"{probability:.9g}", *last))
                if not prediction.classes:
                    rows.writerow((prediction.image, 0, "", "", *last))
        except BaseException as error:  # Ctrl-C, too
            failed = error
    if failed is not None:
        raise failed
    return path


def image_files(paths: Sequence[str | Path], note: Callable[[str], None]) -> list[Path]:
    """The files, and the images in the folders, found as in data sets, each once.

    Raises FileNotFoundError for a path that does not exist, ValueError for a folder without images.
    """
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
            if others := len(names) - len(inside):
                note(f"{others} of {len(names)} files in {path}, which are no pictures")
        files |= dict.fromkeys(inside)
    return list(files)
