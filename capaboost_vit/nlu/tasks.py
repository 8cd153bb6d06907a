"""The tasks that a text model can be trained on, by name: their texts, labels, metrics and split protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..io.options import suggest

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
        protocol: which split protocol is the usual one, see `nlu.data.protocols`.
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


_GLUE = "nyu-mll/glue"
_TEXT = ("text",)
_PAIR = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not_entailment")

_ALL = [
    # GLUE: the small tasks halve the public dev set, the large ones take 1,000 examples of train
    Task(
        "cola",
        "classification",
        ("matthews",),
        columns=("sentence",),
        label="label",
        classes=("unacceptable", "acceptable"),
        hub=(_GLUE, "cola"),
        folder="CoLA",
        protocol="halves",
        header=("source", "label", "star", "sentence"),
    ),
    Task(
        "sst2",
        "classification",
        ("accuracy",),
        columns=("sentence",),
        label="label",
        classes=("negative", "positive"),
        hub=(_GLUE, "sst2"),
        folder="SST-2",
        protocol="thousand",
    ),
    Task(
        "mrpc",
        "classification",
        ("accuracy", "f1"),
        columns=_PAIR,
        label="label",
        classes=("not_equivalent", "equivalent"),
        hub=(_GLUE, "mrpc"),
        folder="MRPC",
        protocol="halves",
        file_columns=("#1 String", "#2 String"),
        file_label="Quality",
    ),
    Task(
        "qqp",
        "classification",
        ("accuracy", "f1"),
        columns=("question1", "question2"),
        label="label",
        classes=("not_duplicate", "duplicate"),
        hub=(_GLUE, "qqp"),
        folder="QQP",
        protocol="thousand",
        file_label="is_duplicate",
        flawed=True,
    ),
    Task(
        "stsb",
        "regression",
        ("pearson", "spearman"),
        columns=_PAIR,
        label="label",
        hub=(_GLUE, "stsb"),
        folder="STS-B",
        protocol="halves",
        file_label="score",
    ),
    Task(
        "mnli",
        "classification",
        ("accuracy",),
        columns=("premise", "hypothesis"),
        label="label",
        classes=("entailment", "neutral", "contradiction"),
        hub=(_GLUE, "mnli"),
        folder="MNLI",
        protocol="thousand",
        file_columns=_PAIR,
        file_label="gold_label",
    ),
    Task(
        "qnli",
        "classification",
        ("accuracy",),
        columns=("question", "sentence"),
        label="label",
        classes=_ENTAILED,
        hub=(_GLUE, "qnli"),
        folder="QNLI",
        protocol="thousand",
    ),
    Task(
        "rte",
        "classification",
        ("accuracy",),
        columns=_PAIR,
        label="label",
        classes=_ENTAILED,
        hub=(_GLUE, "rte"),
        folder="RTE",
        protocol="halves",
    ),
    Task(
        "wnli",
        "classification",
        ("accuracy",),
        columns=_PAIR,
        label="label",
        classes=("not_entailment", "entailment"),
        hub=(_GLUE, "wnli"),
        folder="WNLI",
        protocol="halves",
    ),
    Task("squad", "questions", ("exact_match", "f1"), hub=("rajpurkar/squad", None)),
    Task("squad_v2", "questions", ("exact_match", "f1"), hub=("rajpurkar/squad_v2", None)),
    # "Don't Stop Pretraining": by file where the hub has no set of the paper's splits that we know of
    Task("chemprot", "classification", ("micro_f1",), _TEXT, "label", folder="chemprot", domain="biomed"),
    Task("rct", "classification", ("micro_f1",), _TEXT, "label", folder="rct-20k", domain="biomed"),
    Task("acl-arc", "classification", ("macro_f1",), _TEXT, "label", folder="citation_intent", domain="cs"),
    Task("scierc", "classification", ("macro_f1",), _TEXT, "label", folder="sciie-relation-extraction", domain="cs"),
    Task("hyperpartisan", "classification", ("macro_f1",), _TEXT, "label", folder="hyperpartisan_news", domain="news"),
    Task(
        "agnews",
        "classification",
        ("macro_f1",),
        columns=_TEXT,
        label="label",
        classes=("World", "Sports", "Business", "Sci/Tech"),
        hub=("fancyzhx/ag_news", None),
        folder="ag",
        domain="news",
        file_columns=("title", "description"),
        file_label="class",
        header=("class", "title", "description"),
        from_one=True,
    ),
    Task("helpfulness", "classification", ("macro_f1",), _TEXT, "label", folder="amazon", domain="reviews"),
    Task(
        "imdb",
        "classification",
        ("macro_f1",),
        columns=_TEXT,
        label="label",
        hub=("stanfordnlp/imdb", None),
        folder="imdb",
        domain="reviews",
    ),
    # for files of one's own
    Task("classification", "classification", ("accuracy", "macro_f1")),
    Task("regression", "regression", ("pearson", "spearman")),
    Task("mlm", "masked", ("accuracy",)),
]

TASKS = {task.name: task for task in _ALL}
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")  # in the order of the tables; WNLI is left out
DOMAINS = {
    domain: tuple(task.name for task in _ALL if task.domain == domain) for domain in ("biomed", "cs", "news", "reviews")
}


def get_task(name: str) -> Task:
    """The task of a name, or of its folder's name; case, `-` and `_` do not matter: `SST-2` is `sst2`.

    Raises:
        ValueError: there is none; the message has the nearest name, and all.
    """
    known = {_plain(other): task for task in _ALL for other in (task.folder, task.name) if other}
    if _plain(name) in known:
        return known[_plain(name)]
    raise ValueError(f"there is no task {name!r}{suggest(_plain(name), TASKS)}; the tasks: {', '.join(TASKS)}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
