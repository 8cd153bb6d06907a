"""The real VTAB-1k sets: sizes, which split holds what, and fingerprints that may never change."""

from __future__ import annotations

import pytest

from capaboost_vit.vision.data import check_data, open_data

pytestmark = pytest.mark.realdata

# names, labels, contents and their order, as `Split.record` of this release gives them
GOLDEN = {
    "eurosat_vtab1k": {
        "train800": "1a64bcc71bdc887f",
        "val200": "cb9fde41df099788",
        "train800val200": "2648dd5049908b2d",
    },
    "cifar100_1k": {"train800": "1ec05d4bd0bbd58a", "val200": "41064b845102a78b", "train800val200": "88e30ce7bb987fab"},
}
TESTS = {"eurosat_vtab1k": (5400, "ca1105e5155dfc94"), "cifar100_1k": (10000, "3ef3d6e6e01dcfa6")}


@pytest.mark.parametrize("name", GOLDEN)
def test_train_and_val_are_800_and_200_disjoint_and_together_the_1000(real_data, name):
    data = open_data(str(real_data / name))
    names = {part: set(split.names) for part, split in data.splits.items()}
    assert {part: len(split) for part, split in data.splits.items()} == {
        "train800": 800,
        "val200": 200,
        "train800val200": 1000,
        "test": TESTS[name][0],
    }
    assert [len(names[part]) for part in ("train800", "val200", "train800val200")] == [800, 200, 1000]
    assert names["train800"] | names["val200"] == names["train800val200"]
    assert not names["train800val200"] & names["test"]
    assert data.split("train") == data.splits["train800"]
    assert data.split("val") == data.splits["val200"]
    labels = {part: dict(zip(split.names, split.labels, strict=True)) for part, split in data.splits.items()}
    assert labels["train800"] | labels["val200"] == labels["train800val200"]


@pytest.mark.parametrize("name", GOLDEN)
def test_names_labels_contents_and_their_order_are_those_of_the_release(real_data, name):
    data = open_data(str(real_data / name))
    for part, golden in (GOLDEN[name] | {"test": TESTS[name][1]}).items():
        record = data.split(part).record()
        assert record["sha256"][:16] == golden
        assert record["images"] == record["hashed_images"]


def test_eurosat_has_no_problem_and_no_image_of_the_test_list_was_trained_on(real_data):
    report = check_data(open_data(str(real_data / "eurosat_vtab1k")))
    assert report.problems == []
    assert report.splits["test"].sizes == ((64, 64),) * 3


@pytest.mark.slow
def test_cifars_own_duplicates_under_two_labels_are_found(real_data):
    report = check_data(open_data(str(real_data / "cifar100_1k")))
    assert len(report.contradictions) == 2
    assert not report.shared
