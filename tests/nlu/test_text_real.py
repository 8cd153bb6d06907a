"""The real files: counts, labels and texts are those that their sources tell."""

from __future__ import annotations

from collections import Counter

import pytest

from capaboost_vit.nlu.data import open_texts
from capaboost_vit.nlu.tasks import get_task

pytestmark = pytest.mark.realdata


def opened(real_data, name, protocol="own"):
    folder = "domain_tasks" if get_task(name).domain else "glue_small"
    return open_texts(str(real_data / folder), get_task(name), protocol=protocol)


@pytest.mark.parametrize(
    ("name", "sizes", "labels"),
    [
        ("cola", (8551, 1043), {"acceptable": 6023, "unacceptable": 2528}),
        ("mrpc", (3668, 408), {"equivalent": 2474, "not_equivalent": 1194}),
        ("rte", (2490, 277), {"entailment": 1249, "not_entailment": 1241}),
        ("sst2", (67349, 872), {"positive": 37569, "negative": 29780}),
        ("stsb", (5749, 1500), None),
    ],
)
def test_glue_has_its_published_counts(real_data, name, sizes, labels):
    data = opened(real_data, name)
    assert (len(data.splits["train"]), len(data.splits["val"])) == sizes
    assert data.unlabelled == ("test",)
    if labels:
        found = Counter(data.classes[label] for label in data.splits["train"].labels)
        assert found == labels
    else:
        scores = data.splits["train"].labels
        assert (min(scores), max(scores)) == (0.0, 5.0)
        assert data.classes == ()


@pytest.mark.parametrize(
    ("name", "sizes", "classes"),
    [
        ("chemprot", (4169, 2427, 3469), 13),
        ("acl-arc", (1688, 114, 139), 6),
        ("scierc", (3219, 455, 974), 7),
        ("hyperpartisan", (516, 64, 65), 2),
    ],
)
def test_the_domains_have_their_published_counts(real_data, name, sizes, classes):
    data = opened(real_data, name)
    assert tuple(len(data.splits[split]) for split in ("train", "val", "test")) == sizes
    assert len(data.classes) == classes
    assert set(data.splits["train"].labels) == set(range(classes))


def test_a_lone_file_is_the_split_of_its_name(real_data):
    qnli = open_texts(str(real_data / "glue_small" / "QNLI" / "dev.tsv"), get_task("qnli"), protocol="own")
    assert {name: len(split) for name, split in qnli.splits.items()} == {"val": 5463}
    news = open_texts(str(real_data / "domain_tasks" / "ag_news_test" / "test.csv"), get_task("agnews"))
    assert Counter(news.splits["test"].labels) == dict.fromkeys(range(4), 1900)
    assert news.splits["test"].texts[1][0].startswith("The Race is On: Second Private Team Sets Launch Date for Human")
    assert news.classes[news.splits["test"].labels[1]] == "Sci/Tech"


@pytest.mark.parametrize("name", ["cola", "mrpc", "rte", "stsb"])
def test_small_tasks_halve_the_dev_set(real_data, name):
    data, own = opened(real_data, name, protocol=None), opened(real_data, name)
    dev = own.splits["val"]
    val, test = data.splits["val"], data.splits["test"]
    assert (len(val), len(test)) == (len(dev) // 2, len(dev) - len(dev) // 2)
    assert sorted(val.names + test.names) == sorted(dev.names)
    assert data.splits["train"] == own.splits["train"]


def test_large_tasks_take_a_thousand_examples_of_train(real_data):
    data, own = opened(real_data, "sst2", protocol=None), opened(real_data, "sst2")
    train, val = data.splits["train"], data.splits["val"]
    assert (len(val), len(train)) == (1000, 67349 - 1000)
    assert sorted(val.names + train.names) == sorted(own.splits["train"].names)
    assert data.splits["test"] == own.splits["val"]


def test_an_example_is_found_by_its_name(real_data):
    train = opened(real_data, "rte").splits["train"]
    lines = (real_data / "glue_small" / "RTE" / "train.tsv").read_text("utf-8").split("\n")
    for index in (0, 700, 2489):
        file, _, number = train.names[index].rpartition(":")
        assert file == "train.tsv"
        assert "\t".join(train.texts[index]) in lines[int(number) - 1]


def test_texts_keep_their_quotes(real_data):
    train = opened(real_data, "mrpc").splits["train"]
    assert train.texts[0][0].startswith('Amrozi accused his brother , whom he called " the witness " , of')
