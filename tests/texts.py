"""Tiny encoders of transformers with tokenizers of their own, and small files of texts whose labels can be learned."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers

from capaboost_vit.nlu.config import TextConfig
from capaboost_vit.nlu.models import quiet

THINGS = ["cat", "dog", "bird", "fish", "horse", "mouse"]
PLACES = ["park", "lake", "house", "garden", "forest", "city"]
GOOD = ["good", "fine", "lovely", "bright", "happy"]
BAD = ["bad", "sad", "dull", "grim", "poor"]
OTHERS = ["the", "a", "is", "in", "was", "not", "and", "where", "now", "very", "gone", "seen", "we", "saw", "?", "."]
WORDS = [*THINGS, *PLACES, *GOOD, *BAD, *OTHERS]
POSITIONS = 48

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
TINY |= {"initializer_range": 0.3, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def bert_tokenizer():
    """Word pieces: the words, letters, and letters inside a word."""
    from transformers import BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *letters[1:],
        *(f"##{letter}" for letter in letters),
    ]
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))})


def roberta_tokenizer():
    """Bytes, and merges that build up each word with the space before it; no token types."""
    from transformers import RobertaTokenizerFast

    grown = [list(itertools.accumulate(f"Ġ{word}")) for word in WORDS]
    merges = dict.fromkeys(
        (start, longer[len(start) :]) for steps in grown for start, longer in itertools.pairwise(steps)
    )
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [start + letter for start, letter in merges]
    return RobertaTokenizerFast(
        vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))}, merges=list(merges)
    )


def write_encoder(folder: Path, kind: str = "bert", **options) -> Path:
    """A random masked language model of that kind, and its tokenizer, as transformers reads them."""
    import transformers

    tokenizer = {"bert": bert_tokenizer, "roberta": roberta_tokenizer}[kind]()
    name = {"bert": "Bert", "roberta": "Roberta"}[kind]
    # RoBERTa's positions begin behind that of the padding
    more = {"bert": {}, "roberta": {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1}}[kind]
    values = {"vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS, **TINY, **more, **options}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**values, pad_token_id=tokenizer.pad_token_id)
    with quiet():
        getattr(transformers, f"{name}ForMaskedLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def opinions(count: int, start: int = 0) -> list[tuple[str, int]]:
    """Texts with a good or a bad word, of several lengths, and whether the word is good."""
    found = []
    for i in range(start, start + count):
        label = i * 7 % 3 % 2
        words = ["the", THINGS[i % 6], "is", *["very"] * (i % 4), (BAD, GOOD)[label][i % 5]]
        words += ["in", "the", PLACES[i * 5 % 6]] if i % 2 else []
        found.append((" ".join(words), label))
    return found


def _table(path: Path, columns: tuple[str, ...], rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [columns, *rows]), "utf-8")


def write_opinions(folder: Path) -> Path:
    """Single texts and classes `bad`, `good`: jsonl files train, dev, test."""
    folder.mkdir(parents=True)
    start = 0
    for name, count in (("train", 40), ("dev", 13), ("test", 15)):
        rows = [{"text": text, "label": ("bad", "good")[label]} for text, label in opinions(count, start)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        start += count
    return folder


def write_pairs(folder: Path) -> Path:
    """RTE's files: entailment is where the second text has a good word."""
    start = 0
    for name, count in (("train", 40), ("dev", 26)):
        rows = []
        for i, (text, label) in enumerate(opinions(count, start)):
            other = f"we saw the {THINGS[(i + start) % 6]}"
            rows.append((i, other, text, ("not_entailment", "entailment")[label]))
        _table(folder / f"{name}.tsv", ("index", "sentence1", "sentence2", "label"), rows)
        start += count
    return folder


def write_mnli(folder: Path) -> Path:
    """MNLI's files, three classes and two dev sets."""
    start = 0
    classes = ("contradiction", "neutral", "entailment")
    for name, count in (("train", 45), ("dev_matched", 20), ("dev_mismatched", 14)):
        rows = []
        for i, (text, label) in enumerate(opinions(count, start)):
            neutral = i % 3 == 0
            rows.append(
                ("we saw it", "the cat is in the park" if neutral else text, classes[1 if neutral else 2 * label])
            )
        _table(folder / f"{name}.tsv", ("sentence1", "sentence2", "gold_label"), rows)
        start += count
    return folder


def write_scores(folder: Path) -> Path:
    """STS-B's files, with a test set: scores from 0 to 5, larger the more good words there are."""
    start = 0
    for name, count in (("train", 40), ("dev", 13), ("test", 15)):
        rows = []
        for i in range(start, start + count):
            good = i * 5 % 7 % 4
            words = [*GOOD[:good], *BAD[: 3 - good], *["very"] * (i % 3)]
            rows.append((i, f"the {THINGS[i % 6]}", " ".join(words), good * 1.5 + (i % 3) / 4))
        _table(folder / f"{name}.tsv", ("index", "sentence1", "sentence2", "score"), rows)
        start += count
    return folder


def write_questions(path: Path, *, unanswered: bool = False) -> Path:
    """A file of SQuAD of ten articles: where a thing is; every third context does not say it, if `unanswered`."""
    data = []
    for number in range(10):
        paragraphs = []
        for i in range(4):
            k = 4 * number + i
            thing, place = THINGS[k % 6], PLACES[k * 5 % 6]
            place = f"{GOOD[k % 5]} {place}" if k % 2 else place
            before = " ".join(["we saw the", THINGS[(k + 1) % 6], "and"] * (1 + k % 2))
            lacking = unanswered and k % 3 == 0
            context = f"{before} the {thing} is {'gone now' if lacking else f'in the {place}'} ."
            answers = [] if lacking else [{"text": place, "answer_start": context.index(place)}]
            qa = {"id": f"q{k}", "question": f"where is the {thing} ?", "answers": answers}
            paragraphs.append({"context": context, "qas": [{**qa, "is_impossible": True} if lacking else qa]})
        data.append({"title": f"article {number}", "paragraphs": paragraphs})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "v2.0", "data": data}), "utf-8")
    return path


