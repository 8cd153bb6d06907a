"""Tables of predictions: a row for each text, word or question, the header first, and the file that holds them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..io.atomic import replacing
from .data import TextSplit
from .questions import Answer, QuestionSplit, score_answer

Rows = Iterator[tuple[Any, ...]]


def class_rows(split: TextSplit, logits: Tensor, classes: Sequence[str], temperature: float) -> Rows:
    """`example,text,...,label,prediction,p(CLASS),...` of logits (E, C), in float32; nine digits tell any two apart."""
    yield ("example", *text_columns(split.texts), "label", "prediction", *(f"p({name})" for name in classes))
    answers, shares = logits.argmax(-1).tolist(), (logits / temperature).softmax(-1).tolist()
    for name, texts, label, answer, row in zip(split.names, split.texts, split.labels, answers, shares, strict=True):
        yield (name, *texts, classes[label], classes[answer], *(f"{share:.9g}" for share in row))


def tag_rows(split: TextSplit, logits: Tensor, classes: Sequence[str], threshold: float) -> Rows:
    """`example,text,...,label,prediction,p(TAG),...` of logits (E, C); tags are joined by `;`."""
    yield ("example", *text_columns(split.texts), "label", "prediction", *(f"p({name})" for name in classes))
    rows = zip(split.names, split.texts, split.labels, logits.sigmoid().tolist(), strict=True)
    for name, texts, tags, shares in rows:
        found = [tag for tag, share in zip(classes, shares, strict=True) if share >= threshold]
        tagged = ";".join(classes[tag] for tag in tags)
        yield (name, *texts, tagged, ";".join(found), *(f"{share:.9g}" for share in shares))


def choice_rows(split: TextSplit, logits: Tensor) -> Rows:
    """`example,text,label,prediction,p(prediction)` of logits (E, K): the right choice and the model's."""
    yield ("example", "text", "label", "prediction", "p(prediction)")
    shares, answers = (found.tolist() for found in logits.softmax(1).max(1))
    rows = zip(split.names, split.texts, split.labels, answers, shares, strict=True)
    for name, (context, *choices), label, answer, share in rows:
        yield (name, context, choices[label], choices[answer], f"{share:.9g}")


def number_rows(split: TextSplit, outputs: Tensor) -> Rows:
    """`example,text,...,label,prediction` of outputs (E, 1)."""
    yield ("example", *text_columns(split.texts), "label", "prediction")
    for name, texts, label, number in zip(split.names, split.texts, split.labels, outputs[:, 0].tolist(), strict=True):
        yield (name, *texts, label, f"{number:.9g}")


def word_rows(split: TextSplit, predicted: Sequence[Sequence[int]], classes: Sequence[str]) -> Rows:
    """`example,word,label,prediction` of a tag for each word of each sentence."""
    yield ("example", "word", "label", "prediction")
    for name, words, labels, tags in zip(split.names, split.texts, split.labels, predicted, strict=True):
        for word, label, tag in zip(words, labels, tags, strict=True):
            yield (name, word, classes[label], classes[tag])


def answer_rows(split: QuestionSplit, answers: Mapping[str, Answer]) -> Rows:
    """`id,question,answer,prediction,exact_match,f1`; the scores, 0 to 1, are the best over all that people answered.

    Of these answers the first one stands there; empty is no answer.
    """
    yield ("id", "question", "answer", "prediction", "exact_match", "f1")
    for question in split:
        text = answers[question.id].text
        scores = (f"{score:.9g}" for score in score_answer(text, question.answers))
        yield (question.id, question.question, next(iter(question.answers), ""), text, *scores)


def text_columns(texts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """`text`, or `text1`, `text2`, ... of examples of several."""
    count = len(texts[0])
    return ("text",) if count == 1 else tuple(f"text{number}" for number in range(1, count + 1))


def write_table(rows: Iterable[tuple[Any, ...]], path: Path) -> Path:
    """Writes rows between tabs, in a .csv file between commas; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial_file, open(partial_file, "w", newline="", encoding="utf-8") as opened:
        delimiter = "," if path.suffix.lower() == ".csv" else "\t"
        csv.writer(opened, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return path
