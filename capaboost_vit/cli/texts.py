"""`capaboost predict` of runs on texts: of what was typed, of files, and submission files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from ..io.printable import printable
from .parser import Parser

if TYPE_CHECKING:
    from ..nlu.predict import Predictor, TextPrediction
    from ..nlu.questions import Question
    from ..training.saved import ModelSource

TYPED = ("text", "text_pair", "choices", "question", "context", "text_columns")  # options that are for texts alone
_SHOWN = 72  # characters of a text


def add_text_options(parser: Parser) -> None:
    """What is typed instead of a file."""
    for flag, text in (
        ("--text", "texts, in place of a file"),
        ("--text-pair", "for pairs: second texts, one for each of --text"),
        ("--choices", "for multiple choice: the choices for --text"),
        ("--question", "for question answering: questions on --context"),
        ("--context", "for question answering: one context for all questions, or one for each"),
        ("--text-columns", "columns of the texts in the file; null: those of training"),
    ):
        parser.add_argument(flag, type=str, nargs="+", default=None, help=text)


def refuse_text_options(arguments: Namespace) -> None:
    """Raises ValueError where a model on images is given texts."""
    for name in TYPED:
        if arguments[name] is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for texts, and {arguments.model} is a model on images")


def predict_texts(source: ModelSource, arguments: Namespace) -> None:
    """Prints what the model says of each text, and writes it.

    Of a folder with test sets, or where --csv names a folder, that is the submission files; of a folder of .txt files
    each of them is a text.
    """
    path = _the_one_input(arguments)
    table = None if arguments.csv is None else Path(arguments.csv)
    from ..nlu.data import text_files
    from ..nlu.predict import Predictor, write_rows
    from ..nlu.typed_texts import typed_questions, typed_texts

    options = {name: arguments[name] for name in ("batch_size", "device", "short_cuts")}
    predictor = Predictor(source, model=arguments.initial_checkpoint, **options)
    if predictor.task.kind == "questions":
        if arguments.question is None and path is None:
            raise ValueError(f"{source.path} answers questions: say --question and --context, or name a file")
        typed = typed_questions(arguments.question or (), arguments.context or ()) if path is None else None
        return _answer(predictor, typed or predictor.read_questions(str(path)), table)
    if predictor.task.kind == "multiple-choice":
        return _choose(predictor, arguments, path, table)
    if arguments.choices is not None:
        raise ValueError(f"{source.path} is of the task {predictor.task.name}, which has no --choices: leave them out")
    if predictor.task.kind == "tokens":
        return _tag(predictor, arguments, path, table)
    if arguments.question is not None:
        raise ValueError(f"{source.path} is of the task {predictor.task.name}, which answers no --question: say --text")
    as_folder = table is not None and (table.is_dir() or not table.suffix)
    files = [] if path is None else text_files(path)
    if path is not None and (as_folder or (Path(path).is_dir() and not files)):
        if predictor.task.kind == "multi-label":
            raise ValueError(f"GLUE's server takes no tags of {predictor.task.name}: name one file, and --csv FILE.csv")
        if files:
            raise ValueError(f"{path} is a folder of texts, which no server takes: name a file, --csv FILE.csv")
        return _submit(predictor, path, table)
    if path is None:
        split = typed_texts(arguments.text, arguments.text_pair or ())
    else:
        split = predictor.read(path, text_columns=arguments.text_columns, files=files)
    threshold = 0.5 if arguments.threshold is None else arguments.threshold
    predictions = predictor.predict(split, top=arguments.top, threshold=threshold)
    names = [name.partition(":")[2] for name in split.names] if files else None
    for index, prediction in enumerate(predictions):
        if names is not None:
            print(printable(names[index]), end=":  ")
        _show(prediction)
    if table is not None:
        print(f"written: {write_rows(predictions, table, files=names)}")


def _the_one_input(arguments: Namespace) -> str | None:
    """The file or folder; None where texts were typed. Raises ValueError for both, none, or several."""
    typed = [f"--{name}" for name in ("text", "question") if arguments[name] is not None]
    for second, first in (("text_pair", "text"), ("choices", "text"), ("context", "question")):
        if arguments[second] is not None and arguments[first] is None:
            raise ValueError(f"--{second.replace('_', '-')} goes with --{first}, which is missing")
    if len(arguments.images) + len(typed) == 0:
        raise ValueError(
            'a run on texts takes --text "...", or a file (.txt, .csv, .tsv, .jsonl, .json) or a folder of .txt'
        )
    if typed and (arguments.images or typed[1:]):
        raise ValueError(f"give either a file or {typed[0]}, got {', '.join([*arguments.images, *typed])}")
    if len(arguments.images) > 1:
        raise ValueError(f"a run on texts takes one file or folder, got {', '.join(arguments.images)}")
    return None if typed else arguments.images[0]


def _show(prediction: TextPrediction) -> None:
    print(printable("  |  ".join(map(_short, prediction.texts))))
    if prediction.score is not None:
        print(f"  {prediction.score:8.3f}")
    for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
        print(f"  {100 * probability:6.2f} %  {printable(_short(name))}")


def _answer(predictor: Predictor, questions: Sequence[Question], table: Path | None) -> None:
    """Prints the answers; a .json file gets them by id, as SQuAD's server takes them, any other a row each."""
    from ..nlu.submission import write_answers
    from ..nlu.table import write_table

    answers = predictor.answer(questions)
    for question in questions:
        print(printable(_short(question.question)))
        print(f"  {printable(answers[question.id].text) or '(no answer)'}")
    if table is None:
        return
    if table.suffix.lower() == ".json":
        path = write_answers({name: answer.text for name, answer in answers.items()}, table)
    else:
        rows = [(q.id, q.question, answers[q.id].text, f"{answers[q.id].score:.9g}") for q in questions]
        path = write_table(iter([("id", "question", "answer", "score"), *rows]), table)
    print(f"written: {path}")


