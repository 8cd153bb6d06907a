"""The tasks that a text model can be trained on, by name: their texts, labels, metrics and split protocols.

They stand in tasks.yaml, which is read without torch: the help of the command line lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..io.options import suggest, tuples
from ..io.yaml import parse_yaml

Kind = Literal["classification", "regression", "questions", "masked"]
Protocol = Literal["own", "dev", "halves", "thousand"]


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        kind: classification; regression of one score; questions answered by a span of a text; masked tokens.
        metrics: names that `nlu.metrics` knows; the first one chooses the best epoch.
        columns: of the one or two texts, as the hub and files of JSON lines call them; none: found in the data.
        label: column of the label or the score; empty: found in the data, or there is none.
        classes: in the order of the hub's integer labels; none: found in the data (or there are no classes).
        hub: repository and configuration on the hub; None where we know of none that holds the published data, which is
            then given by file.
        folder: of the data among others, as GLUE's and the papers' archives call it.
        protocol: which split protocol is the usual one, see `nlu.data.split`.
        domain: of the eight data sets of "Don't Stop Pretraining".
        file_columns, file_label: as the published tsv or csv calls them, if otherwise. Where several of them stand for
            a single column, their texts are joined with a space, as the hub's set was made.
        header: columns of a published file without a first line that names them.
        from_one: integer labels may count from 1; they do where the number of classes is among them.
        flawed: the published tsv has broken rows. As in the counts that are published for it, those that lack a
            column or the label are left out, and one text of a pair may be empty.
    """

    name: str
    kind: Kind
    metrics: tuple[str, ...]
    columns: tuple[str, ...] = ()
    label: str = ""
    classes: tuple[str, ...] = ()
    hub: tuple[str, str | None] | None = None
    folder: str | None = None
    protocol: Protocol = "own"
    domain: str | None = None
    file_columns: tuple[str, ...] = ()
    file_label: str = ""
    header: tuple[str, ...] = ()
    from_one: bool = False
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
    known = {_plain(other): task for task in TASKS.values() for other in (task.folder, task.name) if other}
    if _plain(name) in known:
        return known[_plain(name)]
    raise ValueError(f"there is no task {name!r}{suggest(_plain(name), TASKS)}; the tasks: {', '.join(TASKS)}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
