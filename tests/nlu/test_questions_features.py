"""Windows of tokens: every token's characters, every answer's tokens, for tokenizers of both kinds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import BertTokenizerFast, RobertaTokenizerFast

from capaboost_vit.nlu.loader import text_eval_loader
from capaboost_vit.nlu.questions import Question, QuestionSplit, encode_questions

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?'é"


def bert():
    """Word pieces: a few words, all letters, and letters inside a word."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "sat", "the", "cat", "on", "mat", "naive", "##s"]
    words += [*LETTERS, *(f"##{letter}" for letter in LETTERS if letter != "s")]
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})


def roberta():
    """Bytes, and two merges; no token types, and two separators between the segments."""
    merges = [("Ġ", "c"), ("a", "t"), ("Ġc", "at")]
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [first + second for first, second in merges]
    return RobertaTokenizerFast(vocab={word: number for number, word in enumerate(words)}, merges=merges)


BERT, ROBERTA = bert(), roberta()
both = pytest.mark.parametrize("tokenizer", [BERT, ROBERTA], ids=["bert", "roberta"])


def ask(context, answer=None, *, question="who sat?", start=None, name="q"):
    if answer is None:
        return Question(name, question, context, (), (), "T")
    start = context.index(answer) if start is None else start
    return Question(name, question, context, (answer,), (start,), "T")


def encode(*questions, tokenizer=BERT, **options):
    return encode_questions(QuestionSplit(questions), tokenizer, **{"max_length": 64, "stride": 8, **options})


def answer_of(windows, index, context):
    first, last = windows.targets[index].tolist()
    return context[windows.spans[index][first, 0] : windows.spans[index][last, 1]] if first else None


# one window


def test_a_window_of_bert_by_hand():
    windows = encode(ask("the cat sat on the mats", "cat sat"))
    words = ["[CLS]", "who", "sat", "?", "[SEP]", "the", "cat", "sat", "on", "the", "mat", "##s", "[SEP]"]
    assert [ids.tolist() for ids in windows.ids] == [BERT.convert_tokens_to_ids(words)]
    assert [types.tolist() for types in windows.types] == [[0] * 5 + [1] * 8]
    assert windows.targets.tolist() == [[6, 7]]
    assert windows.targets.dtype == torch.int64
    assert windows.spans[0].tolist() == [[-1, -1]] * 5 + [
        [0, 3], [4, 7], [8, 11], [12, 14], [15, 18], [19, 22], [22, 23], [-1, -1],
    ]  # fmt: skip
    assert (windows.names, windows.question, windows.pad_id, windows.cut) == (("q",), (0,), 0, 0)
    assert (len(windows), windows.lengths.tolist(), windows.max_length) == (1, [13], 64)


def test_a_window_of_roberta_has_no_types_and_two_separators():
    windows = encode(ask("a cat sat", "cat"), tokenizer=ROBERTA)
    words = ROBERTA.convert_ids_to_tokens(windows.ids[0])
    assert words == ["<s>", *"who", "Ġ", "s", "at", "?", "</s>", "</s>", "a", "Ġcat", "Ġ", "s", "at", "</s>"]
    assert windows.types is None
    assert windows.pad_id == 1
    assert windows.targets.tolist() == [[11, 11]]
    assert windows.spans[0][11].tolist() == [2, 5]  # the space before a word is not of it


@both
def test_what_has_no_answer_points_to_the_cls_token(tokenizer):
    windows = encode(ask("the cat sat"), ask("the cat sat", "cat", name="r"), tokenizer=tokenizer)
    assert windows.targets[0].tolist() == [0, 0]
    assert windows.ids[0][0] == tokenizer.cls_token_id
    assert windows.targets[1].min() > 0


def test_the_first_answer_is_the_target():
    question = Question("q", "who sat?", "the cat sat on the cat", ("cat", "the cat"), (19, 0), "T")
    assert encode(question).targets.tolist() == [[10, 10]]


@both
@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("the cat sat", "the cat sat"),
        ("   the cat  ", "cat"),
        ("\n\tthe cat sat\u00a0on", "sat"),
        ("Zu\u0308rich sat", "Zu\u0308rich"),  # a combining mark
        ("Zu\u0308rich sat", "sat"),
        ("na\u00efve cat", "na\u00efve"),
        ("\u6771\u4eac\u306e cat", "\u4eac"),
        ("\U0001f600 cat \U0001f600", "cat"),
        ("cat \U0001f600 sat", "\U0001f600"),
        ("\U0001f468\u200d\U0001f469 cat", "cat"),  # a joiner that BERT drops
        ("\u200bcat\u200b", "cat"),
        ("the \ufb01 cat", "cat"),  # a ligature
        ("\u0130stanbul cat sat", "cat"),  # one letter, two in lower case
    ],
)
def test_characters_are_those_of_the_context_whatever_the_tokenizer_changes(tokenizer, context, answer):
    windows = encode(ask(context, answer), tokenizer=tokenizer)
    assert answer_of(windows, 0, context) == answer


