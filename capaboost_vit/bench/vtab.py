"""The tasks of VTAB-1k, as far as their time depends on them: classes, and images of the test."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple


class Task(NamedTuple):
    """One task."""

    name: str
    classes: int
    test_images: int


# Zhai et al. 2019, "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark"
TASKS = (
    Task("cifar100", 100, 10_000),
    Task("caltech101", 102, 6_084),
    Task("dtd", 47, 1_880),
    Task("oxford_flowers102", 102, 6_149),
    Task("oxford_iiit_pet", 37, 3_669),
    Task("svhn", 10, 26_032),
    Task("sun397", 397, 21_750),
    Task("patch_camelyon", 2, 32_768),
    Task("eurosat", 10, 5_400),
    Task("resisc45", 45, 6_300),
    Task("diabetic_retinopathy", 5, 42_670),
    Task("clevr_count", 8, 15_000),
    Task("clevr_dist", 6, 15_000),
    Task("dmlab", 6, 22_735),
    Task("kitti", 4, 711),
    Task("dsprites_loc", 16, 73_728),
    Task("dsprites_ori", 16, 73_728),
    Task("smallnorb_azi", 18, 12_150),
    Task("smallnorb_ele", 9, 12_150),
)


def chosen_tasks(patterns: tuple[str, ...]) -> list[Task]:
    """The tasks that any of the names or wildcards match, in the usual order.

    Raises:
        ValueError: one that matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(task.name, pattern) for task in TASKS):
            raise ValueError(f"--tasks: nothing is called {pattern!r}; there are {', '.join(t.name for t in TASKS)}")
    return [task for task in TASKS if any(fnmatchcase(task.name, pattern) for pattern in patterns)]
