"""Texts as they were typed on the command line, as the splits that a `Predictor` takes."""

from __future__ import annotations

from collections.abc import Sequence

from .data import TextSplit, split_words
from .questions import Question


def typed_texts(texts: Sequence[str], pairs: Sequence[str] = ()) -> TextSplit:
    """Texts, or pairs of them, as they were typed.

    Raises ValueError for an empty one, or another number of second texts.
    """
    if pairs and len(pairs) != len(texts):
        raise ValueError(f"--text-pair needs a text for each of --text, got {len(pairs)} for {len(texts)}")
    for flag, given in (("--text", texts), ("--text-pair", pairs)):
        if any(not text.strip() for text in given):
            raise ValueError(f"{flag} {given.index(next(t for t in given if not t.strip())) + 1} is empty")
    rows = tuple(zip(texts, pairs, strict=True)) if pairs else tuple((text,) for text in texts)
    return TextSplit(rows, (), tuple(f"text {number}" for number in range(1, len(rows) + 1)))


def typed_questions(questions: Sequence[str], contexts: Sequence[str]) -> tuple[Question, ...]:
    """Questions on one context, or each on its own. Raises ValueError for another number of contexts, or an empty one.

    Their ids are their numbers from 1.
    """
    if len(contexts) not in (1, len(questions)):
        raise ValueError(f"--context needs one text, or one for each --question, got {len(contexts)}")
    if any(not text.strip() for text in (*questions, *contexts)):
        raise ValueError("a --question or --context is empty")
    contexts = [*contexts] * (len(questions) if len(contexts) == 1 else 1)
    rows = enumerate(zip(questions, contexts, strict=True), start=1)
    return tuple(Question(str(number), question, context, (), (), "") for number, (question, context) in rows)


def typed_sentences(texts: Sequence[str]) -> TextSplit:
    """Texts as they were typed, in words and punctuation marks. Raises ValueError for an empty one."""
    split = typed_texts(texts)
    return TextSplit(tuple(split_words(text) for (text,) in split.texts), (), split.names)


def typed_choices(texts: Sequence[str], choices: Sequence[str]) -> TextSplit:
    """One context and its choices, as they were typed.

    Raises ValueError for several contexts, an empty text, or fewer than two choices.
    """
    if len(texts) != 1 or len(choices) < 2:
        raise ValueError(
            f"say one --text and two --choices or more, got {len(texts)} and {len(choices)}; name a file for several"
        )
    if any(not text.strip() for text in (*texts, *choices)):
        raise ValueError("--text or one of --choices is empty")
    return TextSplit(((*texts, *choices),), (), ("text 1",))