@both
@pytest.mark.parametrize(
    ("context", "answer", "found"),
    [
        ("the cats sat", "cat", {"cat", "cats"}),
        ("in 1864 the cat", "4", {"4"}),
        ("the mats", "at", {"mat", "at"}),
        ("the cat", " cat ", {"cat"}),  # its white space is of no token
    ],
)
def test_an_answer_in_the_middle_of_a_token_takes_the_whole_token(tokenizer, context, answer, found):
    context = context + " "
    windows = encode(ask(context, answer), tokenizer=tokenizer)
    assert answer_of(windows, 0, context) in found


def test_an_answer_at_the_very_edge_is_found_though_the_tokenizer_drops_a_part():
    context = "\u200bcat sat\u200b"
    windows = encode(ask(context, context))
    assert answer_of(windows, 0, context) == "cat sat"


def test_an_answer_of_which_no_token_is_left_is_no_answer():
    assert encode(ask("cat \u200b sat", "\u200b")).targets.tolist() == [[0, 0]]
    windows = encode(ask("\u200b", "\u200b"))  # a context without a token
    assert windows.targets.tolist() == [[0, 0]]
    assert (windows.spans[0] == -1).all()


# several windows


@both
@pytest.mark.parametrize(("max_length", "stride"), [(20, 0), (20, 3), (21, 8), (22, 1)])
def test_windows_cover_the_context_and_overlap_by_the_stride(tokenizer, max_length, stride):
    context = "the cat sat on the mat, the cat sat on the mat. who sat on the cat?"
    windows = encode(ask(context, "mat."), tokenizer=tokenizer, max_length=max_length, stride=stride)
    tokens = [span[span[:, 0] >= 0].tolist() for span in windows.spans]
    assert len(windows) > 1
    assert windows.names == ("q", *(f"q ({number})" for number in range(2, len(windows) + 1)))
    assert all(len(ids) == max_length for ids in windows.ids[:-1])
    assert len(windows.ids[-1]) <= max_length
    whole = encode(ask(context, "mat."), tokenizer=tokenizer, max_length=500)
    rebuilt = tokens[0]
    for before, after in pairwise(tokens):
        assert after[:stride] == before[len(before) - stride :]
        rebuilt = rebuilt + after[stride:]
    assert rebuilt == whole.spans[0][whole.spans[0][:, 0] >= 0].tolist()


@both
def test_a_window_holds_the_whole_answer_or_points_to_the_cls_token(tokenizer):
    context = "the cat sat on the mat, the cat sat on the mat. who sat on the cat?"
    answer = "mat. who"
    windows = encode(ask(context, answer), tokenizer=tokenizer, max_length=20, stride=8)
    start = context.index(answer)
    held = 0
    for index, span in enumerate(windows.spans):
        inside = span[span[:, 0] >= 0]
        whole = inside[0, 0] <= start and start + len(answer) <= inside[-1, 1]
        assert answer_of(windows, index, context) == (answer if whole else None)
        held += whole
    assert 0 < held < len(windows)


