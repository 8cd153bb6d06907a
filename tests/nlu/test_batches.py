"""Batches of tokens: every example once, filled up as far as needed, masked as BERT's, in one order."""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections import Counter
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from capaboost_vit.nlu.loader import TextExamples, TokenMasking, text_eval_loader
from capaboost_vit.nlu.tokens import Encoded
from capaboost_vit.training.loader import TrainLoader

PAD, MASK, SPECIAL, VOCABULARY = 1, 4, (0, 1, 2, 3, 4), 60
TOKENIZER = SimpleNamespace(
    mask_token_id=MASK, all_special_ids=SPECIAL, get_vocab=lambda: {"first": 0, "last": VOCABULARY - 1}
)
MASKING = TokenMasking(TOKENIZER, seed=7)
with_and_without_masking = pytest.mark.parametrize("masking", [None, MASKING], ids=["labels", "masked"])


def encoded(count=53, *, types=True, kind="classes", longest=40, **options):
    """Examples that are told apart by their first word; target i is that of example i."""
    draw = np.random.default_rng(0)
    ids = []
    for _ in range(count):
        words = draw.integers(5, VOCABULARY, draw.integers(1, longest - 1))
        ids.append(np.array([0, *words, 2], dtype=np.int32))
    targets = {
        "classes": torch.arange(count),
        "scores": torch.arange(count) / 2 - 1,
        "spans": torch.arange(2 * count).reshape(count, 2),
        "none": None,
    }[kind]
    segments = tuple((np.arange(len(row)) > len(row) // 2).astype(np.int32) for row in ids)
    names = tuple(f"train.tsv:{i}" for i in range(count))
    return Encoded(tuple(ids), segments if types else None, targets, names, PAD, **options)


def updates_of(examples, *, masking=None, group_by_length=True, **options):
    lengths = examples.lengths if group_by_length else None
    return TrainLoader(TextExamples(examples, masking), lengths=lengths, **{"batch_size": 8, "seed": 0, **options})


def same(first, second):
    (inputs, targets), (others, expected) = first, second
    assert inputs.keys() == others.keys()
    assert all(torch.equal(inputs[name], others[name]) for name in inputs)
    assert torch.equal(targets, expected)


def counted(targets):
    """Which examples do not merely stand in: -1 for classes and spans, -100 for masked tokens, NaN for scores."""
    if targets.is_floating_point():
        return ~targets.isnan()
    return torch.tensor(
        [not set(row.flatten().tolist()) <= {-1} and set(row.flatten().tolist()) != {-100} for row in targets]
    )


def naive(examples, indices, width):
    """The batch by a loop over examples and positions."""
    ids, mask, types = ([[fill] * width for _ in indices] for fill in (PAD, 0, 0))
    for row, index in enumerate(indices):
        for place, token in enumerate(examples.ids[index].tolist()):
            ids[row][place], mask[row][place] = token, 1
            types[row][place] = int(examples.types[index][place])
    return {
        name: torch.tensor(rows)
        for name, rows in (("input_ids", ids), ("attention_mask", mask), ("token_type_ids", types))
    }


# filling up


@pytest.mark.parametrize("group", [False, True])
def test_a_batch_is_that_of_a_naive_loop(group):
    examples = encoded()
    for update in updates_of(examples, group_by_length=group).epoch(1):
        ((inputs, targets),) = update.batches
        longest = max(len(examples.ids[index]) for index in update.indices)
        width = math.ceil(longest / 8) * 8
        same((inputs, targets), (naive(examples, update.indices, width), torch.tensor(update.indices)))
        assert all(value.dtype == torch.int64 for value in inputs.values())


def test_without_types_the_batch_has_none():
    ((inputs, _),) = next(updates_of(encoded(types=False)).epoch(0)).batches
    assert inputs.keys() == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("longest", "limit", "width"), [(13, 13, 13), (13, 14, 14), (13, 16, 16), (13, 512, 16), (16, 16, 16)]
)
def test_no_batch_is_filled_up_beyond_what_the_model_takes(longest, limit, width):
    ids = (np.arange(longest, dtype=np.int32), np.arange(3, dtype=np.int32))
    examples = Encoded(ids, None, torch.tensor([0, 1]), ("a", "b"), PAD, max_length=limit)
    ((inputs, _),) = text_eval_loader(examples, batch_size=2)
    assert inputs["input_ids"].shape == (2, width)


def test_grouping_by_length_fills_up_less():
    examples = encoded(2000, longest=120)

    def tokens(group):
        parts = [batch for update in updates_of(examples, group_by_length=group).epoch(0) for batch in update.batches]
        return sum(inputs["input_ids"].numel() for inputs, _ in parts)

    assert tokens(True) < 0.75 * tokens(False)


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [("classes", (8,), torch.int64), ("scores", (8,), torch.float32), ("spans", (8, 2), torch.int64)],
)
def test_targets_are_those_of_the_examples(kind, shape, dtype):
    examples = encoded(kind=kind)
    for update in updates_of(examples).epoch(0):
        ((_, targets),) = update.batches
        assert torch.equal(targets, examples.targets[update.indices])
        assert targets.dtype == dtype
    first = next(updates_of(examples).epoch(0)).batches[0][1]
    assert first.shape == shape


