"""The table of VTAB-1k and that of FGVC: what they say of each task."""

from __future__ import annotations

from pathlib import Path

import pytest

from capaboost_vit.study.suites import fgvc, vtab1k
from capaboost_vit.study.suites.opening import open_suite
from capaboost_vit.study.suites.task import DataLayout, matching_tasks
from capaboost_vit.vision.data import ImageData, Split, open_data, parse_split

EXACT = {"cifar100", "caltech101", "patch_camelyon"}
# all VTAB tasks whose images come as PNG, as raw pixels or as arrays; the others come as JPEG
LOSSLESS = {"cifar100", "svhn", "patch_camelyon", "clevr_count", "clevr_dist", "kitti", "dsprites_loc", "dsprites_ori"}
LOSSLESS |= {"smallnorb_azi", "smallnorb_ele"}


def by_name(name):
    return vtab1k.TASKS[name]


def test_there_are_19_tasks_with_387904_test_images():
    assert len(vtab1k.TASKS) == len({row.name for row in vtab1k.TASKS.values()}) == 19
    assert sum(row.test_images for row in vtab1k.TASKS.values()) == 387_904
    assert max(row.classes for row in vtab1k.TASKS.values()) == 397
    assert [
        sum(row.group == group for row in vtab1k.TASKS.values()) for group in ("natural", "specialised", "structured")
    ] == [
        7,
        4,
        8,
    ]


def test_tasks_are_chosen_by_names_and_wildcards_in_their_order():
    assert matching_tasks(vtab1k.TASKS, ("*",)) == list(vtab1k.TASKS.values())
    assert [row.name for row in matching_tasks(vtab1k.TASKS, ("smallnorb_*", "dtd"))] == [
        "dtd",
        "smallnorb_azi",
        "smallnorb_ele",
    ]
    with pytest.raises(ValueError, match="--tasks: nothing is called 'cifar10'; there are cifar100, caltech101"):
        matching_tasks(vtab1k.TASKS, ("dtd", "cifar10"))


def test_which_sets_are_exact_and_which_lossless():
    assert {row.name for row in vtab1k.TASKS.values() if row.exact} == EXACT
    assert {row.name for row in vtab1k.TASKS.values() if row.lossless} == LOSSLESS


# train is [:800] everywhere; sizes of TFDS's splits, and what its slices must come to
TFDS = {
    "cifar100": ({"train": 50_000, "test": 10_000}, range(45_000, 45_200), None),
    "caltech101": ({"train": 3_059, "test": 6_084}, range(2_753, 2_953), None),
    "dtd": ({"train": 1_880, "validation": 1_880, "test": 1_880}, range(200), None),
    "oxford_iiit_pet": ({"train": 3_680, "test": 3_669}, range(2_944, 3_144), None),
    "svhn": ({"train": 73_257, "test": 26_032}, range(65_931, 66_131), None),
    "eurosat": ({"train": 27_000}, range(16_200, 16_400), range(21_600, 27_000)),
    "resisc45": ({"train": 31_500}, range(18_900, 19_100), range(25_200, 31_500)),
    "clevr_count": ({"train": 70_000, "validation": 15_000}, range(63_000, 63_200), None),
    "clevr_dist": ({"train": 70_000, "test": 15_000}, range(63_000, 63_200), None),  # on the hub
    "kitti": ({"train": 6_347, "validation": 423, "test": 711}, range(200), None),
    "dsprites_loc": ({"train": 737_280}, range(589_824, 590_024), range(663_552, 737_280)),
    "smallnorb_ele": ({"train": 24_300, "test": 24_300}, range(200), range(12_150, 24_300)),
}


