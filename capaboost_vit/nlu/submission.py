"""Submission files: what a finished run predicts of test sets without labels, as servers take it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..io.atomic import write_text
from .data import open_unlabelled
from .predict import Predictor
from .table import write_table
from .tasks import Task


def glue_rows(predictor: Predictor, data: str) -> dict[str, tuple[str, ...]]:
    """The prediction for each text of the test splits of a folder, or of one file, in the order of the rows.

    A class is written as GLUE's files do it, by its name, or by its number (CoLA, SST-2, MRPC, QQP, WNLI); a score with
    three places. They are by the name of the file that GLUE's server expects: `RTE.tsv`, `MNLI-m.tsv`, `MNLI-mm.tsv`.

    Args:
        data: the task's folder or file; labels are not looked at.

    Raises:
        FileNotFoundError, ValueError: no data; a task whose answers are no classes or scores; see `open_unlabelled`.
    """
    task = predictor.task
    splits = open_unlabelled(data, task, text_columns=predictor.config.text_columns)
    return {
        file_name(task, name): tuple(_written(task, predictor.classes, predictor.of_split(split)))
        for name, split in splits.items()
    }


def _written(task: Task, classes: Sequence[str], outputs: Tensor) -> list[str]:
    """Outputs (E, C), or (E, 1) of scores, as text."""
    if task.kind == "regression":
        return [f"{score:.3f}" for score in outputs[:, 0].tolist()]
    labels = outputs.argmax(1).tolist()
    return [str(label) if task.numbered else classes[label] for label in labels]


def file_name(task: Task, split: str) -> str:
    """As GLUE's server expects it: `RTE.tsv`; of MNLI `MNLI-m.tsv`, and `MNLI-mm.tsv` for mismatched texts."""
    kind = {"test": "-m", "test_mismatched": "-mm"}.get(split, "") if task.name == "mnli" else ""
    return f"{task.folder or task.name}{kind}.tsv"


def write_submission(predictions: Mapping[str, Sequence[str]], path: Path) -> list[Path]:
    """Writes rows of `index`, from 0, and `prediction`, between tabs; in a file called .csv between commas.

    Args:
        predictions: as `glue_rows` gives them.
        path: one file; or a folder, which gets them by their names.

    Raises:
        ValueError: several, and the name of one file.
    """
    as_folder = path.is_dir() or not path.suffix
    if len(predictions) > 1 and not as_folder:
        raise ValueError(f"--csv {path} is one file, and there are {', '.join(predictions)}: name a folder")
    files = {path / name if as_folder else path: rows for name, rows in predictions.items()}
    return [write_table(iter([("index", "prediction"), *enumerate(rows)]), file) for file, rows in files.items()]


def write_answers(answers: Mapping[str, str], path: Path) -> Path:
    """Writes answers by the ids of their questions, as SQuAD's official script and server take them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(answers, ensure_ascii=False, indent=0) + "\n")
    return path
