"""Token ids are those of the tokenizer for each text alone; what is too long is cut and counted, or comes in pieces."""

from __future__ import annotations

import warnings

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from capaboost_vit.nlu.data import TextSplit, open_texts
from capaboost_vit.nlu.loader import TokenMasking
from capaboost_vit.nlu.tasks import TASKS
from capaboost_vit.nlu.tokens import encode, encode_pieces

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
WORDS = [*SPECIAL.values(), *(f"w{i}" for i in range(40))]


def word_tokenizer(*, types=True, **changes):
    """A word is a token: [CLS] a [SEP] b [SEP] with types 0 0 0 1 1."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=names, **{**SPECIAL, **changes})


def test_more_than_two_texts_are_joined_by_the_separator_and_cut_at_the_end():
    tokenizer = word_tokenizer()
    encoded = encode(split_of(("w0 w1", "w2", "w3 w4 w5")), tokenizer, max_length=9)
    assert tokenizer.convert_ids_to_tokens(encoded.ids[0].tolist()) == [
        *("[CLS]", "w0", "w1", "[SEP]", "w2", "[SEP]", "w3", "w4", "[SEP]")
    ]
    assert (encoded.cut, encoded.types[0].tolist()) == (1, [0] * 9)


def words(count, start=0):
    return " ".join(f"w{(start + i) % 40}" for i in range(count))


def split_of(*texts, labels=None):
    texts = tuple((text,) if isinstance(text, str) else text for text in texts)
    names = tuple(f"train.tsv:{i + 1}" for i in range(len(texts)))
    return TextSplit(texts, tuple(range(len(texts))) if labels is None else labels, names)


# encode


@pytest.mark.parametrize("pair", [False, True])
def test_each_example_is_what_the_tokenizer_makes_of_it_alone(pair):
    tokenizer = word_tokenizer()
    texts = [(words(i % 30 + 1), words(i % 17 + 1, 5))[: 1 + pair] for i in range(1203)]  # more than go in at once
    encoded = encode(split_of(*texts), tokenizer, max_length=24)
    assert len(encoded) == 1203
    for i in (0, 1, 29, 999, 1000, 1001, 1202):
        alone = tokenizer(*texts[i], truncation="longest_first", max_length=24)
        assert encoded.ids[i].tolist() == alone["input_ids"]
        assert encoded.types[i].tolist() == alone["token_type_ids"]
    assert encoded.lengths.tolist() == [len(ids) for ids in encoded.ids]
    special = 3 if pair else 2
    assert encoded.cut == sum(sum(len(text.split()) for text in part) + special > 24 for part in texts)
    assert (encoded.pad_id, encoded.max_length) == (0, 24)


def test_the_longer_text_of_a_pair_is_cut_first():
    encoded = encode(split_of((words(10), words(2))), word_tokenizer(), max_length=9)
    assert encoded.types[0].tolist() == [0] * 6 + [1] * 3
    assert encoded.cut == 1


def test_types_are_there_only_where_the_tokenizer_gives_them():
    assert encode(split_of(words(3)), word_tokenizer(types=False), max_length=8).types is None


@pytest.mark.parametrize(
    ("labels", "regression", "expected"),
    [
        ((2, 0), False, torch.tensor([2, 0])),
        ((0.5, 3.0), True, torch.tensor([0.5, 3.0])),
        ((), False, None),
    ],
)
def test_targets_are_classes_or_scores_or_none(labels, regression, expected):
    found = encode(split_of("w1", "w2", labels=labels), word_tokenizer(), max_length=8, regression=regression).targets
    if expected is None:
        assert found is None
    else:
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("make", [encode, encode_pieces])
def test_a_length_without_room_for_a_text_is_an_error(make):
    with pytest.raises(ValueError, match="--max-length 2 leaves no room: the tokenizer adds 2 special"):
        make(split_of("w1"), word_tokenizer(), max_length=2)


def test_two_texts_need_room_for_a_token_each():
    with pytest.raises(ValueError, match="adds 3 special tokens to two texts"):
        encode(split_of(("w1", "w2")), word_tokenizer(), max_length=4)
    assert encode(split_of(("w1", "w2")), word_tokenizer(), max_length=5).cut == 0


# pieces


@pytest.mark.parametrize("max_length", [3, 4, 7, 16])
def test_the_pieces_of_a_document_are_the_document(max_length):
    tokenizer = word_tokenizer()
    lengths = [i % 23 + 1 for i in range(1100)]
    documents = [words(length, i) for i, length in enumerate(lengths)]
    encoded = encode_pieces(split_of(*documents, labels=()), tokenizer, max_length=max_length)
    found = {}
    for name, ids, types in zip(encoded.names, encoded.ids, encoded.types, strict=True):
        assert (ids[0], ids[-1]) == (2, 3)
        assert len(ids) <= max_length
        assert types.tolist() == [0] * len(ids)
        found.setdefault(name.split(" ")[0], []).extend(ids[1:-1].tolist())
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in documents]
    assert found == {f"train.tsv:{i + 1}": ids for i, ids in enumerate(plain)}
    room = max_length - 2
    assert len(encoded) == sum(-(-length // room) for length in lengths)
    assert (encoded.targets, encoded.cut) == (None, 0)


def test_a_piece_is_named_by_its_document_and_number():
    encoded = encode_pieces(split_of(words(7), words(2), words(4)), word_tokenizer(), max_length=5)
    assert encoded.names == (
        "train.tsv:1", "train.tsv:1 (2)", "train.tsv:1 (3)", "train.tsv:2", "train.tsv:3", "train.tsv:3 (2)"
    )  # fmt: skip


def test_two_texts_are_one_document():
    encoded = encode_pieces(split_of((words(2), words(3, 9))), word_tokenizer(), max_length=16)
    assert encoded.ids[0].tolist() == [2, *(5 + i for i in (0, 1, 9, 10, 11)), 3]


def test_a_piece_without_a_word_is_left_out():
    encoded = encode_pieces(split_of("w1", "?", "w2"), word_tokenizer(), max_length=8)
    assert encoded.names == ("train.tsv:1", "train.tsv:3")
    with pytest.raises(ValueError, match="no token in any of the texts"):
        encode_pieces(split_of("?"), word_tokenizer(), max_length=8)


# masking knows the tokenizer


def test_the_masking_of_a_tokenizer():
    masking = TokenMasking(word_tokenizer(), probability=0.2, seed=3)
    assert (masking.mask_id, masking.ordinary.tolist()) == (4, list(range(5, 45)))
    assert (masking.probability, masking.seed) == (0.2, 3)
    with pytest.raises(ValueError, match="has no mask token, which --task mlm needs"):
        TokenMasking(word_tokenizer(mask_token=None))


# RoBERTa's own


@pytest.fixture(scope="session")
def roberta(real_data):
    from transformers import RobertaTokenizer

    folder = real_data / "roberta_bpe"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


@pytest.mark.realdata
def test_robertas_ids(roberta):
    encoded = encode(split_of("Hello world"), roberta, max_length=16)
    assert encoded.ids[0].tolist() == [0, 31414, 232, 2]
    assert encoded.types is None
    assert encoded.pad_id == 1
    pair = encode(split_of(("Hello world", "Hello")), roberta, max_length=16)
    assert pair.ids[0].tolist() == [0, 31414, 232, 2, 2, 31414, 2]
    masking = TokenMasking(roberta)
    assert (masking.mask_id, masking.ordinary.tolist()) == (50264, list(range(4, 50264)))


@pytest.mark.realdata
def test_rte_in_robertas_tokens(roberta, real_data):
    train = open_texts(str(real_data / "glue_small"), TASKS["rte"]).splits["train"]
    encoded = encode(train, roberta, max_length=128)
    assert encoded.cut == sum(len(roberta(*texts)["input_ids"]) > 128 for texts in train.texts)
    assert 0 < encoded.cut < 400
    assert encoded.lengths.max() == 128
    assert torch.equal(encoded.targets, torch.tensor(train.labels))