def _choose(predictor: Predictor, arguments: Namespace, path: str | None, table: Path | None) -> None:
    """Prints the choices of each context, the most probable one first, and writes them."""
    from ..nlu.predict import write_rows
    from ..nlu.typed_texts import typed_choices

    if path is None:
        if arguments.text is None or arguments.choices is None or arguments.text_pair:
            raise ValueError(f"{predictor.task.name} chooses: say --text CONTEXT --choices A B C, or name a file")
        split = typed_choices(arguments.text, arguments.choices)
    else:
        split = predictor.read_choices(path, text_columns=arguments.text_columns)
    predictions = predictor.choose(split)
    for prediction in predictions:
        _show(prediction)
    if table is not None:
        print(f"written: {write_rows(predictions, table, what='choice')}")


def _tag(predictor: Predictor, arguments: Namespace, path: str | None, table: Path | None) -> None:
    """Prints a word and its tag a line, as CoNLL files do, or writes that."""
    from ..io.atomic import write_text
    from ..nlu.predict import conll_lines
    from ..nlu.typed_texts import typed_sentences

    if path is None:
        if arguments.text is None or arguments.text_pair:
            raise ValueError(f"{predictor.task.name} tags the words of texts: say --text, or name a file")
        split = typed_sentences(arguments.text)
    else:
        split = predictor.read_sentences(path, text_columns=arguments.text_columns)
    lines = conll_lines(split, predictor.tag(split))
    if table is None:
        for line in lines.split("\n")[:-1]:
            print("\t".join(map(printable, line.split("\t"))))
        return
    table.parent.mkdir(parents=True, exist_ok=True)
    write_text(table, lines)
    print(f"written: {table}")


def _submit(predictor: Predictor, data: str, folder: Path | None) -> None:
    """The files that GLUE's server takes, written, or printed where no folder is named."""
    from ..nlu.submission import glue_rows, write_submission

    predictions = glue_rows(predictor, data)
    if folder is not None:
        for path in write_submission(predictions, folder):
            print(f"written: {path}")
        return
    for rows in predictions.values():
        print("index\tprediction")
        for index, prediction in enumerate(rows):
            print(f"{index}\t{prediction}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
