"""Scores of a model on one split of images, and the table of its predictions."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from ..io.atomic import replacing
from ..training.distributed import ProcessGroup, pick_device
from ..training.evaluation import evaluate
from ..training.probabilities import KeptLogits, classification_report
from ..training.saved import ModelSource, open_source
from .class_names import outputs_of
from .config import TrainConfig
from .data import open_configured
from .loader import Normalise, image_eval_loader
from .saved import open_plain, open_saved
from .views import MeanOfViews, Views, view_transform


def evaluate_images(
    model: str | Path | ModelSource,
    *,
    data: str | None = None,
    split: str | None = None,
    pretrained: bool = False,
    initial_checkpoint: str | None = None,
    batch_size: int = 64,
    tta: Views = "none",
    table: Path | None = None,
    device: str | None = None,
    short_cuts: bool = True,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All scores, see `classification_report`, of a model on one split of a data set, each image counted once.

    Args:
        model: an adapter file, a run folder, a timm folder (`local-dir:` may stand before it), or a name of timm's.
        data: what to evaluate on; None takes that of the run folder. It is opened with the run's options. Its classes
            are those of the model by name (`outputs_of`); they may be fewer.
        split: its name or an expression; None takes the test split of the run on its own data, else "test".
        pretrained: of a name of timm's, fetch the weights from its hub.
        initial_checkpoint: see `open_saved` and `open_plain`.
        tta: test-time augmentation, see `view_transform`; probabilities are the mean over the views.
        table: also write a csv file, see `_PredictionTable`.
        short_cuts: compute with merged weights and the class token's row of the last block, where that is exact.
        note: is told, a line each, which files of the data are no images and are left out.

    Raises:
        FileNotFoundError: no model, data or weights. ValueError: no data named, other classes; see `open_saved`.
    """
    plain = isinstance(model, str) and timm.is_model(model) and not Path(model).exists()
    if pretrained and not plain:
        raise ValueError(f"--pretrained is for names of timm's, and {model} has weights of its own: leave it out")
    source = None if plain else open_source(model)
    config = {} if source is None else source.config
    spec = data or config.get("data")
    if spec is None:
        raise ValueError(f"{model if source is None else source.path} is not in a run folder: say --data")
    split = split or (config.get("test_split") if data is None else None) or "test"
    images = open_configured({**config, "data": spec})
    part = images.split(split)
    for line in images.left_out:
        note(line)
    target = pick_device(device)
    if source is None:
        saved = open_plain(str(model), pretrained=pretrained, initial_checkpoint=initial_checkpoint)
    else:
        saved = open_saved(source, initial_checkpoint=initial_checkpoint)
    if saved.task != "classification":
        raise ValueError(f"{model} is for {saved.task}, eval for one class per image: its run's result.json has scores")
    count: int = saved.model.num_classes  # type: ignore[assignment]
    outputs = outputs_of(spec, images.classes, names=saved.classes, count=count)
    classes = list(saved.classes or map(str, range(count)))
    if not saved.classes:  # those that the data name
        for label, output in enumerate(outputs):
            classes[output] = images.classes[label]
    part = replace(part, labels=tuple(outputs[label] for label in part.labels), value_range=saved.value_range)
    transform = view_transform(saved.input, tta)
    batches = image_eval_loader(part, transform, batch_size=batch_size, keep=False, device=target)
    network = MeanOfViews(saved.for_logits(target, short_cuts=short_cuts), saved.temperature)
    kept = KeptLogits(batches.indices, len(part))
    places = list(map(part.locate, part.names))
    with _prediction_table(table, places, classes, saved.temperature) as write:

        def keep(logits: Tensor, labels: Tensor) -> None:
            kept.add(logits, labels)
            write(logits, labels)

        options: dict[str, Any] = {"prepare": Normalise(saved.input, target), "config": TrainConfig(), "also": keep}
        confusion = evaluate(network, batches, **options)
    report = classification_report(confusion, kept.result(ProcessGroup()), classes, temperature=saved.temperature)
    return {"model": str(model), "data": spec, "split": split, "tta": tta, **report}


@contextmanager
def _prediction_table(
    path: Path | None, images: Sequence[str], classes: Sequence[str], temperature: float
) -> Iterator[Callable[[Tensor, Tensor], None]]:
    """What writes `image,label,prediction,p(CLASS),...` rows of each batch, in the order of the split; None: nothing.

    The file is there at the end of the block, whole. Nine digits tell any two probabilities in float32.
    """
    if path is None:
        yield lambda logits, labels: None
        return
    names = iter(images)
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image", "label", "prediction", *(f"p({name})" for name in classes)))

        def write(logits: Tensor, labels: Tensor) -> None:
            answers, probabilities = logits.argmax(-1).tolist(), (logits.float() / temperature).softmax(-1).tolist()
            for label, answer, shares in zip(labels.tolist(), answers, probabilities, strict=True):
                rows.writerow((next(names), classes[label], classes[answer], *(f"{share:.9g}" for share in shares)))

        yield write