def test_more_questions_than_are_encoded_at_once_are_numbered_through():
    context = "the cat sat on the mat, the cat sat on the mat"
    questions = [
        ask(context, "mat", name=f"q{i}", question="who?" if i % 2 else "who sat on the cat?") for i in range(600)
    ]
    windows = encode(*questions, max_length=16, stride=2)
    assert sorted(set(windows.question)) == list(range(600))
    assert list(windows.question) == sorted(windows.question)
    for index in (0, 1, 255, 256, 599):
        one = encode(questions[index], max_length=16, stride=2)
        mine = [i for i, owner in enumerate(windows.question) if owner == index]
        for column in ("ids", "types", "spans"):
            for ours, theirs in zip(getattr(one, column), (getattr(windows, column)[i] for i in mine), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert one.names == tuple(windows.names[i] for i in mine)
        assert torch.equal(one.targets, windows.targets[mine])


pieces = st.lists(
    st.sampled_from(["cat", "mats", " ", "  ", "\n", ".", "é", "e\u0301", "\u6771", "\U0001f600", "\u200b", "x1"]),
    min_size=1,
    max_size=25,
).map("".join)


@settings(max_examples=100, deadline=None)
@given(pieces, st.sampled_from([BERT, ROBERTA]), st.data())
def test_tokens_of_any_answer_cover_it_and_no_token_more(context, tokenizer, data):
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    answer = context[start:end]
    windows = encode(ask(context, answer, start=start), tokenizer=tokenizer, max_length=500)
    first, last = windows.targets[0].tolist()
    core = [start + i for i, letter in enumerate(answer) if not letter.isspace()]
    spans = windows.spans[0]
    sharing = [i for i, (low, high) in enumerate(spans) if low >= 0 and any(low <= place < high for place in core)]
    assert (first, last) == ((sharing[0], sharing[-1]) if sharing else (0, 0))
    if sharing and tokenizer is ROBERTA:  # BERT drops characters
        assert spans[first, 0] <= core[0]
        assert spans[last, 1] >= core[-1] + 1


# long questions


@both
def test_a_long_question_loses_its_end_and_is_counted(tokenizer):
    long = ask("the cat sat", "cat", question="  who sat on the cat who sat on the mat?")
    short = ask("the cat sat", "cat", question="who?", name="r")
    windows = encode(long, short, tokenizer=tokenizer, max_question=6)
    assert windows.cut == 1
    assert answer_of(windows, 0, "the cat sat") == "cat"
    asked = tokenizer.tokenize("who sat on the cat who sat on the mat?")[:6]
    assert tokenizer.convert_ids_to_tokens(windows.ids[0])[1:7] == asked
    assert encode(long, short, tokenizer=tokenizer).cut == 0


def test_a_question_is_cut_between_characters_though_one_has_several_tokens():
    question = ask("the cat sat", "cat", question="\U0001f600\U0001f601")
    windows = encode(question, tokenizer=ROBERTA, max_question=6, max_length=17, stride=8)  # room for 9 after 4
    assert ROBERTA.decode(windows.ids[0]).startswith("<s>\U0001f600</s>")


def test_a_question_is_not_cut_after_a_space():
    windows = encode(ask("the cat sat", "cat", question="who cat cat"), tokenizer=ROBERTA, max_question=3)
    assert ROBERTA.decode(windows.ids[0]).startswith("<s>who</s></s>")


@both
def test_white_space_around_a_question_takes_no_room(tokenizer):
    plain, spaced = ask("the cat sat", "cat"), ask("the cat sat", "cat", question="  who sat? \n")
    (ours,), (theirs,) = (encode(question, tokenizer=tokenizer).ids for question in (plain, spaced))
    np.testing.assert_array_equal(ours, theirs)


# what is refused


@both
def test_a_question_that_leaves_no_room_is_named(tokenizer):
    question = ask("the cat sat on the mat", "cat", question="who sat on the mat?", name="q7")
    length = len(tokenizer.tokenize(question.question)) + tokenizer.num_special_tokens_to_add(pair=True)
    for room, stride in ((-2, 0), (0, 0), (3, 3), (3, 5)):
        with pytest.raises(
            ValueError,
            match=f"question 'q7' leaves {max(room, 0)} of --max-length {length + room} tokens for the context, "
            f"expected more than --stride {stride}: raise --max-length, or lower --stride or --max-question",
        ):
            encode(ask("cat", "cat"), question, tokenizer=tokenizer, max_length=length + room, stride=stride)
    assert len(encode(question, tokenizer=tokenizer, max_length=length + 4, stride=3)) > 1


def test_a_length_without_room_is_refused():
    with pytest.raises(ValueError, match="--max-length 4 leaves no room: the tokenizer adds 3 special tokens to two"):
        encode(ask("the cat sat", "cat"), max_length=4)


def test_a_tokenizer_without_a_cls_token_is_refused():
    headless = bert()
    headless.cls_token = "[MASK]"
    with pytest.raises(ValueError, match="BertTokenizer begins no text with a cls token"):
        encode(ask("the cat sat", "cat"), tokenizer=headless)


def test_what_is_held_of_a_token_is_small():
    windows = encode(ask("the cat sat", "cat"))
    assert {array.dtype for array in (*windows.ids, *windows.types, *windows.spans)} == {np.dtype(np.int32)}


# as batches


@both
def test_windows_make_batches_as_examples_do(tokenizer):
    context = "the cat sat on the mat, the cat sat on the mat"
    questions = [ask(context, "mat", name=f"q{i}") for i in range(3)]
    windows = encode(*questions, tokenizer=tokenizer, max_length=20, stride=2)
    batches = text_eval_loader(windows, batch_size=4)
    for (inputs, targets), part in zip(batches, batches.parts, strict=True):
        for row, (index, _) in enumerate(part):
            held = inputs["attention_mask"][row].bool()
            assert inputs["input_ids"][row][held].tolist() == windows.ids[index].tolist()
            assert ("token_type_ids" in inputs) == (tokenizer is BERT)
            assert torch.equal(targets[row], windows.targets[index])
    assert sorted(batches.indices) == list(range(len(windows)))
