"""What a finished run predicts of texts without labels, as the files that GLUE's server takes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..io.atomic import replacing
from ..training.distributed import pick_device
from ..training.evaluation import evaluate
from ..training.saved import ModelSource
from .data import open_unlabelled
from .loader import moved, text_eval_loader
from .models import create_tokenizer
from .objectives import regression
from .saved import for_logits, open_trained
from .tasks import Task, get_task
from .tokens import encode


def predict_texts(
    adapter: str | Path | ModelSource,
    data: str,
    *,
    model: str | None = None,
    batch_size: int = 64,
    device: str | None = None,
    short_cuts: bool = True,
) -> dict[str, tuple[str, ...]]:
    """The prediction for each text of the test splits of a folder, or of one file, in the order of the rows.

    A class is written as GLUE's files do it, by its name, or by its number (CoLA, SST-2, MRPC, QQP, WNLI); a score with
    three places. They are by the name of the file that GLUE's server expects: `RTE.tsv`, `MNLI-m.tsv`, `MNLI-mm.tsv`.

    Args:
        data: the task's folder or file; labels are not looked at.
        model: folder or hub id of the base model; None takes that of the run, or the hub id that the file names.
        short_cuts: see `evaluate_text`.

    Raises:
        FileNotFoundError, ValueError: no adapter, data or model; a task whose answers are no classes or scores; see
            `open_unlabelled`.
    """
    network, config, classes = open_trained(adapter, model)
    task = get_task(config.task)
    if task.kind not in ("classification", "regression"):
        raise ValueError(f"predict writes classes and scores of texts, and {task.name} has neither")
    splits = open_unlabelled(data, task, text_columns=config.text_columns)
    tokenizer, target = create_tokenizer(config.tokenizer or config.model), pick_device(device)
    network = for_logits(network, target, short_cuts=short_cuts)
    outputs_alone = regression(score=lambda *_: {}, names=())
    predictions = {}
    for name, split in splits.items():
        encoded = encode(split, tokenizer, max_length=config.max_length)
        batches = text_eval_loader(replace(encoded, targets=torch.zeros(len(encoded))), batch_size=batch_size)
        moved_there = partial(moved, device=target)
        outputs = evaluate(network, batches, prepare=moved_there, config=config, objective=outputs_alone)
        predictions[_file_name(task, name)] = tuple(_written(task, classes, outputs))
    return predictions


def _written(task: Task, classes: Sequence[str], outputs: Tensor) -> list[str]:
    """Outputs (E, C), or (E, 1) of scores, as text."""
    if task.kind == "regression":
        return [f"{score:.3f}" for score in outputs[:, 0].tolist()]
    labels = outputs.argmax(1).tolist()
    return [str(label) if task.numbered else classes[label] for label in labels]


def _file_name(task: Task, split: str) -> str:
    """As GLUE's server expects it: `RTE.tsv`; of MNLI `MNLI-m.tsv`, and `MNLI-mm.tsv` for mismatched texts."""
    kind = {"test": "-m", "test_mismatched": "-mm"}.get(split, "") if task.name == "mnli" else ""
    return f"{task.folder or task.name}{kind}.tsv"


def write_predictions(predictions: Mapping[str, Sequence[str]], path: Path) -> list[Path]:
    """Writes rows of `index`, from 0, and `prediction`, between tabs; in a file called .csv between commas.

    Args:
        predictions: as `predict_texts` gives them.
        path: one file; or a folder, which gets them by their names.

    Raises:
        ValueError: several, and the name of one file.
    """
    as_folder = path.is_dir() or not path.suffix
    if len(predictions) > 1 and not as_folder:
        raise ValueError(f"--csv {path} is one file, and there are {', '.join(predictions)}: name a folder")
    written = []
    for name, rows in predictions.items():
        file = path / name if as_folder else path
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial_file, open(partial_file, "w", newline="", encoding="utf-8") as opened:
            table = csv.writer(opened, delimiter="," if file.suffix.lower() == ".csv" else "\t", lineterminator="\n")
            table.writerow(("index", "prediction"))
            table.writerows(enumerate(rows))
        written.append(file)
    return written