def test_a_batch_shares_no_memory_with_the_examples():
    examples = encoded()
    before = copy.deepcopy(examples)
    for update in updates_of(examples).epoch(0):
        for inputs, targets in update.batches:
            targets.fill_(99)
            for value in inputs.values():
                value.fill_(99)
    assert torch.equal(examples.targets, before.targets)
    assert all(np.array_equal(a, b) for a, b in zip(examples.ids, before.ids, strict=True))


# the order of training


@with_and_without_masking
def test_an_epoch_that_is_begun_later_is_the_rest_of_it(masking):
    examples = encoded()
    whole = list(updates_of(examples, accumulation=2, masking=masking).epoch(3))
    updates = updates_of(examples, accumulation=2, masking=masking)
    for start in (4, 0, 6, 7):
        rest = list(updates.epoch(3, start))
        assert [update.indices for update in rest] == [update.indices for update in whole[start:]]
        for found, expected in zip(rest, whole[start:], strict=True):
            for batch, other in zip(found.batches, expected.batches, strict=True):
                same(batch, other)


@with_and_without_masking
def test_batches_neither_read_nor_move_the_global_random_states(masking):
    def load(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        batches = [batch for update in updates_of(encoded(), masking=masking).epoch(1) for batch in update.batches]
        batches += list(text_eval_loader(encoded(), batch_size=4, masking=masking))
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        assert before == after
        return batches

    for batch, other in zip(load(5), load(6), strict=True):
        same(batch, other)


# evaluation


def test_evaluation_gives_the_longest_first_and_tells_their_places():
    examples = encoded()
    batches = text_eval_loader(examples, batch_size=8)
    assert batches.indices == sorted(range(53), key=lambda index: -len(examples.ids[index]))
    for _ in range(2):
        answers = torch.empty(53, dtype=torch.int64)
        places = iter(batches.indices)
        for inputs, targets in batches:
            rows = [next(places) for _ in targets]
            answers[rows] = inputs["input_ids"][:, 1]
            same((inputs, targets), (naive(examples, rows, inputs["input_ids"].shape[1]), torch.tensor(rows)))
        assert answers.tolist() == [int(ids[1]) for ids in examples.ids]
    batches.close()


def test_a_split_without_examples_has_no_batches():
    assert list(text_eval_loader(encoded(0), batch_size=4)) == []
    assert list(updates_of(encoded(0)).epoch(0)) == []


@pytest.mark.parametrize(("kind", "masking"), [("classes", None), ("scores", None), ("spans", None), ("none", MASKING)])
def test_what_stands_in_does_not_count_whatever_is_asked(kind, masking):
    """A score of -1 is a score: example 0 has it, and counts."""
    examples = encoded(1, kind=kind)
    ((_, own),) = text_eval_loader(examples, batch_size=4, masking=masking)
    ((inputs, other),) = text_eval_loader(examples, batch_size=4, rank=1, world_size=2, masking=masking)
    assert counted(own).tolist() == [True]
    assert counted(other).tolist() == [False]
    assert own.shape == other.shape
    assert inputs["input_ids"].shape == (1, math.ceil(len(examples.ids[0]) / 8) * 8)


@pytest.mark.parametrize("make", [lambda e: text_eval_loader(e, batch_size=4), lambda e: updates_of(e)])
def test_without_labels_a_masking_is_needed(make):
    with pytest.raises(ValueError, match="no labels: give a masking"):
        make(encoded(kind="none"))


# masking


def test_masked_batches_ask_for_the_tokens_that_were_there():
    examples = encoded(kind="none")
    for update in updates_of(examples, masking=MASKING).epoch(4):
        ((inputs, targets),) = update.batches
        plain = naive(examples, update.indices, targets.shape[1])
        asked = targets != -100
        assert torch.equal(targets[asked], plain["input_ids"][asked])
        assert torch.equal(inputs["input_ids"][~asked], plain["input_ids"][~asked])
        assert not torch.isin(targets, torch.tensor(SPECIAL)).any()
        assert asked.any(1).all()
        assert torch.equal(inputs["attention_mask"], plain["attention_mask"])
        assert torch.equal(inputs["token_type_ids"], plain["token_type_ids"])


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_of_the_tokens_asked_for_most_are_hidden(probability):
    """80 % the mask, 10 % another token of the vocabulary, 10 % as they were: within 4 standard deviations."""
    masking = TokenMasking(TOKENIZER, probability=probability)
    ids = np.random.default_rng(1).integers(5, VOCABULARY, 100_000).astype(np.int32)
    inputs, targets = masking(ids, epoch=0, index=0)
    asked = targets != -100

    def near(count, of, expected):
        assert abs(count / of - expected) < 4 * math.sqrt(expected * (1 - expected) / of)

    near(asked.sum(), len(ids), probability)
    hidden, kept = inputs == MASK, asked & (inputs == ids)
    near(hidden.sum(), asked.sum(), 0.8)
    chance = 1 / (VOCABULARY - len(SPECIAL))  # of a drawn token to be the same
    near(kept.sum(), asked.sum(), 0.1 + 0.1 * chance)
    other = inputs[asked & ~hidden & ~kept]
    assert set(other) == set(range(5, VOCABULARY))
    assert max(Counter(other.tolist()).values()) < 4 * len(other) / (VOCABULARY - len(SPECIAL))


def test_what_is_masked_is_a_function_of_seed_epoch_and_index():
    ids = np.arange(5, 55, dtype=np.int32)
    first = MASKING(ids, epoch=1, index=2)
    again = pickle.loads(pickle.dumps(MASKING))(ids, epoch=1, index=2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other_seed = TokenMasking(TOKENIZER, seed=8)
    others = [MASKING(ids, epoch=2, index=2), MASKING(ids, epoch=1, index=3), other_seed(ids, epoch=1, index=2)]
    assert all(not np.array_equal(first[1], other[1]) for other in others)
    assert ids.tolist() == list(range(5, 55))


def test_the_masking_of_an_example_does_not_depend_on_its_batch():
    def by_index(**options):
        found = {}
        for update in updates_of(encoded(kind="none"), masking=MASKING, **options).epoch(2):
            batches = [zip(inputs["input_ids"], targets, strict=True) for inputs, targets in update.batches]
            for index, (ids, asked) in zip(update.indices, chain(*batches), strict=True):
                length = len(encoded().ids[index])
                found[index] = (ids[:length].tolist(), asked[:length].tolist())
        return found

    expected = by_index()
    assert by_index(batch_size=5, group_by_length=False, accumulation=2) == expected
    assert by_index(seed=9) == expected  # of the order; the masking has its own


def test_masking_is_drawn_anew_in_each_epoch_but_not_in_evaluation():
    examples = encoded(kind="none")
    updates = updates_of(examples, masking=MASKING)
    totals = [
        sum(int((t != -100).sum() * t.shape[1]) for u in updates.epoch(e) for _, t in u.batches) for e in range(3)
    ]
    assert len(set(totals)) > 1
    batches = text_eval_loader(examples, batch_size=8, masking=MASKING)
    for batch, other in zip(batches, batches, strict=True):
        same(batch, other)
    (first, asked), index = next(iter(batches)), batches.indices[0]
    inputs, targets = MASKING(examples.ids[index], epoch=0, index=index)
    assert first["input_ids"][0, : len(inputs)].tolist() == inputs.tolist()
    assert asked[0, : len(inputs)].tolist() == targets.tolist()


def test_the_shortest_example_is_asked_for_its_only_token_and_none_without_one():
    masking = TokenMasking(TOKENIZER, probability=1e-9)
    for index in range(20):
        assert masking(np.array([0, 9, 2], dtype=np.int32), epoch=0, index=index)[1].tolist() == [-100, 9, -100]
        inputs, targets = masking(np.array([0, 2], dtype=np.int32), epoch=0, index=index)
        assert (inputs.tolist(), targets.tolist()) == ([0, 2], [-100, -100])
    places = {int(np.flatnonzero(masking(np.arange(5, 25), epoch=0, index=i)[1] != -100)[0]) for i in range(300)}
    assert places == set(range(20))


def test_everything_may_be_asked_for():
    ids = np.array([0, 9, 10, 2], dtype=np.int32)
    assert TokenMasking(TOKENIZER, probability=1.0)(ids, epoch=0, index=0)[1].tolist() == [-100, 9, 10, -100]
