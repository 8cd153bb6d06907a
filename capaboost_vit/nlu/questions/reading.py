"""Questions whose answers are spans of a text, from SQuAD's json form, and from tables of rows of its form."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Question:
    """A question, the text that may hold its answer, and the answers that people gave."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]  # none where the context holds no answer (SQuAD v2)
    starts: tuple[int, ...]  # of each answer, the index of its first character in the context
    title: str  # what the questions of one article share


@dataclass(frozen=True)
class QuestionSplit:
    """The questions of one split."""

    questions: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.questions)

    @property
    def unanswerable(self) -> int:
        """How many questions have no answer."""
        return sum(not question.answers for question in self)

    def record(self) -> dict[str, int | str]:
        """The fingerprint that is stored with a result: `examples`, their number, and `sha256` over all they hold."""
        digest = hashlib.sha256()
        for question in self:
            digest.update(json.dumps(vars(question)).encode() + b"\n")
        return {"examples": len(self), "sha256": digest.hexdigest()}


def read_json(path: Path, *, answers: bool = True) -> tuple[Question, ...]:
    """The questions of a file of SQuAD v1.1 or v2, in its order; `answers` false: those in the file are not read.

    A question without answers must say `"is_impossible": true`, as v2 does. An article without a title is named by its
    place in the file.

    Raises:
        ValueError: not JSON, not of this form, or a question that is wrong, by its id.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # of the JSON, or of its encoding
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or "data" not in content:
        top = f"the keys {', '.join(content) or '(none)'}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(f'{path} is not a file of SQuAD: expected the key "data" at its top, found {top}')
    rows = []
    for number, article in enumerate(_list(content, "data", str(path))):
        where = f"{path}, article {number}"
        paragraphs = _list(article, "paragraphs", where)
        title = str(article.get("title") or f"article {number}")
        for paragraph in paragraphs:
            for qa in _list(paragraph, "qas", where):
                if not answers and isinstance(qa, dict):
                    qa = {**qa, "answers": [], "is_impossible": True}
                _list(qa, "answers", where)
                rows.append({**qa, "context": paragraph.get("context"), "title": title})
    return _checked(str(path), rows)


def read_rows(where: str, rows: Iterable[Mapping[str, Any]]) -> tuple[Question, ...]:
    """Rows with id, question, context, answers {text: [...], answer_start: [...]}, perhaps title, in their order.

    This is how `datasets` holds SQuAD: there a row without answers is a question that has none. Rows without a title
    that have the same context are one article. Messages begin with `where`.

    Raises:
        ValueError: a question that is wrong, by its id.
    """
    return _checked(where, ({**row, "title": row.get("title") or row["context"]} for row in rows), say_impossible=False)


def _list(entry: Any, key: str, where: str) -> list[Any]:
    items = entry.get(key) if isinstance(entry, dict) else entry
    if not isinstance(items, list):
        raise ValueError(f"{where}: expected a list under {key!r}, found {type(items).__name__}")
    return items


def _checked(where: str, rows: Iterable[Mapping[str, Any]], *, say_impossible: bool = True) -> tuple[Question, ...]:
    questions: dict[str, Question] = {}
    for number, row in enumerate(rows):
        if row.get("id") in (None, ""):
            raise ValueError(f"{where}: question {number} has no id")
        question = _question(where, row, say_impossible)
        if question.id in questions:
            raise ValueError(f"{where}: two questions have the id {question.id!r}")
        questions[question.id] = question
    if not questions:
        raise ValueError(f"{where} holds no question")
    return tuple(questions.values())


def _question(where: str, row: Mapping[str, Any], say_impossible: bool) -> Question:
    where = f"{where}: question {str(row['id'])!r}"
    for key in ("question", "context"):
        text = row.get(key)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where} has an empty {key} ({text!r:.40})")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # a JSON escape of half a pair, which no tokenizer takes
            raise ValueError(f"{where} has a {key} that is no Unicode: {error.reason}") from error
    answers = _answers(where, row["context"], row["answers"])
    if row.get("is_impossible") and answers:
        raise ValueError(f"{where} has the answer {answers[0][0]!r:.60}, but is_impossible is true")
    if say_impossible and not row.get("is_impossible") and not answers:
        raise ValueError(f'{where} has no answer, and no "is_impossible": true that says so')
    texts, starts = tuple(text for text, _ in answers), tuple(start for _, start in answers)
    return Question(str(row["id"]), row["question"], row["context"], texts, starts, str(row["title"]))


def _answers(where: str, context: str, answers: Any) -> list[tuple[str, int]]:
    """Texts and starts in the context, of a list of objects as in the json, or of an object of lists as in tables."""
    keys = ("text", "answer_start")
    if isinstance(answers, dict) and all(isinstance(answers.get(key), list) for key in keys):
        pairs = list(itertools.zip_longest(*(answers[key] for key in keys)))
    elif isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in answers]
    else:
        raise ValueError(f"{where} has answers of an unknown form, expected text and answer_start: {answers!r:.60}")
    for text, start in pairs:
        if not isinstance(text, str) or not text.strip() or type(start) is not int:
            raise ValueError(f"{where} has the answer {text!r:.60} at {start!r}, expected a text and a whole number")
        at_start = context[start : start + len(text)] if start >= 0 else ""
        if at_start != text:
            first = context.find(text)
            other = "it is not in the context at all" if first < 0 else f"its first place in the context is {first}"
            raise ValueError(f"{where} has the answer {text!r:.60} at {start}, but {at_start!r:.60} is there; {other}")
    return pairs
