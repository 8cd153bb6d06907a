"""The tasks that a text model can be trained on, by name: their texts, labels, metrics and split protocols.

They stand in tasks.yaml, which is read without torch: the help of the command line lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..io.options import suggest, tuples
from ..io.yaml import parse_yaml

# of classes; of one score; of several tags; of the right one of several texts; of questions that a span of a text
# answers; of a tag for each word; of masked tokens
Kind = Literal["classification", "regression", "multi-label", "multiple-choice", "questions", "tokens", "masked"]
Protocol = Literal["own", "drawn", "dev", "halves", "thousand"]


@dataclass(frozen=True)
class Task:
    """One task."""

    name: str
    kind: Kind
    metrics: tuple[str, ...]  # names that `training.metrics` knows; the first one chooses the best epoch
    columns: tuple[str, ...] = ()  # of the one or two texts on the hub and in JSON lines; none: found in the data
    label: str = ""  # column of the label or the score; empty: found in the data, or there is none
    classes: tuple[str, ...] = ()  # in the order of the hub's integer labels; none: found in the data, or not there
    hub: tuple[str, str | None] | None = None  # repository and configuration; None: none holds the published data
    folder: str | None = None  # of the data among others, as GLUE's and the papers' archives call it
    protocol: Protocol = "own"  # the usual split protocol, see `nlu.data.split`
    domain: str | None = None  # of the eight data sets of "Don't Stop Pretraining"
    # as the published tsv or csv calls them, if otherwise; where several columns stand for a single one, their texts
    # are joined with a space, as the hub's set was made
    file_columns: tuple[str, ...] = ()
    file_label: str = ""
    header: tuple[str, ...] = ()  # columns of a published file without a first line that names them
    numbered: bool = False  # they hold the classes as numbers, and so do files for GLUE's server
    from_one: bool = False  # integer labels may count from 1; they do where the number of classes is among them
    # the published tsv has broken rows: as in the counts that are published for it, those that lack a column or the
    # label are left out, and one text of a pair may be empty
    flawed: bool = False


_TEXT = Path(__file__).with_name("tasks.yaml").read_text("utf-8")
TASKS = {name: Task(name, **tuples(fields)) for name, fields in parse_yaml(_TEXT).items()}
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")  # in the order of the tables; WNLI is left out
DOMAINS = {
    domain: tuple(name for name, task in TASKS.items() if task.domain == domain)
    for domain in ("biomed", "cs", "news", "reviews")
}


def get_task(name: str) -> Task:
    """The task of a name, or of its folder's name; case, `-` and `_` do not matter: `SST-2` is `sst2`.

    Raises:
        ValueError: there is none; the message has the nearest name, and all.
    """
    by_name = {_plain(other): task for task in TASKS.values() for other in (task.folder, task.name) if other}
    if _plain(name) in by_name:
        return by_name[_plain(name)]
    raise ValueError(f"there is no task {name!r}{suggest(_plain(name), TASKS)}; the tasks: {', '.join(TASKS)}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
