"""From what stands behind `--data` to questions, split by article."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...io.columns import listed_columns
from ...io.tables import VAL_NAMES, is_hub_name, load_from_hub
from ..data.split import TextData
from ..data.tables import SUFFIXES, is_squad, read_file
from ..tasks import Task
from .reading import Question, QuestionSplit, read_json, read_rows

_CHOICES = "give a SQuAD .json file, a folder with train*.json and dev*.json, or owner/name on the hub"
_INSTEAD = "give a SQuAD .json file, or a folder with train*.json and dev*.json instead"
# shares of the articles: val of a train set; test and val of a single file
_OF_TRAIN = {"val": 0.05}
_OF_ONE_FILE = {"test": 0.2, "val": 0.1}

_Questions = tuple[Question, ...]


def open_questions(spec: str, *, seed: int = 0) -> TextData[QuestionSplit]:
    """Reads questions as train, val and test. A local path wins over a name of the hub.

    - a folder with one train*.json and one dev*.json (or val*.json) of SQuAD v1.1 or v2: dev is test, since SQuAD's own
      test set is not public, and val is taken from train: 0.05 of its articles;
    - `owner/name` or `owner/name:config` of the Hugging Face hub, such as rajpurkar/squad or rajpurkar/squad_v2: its
      validation split is test, and val is taken from train;
    - one .json file: 0.2 of its articles are test, 0.1 val.

    Whole articles are taken, so no article is in two splits. Which ones depends on nothing but `seed` and the titles:
    they are ordered by the SHA-256 of `seed:title`, test is taken first, then val. Questions keep their order.

    Raises:
        FileNotFoundError: no such file or folder, or the hub cannot be reached.
        ValueError: nothing usable there, a question that is wrong, by its id, or too few articles.
    """
    path = Path(spec).expanduser()
    if path.is_file():
        splits = _by_article(spec, read_json(path), _OF_ONE_FILE, seed)
    else:
        if spec.strip() and path.is_dir():
            train, dev = (read_json(_only(path, *names)) for names in (("train",), ("dev", *VAL_NAMES)))
        elif is_hub_name(spec, suffixes=(".json",)):
            train, dev = _read_hub(spec)
        else:
            raise FileNotFoundError(f"no questions at {spec!r}: {_CHOICES}")
        shared = {question.id for question in train} & {question.id for question in dev}
        if shared:
            raise ValueError(f"{spec}: {len(shared)} questions are in train and in dev, such as {min(shared)!r}")
        splits = _by_article(spec, train, _OF_TRAIN, seed) | {"test": QuestionSplit(dev)}
    return TextData(spec, (), splits, protocol="articles")


def open_unanswered(path: Path, task: Task) -> tuple[Question, ...]:
    """The questions of one file, whose answers are not read: SQuAD's json, or a table with `question` and `context`.

    A row of a table has the id of its column `id`, or its number in the file.

    Raises:
        FileNotFoundError: no such file. ValueError: neither of both; a question that is wrong, by its id.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no questions at {path}: give a file ({', '.join(SUFFIXES)})")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is none of {', '.join(SUFFIXES)}")
    if path.suffix.lower() == ".json" and is_squad(path):
        return read_json(path, answers=False)
    needed = ("question", "context")
    table = read_file(path, task, [needed])
    if missing := [name for name in needed if name not in table.columns]:
        raise ValueError(f"{path} has no column {missing[0]!r}; it has: {listed_columns(table.columns)}")
    rows = ({"id": str(number), **cells, "answers": [], "title": ""} for number, cells in table.rows)
    return read_rows(str(path), rows)


def _only(folder: Path, *starts: str) -> Path:
    """The one .json file whose name begins so, whatever its case."""
    files = sorted(file for file in folder.glob("*.json") if file.name.lower().startswith(starts))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise ValueError(f"{folder} must hold one {starts[0]}*.json, found {names}: {_CHOICES}")
    return files[0]


def _read_hub(spec: str) -> Iterator[_Questions]:
    """The questions of the splits train and validation of `owner/name[:config]`."""
    tables = load_from_hub(spec, what="questions", instead=_INSTEAD)
    for split in ("train", "validation"):
        if split not in tables:
            raise ValueError(f"{spec} has no split {split!r}, it has {', '.join(tables)}; {_INSTEAD}")
        missing = {"id", "question", "context", "answers"} - set(tables[split].column_names)
        if missing:
            raise ValueError(f"{spec}: {split} has no column {', '.join(sorted(missing))}, as SQuAD has; {_INSTEAD}")
        yield read_rows(f"{split} of {spec}", tables[split])


def _by_article(spec: str, questions: _Questions, shares: dict[str, float], seed: int) -> dict[str, QuestionSplit]:
    """Splits train, then val and perhaps test, of whole articles; each gets at least one."""
    titles = sorted(
        {question.title for question in questions},
        key=lambda title: hashlib.sha256(f"{seed}:{title}".encode("utf-8", "surrogatepass")).digest(),
    )
    sizes = {name: max(1, int(len(titles) * share + 0.5)) for name, share in shares.items()}
    left = len(titles) - sum(sizes.values())
    if left < 1:
        raise ValueError(f"{spec} has {len(titles)} articles, too few for train, {', '.join(sizes)}: {_CHOICES}")
    split_of: dict[str, str] = {}
    for name, size in {**sizes, "train": left}.items():
        split_of |= dict.fromkeys(titles[len(split_of) : len(split_of) + size], name)
    return {
        name: QuestionSplit(tuple(question for question in questions if split_of[question.title] == name))
        for name in ("train", *reversed(sizes))
    }
