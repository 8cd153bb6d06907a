"""SQuAD's data sets of the Hugging Face hub."""

from __future__ import annotations

from ...io.hub import load_from_hub
from .reading import read_rows
from .split import Question

_INSTEAD = "give a SQuAD .json file, or a folder with train*.json and dev*.json instead"


def read_hub(spec: str) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """The questions of the splits train and validation of `owner/name[:config]`.

    Raises:
        FileNotFoundError: no such set, or the hub cannot be reached.
        ValueError: it cannot be read, is not of SQuAD's form, or a question is wrong, by its id.
    """
    name, _, config = spec.partition(":")
    tables = load_from_hub(name, config or None, what="questions", instead=_INSTEAD)
    for split in ("train", "validation"):
        if split not in tables:
            raise ValueError(f"{spec} has no split {split!r}, it has {', '.join(tables)}; {_INSTEAD}")
        missing = {"id", "question", "context", "answers"} - set(tables[split].column_names)
        if missing:
            raise ValueError(f"{spec}: {split} has no column {', '.join(sorted(missing))}, as SQuAD has; {_INSTEAD}")
    train, validation = (read_rows(f"{split} of {spec}", tables[split]) for split in ("train", "validation"))
    return train, validation