@pytest.mark.parametrize("name", TFDS)
def test_the_slices_come_to_vtabs_own_images(name):
    sizes, val, test = TFDS[name]
    data = ImageData("x", (), {n: Split(tuple(map(str, range(c))), tuple(range(c)), str) for n, c in sizes.items()})
    row = by_name(name)
    task = row.task_at(_table(*sizes))
    assert ("TFDS's validation" in str(task.notes)) == (name == "clevr_dist")
    assert data.split(task.train).labels == tuple(range(800))
    assert data.split(task.val).labels == tuple(val)
    assert data.split(task.test).labels == tuple(test or range(row.test_images))
    assert len(data.split(task.test)) == row.test_images


def _table(*splits):
    return DataLayout(Path("there"), True, frozenset(splits))


@pytest.mark.parametrize("suite", [vtab1k, fgvc])
def test_every_expression_of_every_task_can_be_read(suite):
    for row in suite.TASKS.values():
        for task in (row.task_on_hub(), row.task_at(_table("train", "test"))):
            for split in (task.train, task.val, task.full, task.test) if task else ():
                assert parse_split(split)


def test_what_the_hub_has():
    data = {row.name: (task := row.task_on_hub()) and task.data for row in vtab1k.TASKS.values()}
    assert data.pop("diabetic_retinopathy") is None
    assert {name for name, spec in data.items() if spec == f"bramtoula/vtab_{name}"} == EXACT
    assert {spec.partition("/")[0] for name, spec in data.items() if name not in EXACT} == {"dpdl-benchmark"}
    assert data["clevr_dist"] == "dpdl-benchmark/clevr"
    assert data["svhn"] == "dpdl-benchmark/svhn_cropped"
    notes = {row.name: task.notes for row in vtab1k.TASKS.values() if (task := row.task_on_hub())}
    assert {name for name, found in notes.items() if not found} == EXACT
    assert notes["dtd"] == ("not VTAB-exact: the order of the images is not verified",)
    assert len(notes["clevr_count"]) == 2


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("clevr_count", "label_count"),
        ("clevr_dist", "label_distance"),
        ("kitti", "label_distance"),
        ("dsprites_loc", "label_x_position_16"),
        ("dsprites_ori", "label_orientation_16"),
        ("smallnorb_azi", "label_azimuth"),
        ("smallnorb_ele", "label_elevation"),
        ("dtd", None),
    ],
)
def test_derived_labels_have_their_column(name, column):
    assert by_name(name).task_on_hub().options == ({} if column is None else {"label_column": column})


def test_the_five_fine_grained_sets():
    assert {row.name: row.classes for row in fgvc.TASKS.values()} == {
        "cub": 200,
        "nabirds": 555,
        "flowers": 102,
        "dogs": 120,
        "cars": 196,
    }
    tasks = {row.name: row.task_on_hub() for row in fgvc.TASKS.values()}
    assert tasks["nabirds"] is None
    assert (tasks["flowers"].train, tasks["flowers"].val, tasks["flowers"].full) == ("train", "val", "train+val")
    assert (tasks["cub"].train, tasks["cub"].val, tasks["cub"].full) == (
        "mixed(train)[:90%]",
        "mixed(train)[90%:]",
        "train",
    )
    assert tasks["cub"].sizes == {"full": 5_994, "test": 5_794}
    assert tasks["dogs"].sizes == {}
    assert "do not compare with papers" in tasks["dogs"].notes[0]


def test_the_synthetic_suite_has_the_sizes_and_classes_of_every_task_without_any_data():
    suite = open_suite("synthetic_vtab1k", data=None)
    assert [task.name for task in suite.tasks] == [row.name for row in vtab1k.TASKS.values()]
    for task, row in zip(suite.tasks, vtab1k.TASKS.values(), strict=True):
        data = open_data(task.data)
        assert (len(data.classes), task.classes, task.group) == (row.classes, row.classes, row.group)
        sizes = {name: len(data.split(getattr(task, name))) for name in ("train", "val", "full", "test")}
        assert sizes == {"train": 800, "val": 200, "full": 1_000, "test": row.test_images}
        assert "the accuracy nothing" in task.notes[0]
    assert [task.name for task in open_suite("synthetic_vtab1k", data=None, tasks=("kitti",)).tasks] == ["kitti"]