def write_entities(folder: Path) -> Path:
    """CoNLL files train, dev, test, of three columns: a thing is THING, a place with what stands before it PLACE."""
    folder.mkdir(parents=True)
    start = 0
    for name, count in (("train", 40), ("dev", 13), ("test", 15)):
        lines = ["-DOCSTART- -X- O", ""]
        for i in range(start, start + count):
            words = [("we", "O"), ("saw", "O"), ("the", "O"), (THINGS[i % 6], "B-THING"), *[("now", "O")] * (i % 3)]
            before = [(GOOD[i % 5], "B-PLACE")] if i % 2 else []
            words += [("in", "O"), ("the", "O"), *before, (PLACES[i * 5 % 6], "I-PLACE" if before else "B-PLACE")]
            lines += [*(f"{word} X {tag}" for word, tag in words), ""]
        (folder / f"{name}.txt").write_text("\n".join(lines), "utf-8")
        start += count
    return folder


def tags_and_text(i: int) -> tuple[tuple[str, ...], str]:
    """A text that speaks of a thing, a place or a good word, of each or none, and these as its tags."""
    has = {"good": i % 2, "place": i // 2 % 2, "thing": i // 4 % 2}
    words = [GOOD[i % 5] if has["good"] else "very", PLACES[i % 6] if has["place"] else "now"]
    words += [THINGS[i % 6]] if has["thing"] else ["was", "seen"]
    return tuple(tag for tag, on in has.items() if on), " ".join(["the", *words])


def write_tags(folder: Path) -> Path:
    """csv files train, dev, test with a column of tags, `a;b`."""
    folder.mkdir(parents=True)
    start = 0
    for name, count in (("train", 40), ("dev", 13), ("test", 15)):
        rows = [tags_and_text(5 * i + i // 8) for i in range(start, start + count)]
        lines = ["text,labels", *(f"{text},{';'.join(tags)}" for tags, text in rows)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", "utf-8")
        start += count
    return folder


def choice(i: int) -> dict[str, Any]:
    """A context with two to four choices; the right one has a good word."""
    count = 2 + i % 3
    right = i * 5 % 7 % count
    choices = [f"it was {GOOD[i % 5] if k == right else BAD[(i + k) % 5]}" for k in range(count)]
    return {"context": f"we saw the {THINGS[i % 6]}{' now' * (i % 2)}", "choices": choices, "label": right}


def write_choices(folder: Path) -> Path:
    """jsonl files train, dev, test of multiple choice."""
    folder.mkdir(parents=True)
    start = 0
    for name, count in (("train", 40), ("dev", 13), ("test", 15)):
        lines = [json.dumps(choice(i)) + "\n" for i in range(start, start + count)]
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
        start += count
    return folder


def write_documents(path: Path) -> Path:
    """A document per line."""
    path.write_text("".join(f"{text} . {text}\n" for text, _ in opinions(30, 100)), "utf-8")
    return path


def write_all(folder: Path) -> Path:
    """Encoders `bert` and `roberta`, and the data of all `KINDS`."""
    for kind in ("bert", "roberta"):
        write_encoder(folder / kind, kind)
    write_opinions(folder / "opinions")
    write_pairs(folder / "RTE")
    write_mnli(folder / "MNLI")
    write_scores(folder / "STS-B")
    write_questions(folder / "v1.json")
    write_questions(folder / "v2.json", unanswered=True)
    write_documents(folder / "documents.txt")
    write_entities(folder / "entities")
    write_tags(folder / "tags")
    write_choices(folder / "choices")
    return folder


# kinds of runs: their task, data, and what else they need
KINDS: dict[str, dict[str, Any]] = {
    "opinions": {"task": "classification", "data": "opinions"},
    "pairs": {"task": "rte", "data": "RTE"},
    "three": {"task": "mnli", "data": "MNLI", "protocol": "halves"},
    "scores": {"task": "stsb", "data": "STS-B", "protocol": "own"},
    "questions": {"task": "squad", "data": "v1.json"},
    "unanswered": {"task": "squad_v2", "data": "v2.json", "model": "roberta"},
    "entities": {"task": "ner", "data": "entities"},
    "tags": {"task": "multi-label", "data": "tags"},
    "choices": {"task": "multiple-choice", "data": "choices", "lr": 1e-2},
    "masked": {"task": "mlm", "data": "documents.txt", "method": {"name": "full"}, "select": "last"},
}
UNIPELT = {"name": "unipelt", "parts": ["lora", "prefix", "adapter", "prompt"], "rank": 2, "bottleneck": 4}
UNIPELT |= {"prefix_length": 3, "prefix_bottleneck": 8, "prompt_length": 2}


def configure(material: Path, kind: str, output: Path, **options: Any) -> TextConfig:
    """A run of one of the `KINDS` on what `write_all` wrote; it learns within a few epochs."""
    values: dict[str, Any] = {"model": "bert", "method": {"name": "lora"}, "max_length": 40, "stride": 4}
    values |= {"batch_size": 8, "epochs": 6, "lr": 3e-2, "dropout": 0.0, "device": "cpu", "log_interval": 2}
    values |= KINDS[kind]
    values |= {name: str(material / values[name]) for name in ("model", "data")}
    return TextConfig(**{**values, "output": str(output), **options})
