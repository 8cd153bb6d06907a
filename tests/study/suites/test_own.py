"""A user's own suite: what a file may say, and what is said of a wrong one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from planted import folders

from capaboost_vit.study.suites.opening import open_suite
from capaboost_vit.study.suites.task import SuiteTask
from capaboost_vit.study.suites.task import __doc__ as documentation
from capaboost_vit.vision.data import open_data
from capaboost_vit.vision.data.sprites import TASKS

MINI = Path(__file__).resolve().parents[3] / "configs" / "suites" / "mini.yaml"


def write(tmp_path, text):
    path = tmp_path / "my suite.yaml"
    path.write_text(text)
    return str(path)


def test_the_example_of_the_documentation(tmp_path):
    example = "name: mine" + documentation.partition("name: mine")[2]
    suite = open_suite(write(tmp_path, example), data=None)
    assert suite.name == "mine"
    birds, leaves = suite.tasks
    assert birds == SuiteTask("birds", "pictures/birds", classes=12)
    assert leaves == SuiteTask(
        "leaves",
        "leaves.zip",
        group="plants",
        train="mixed(train)[:80%]",
        val="mixed(train)[80%:]",
        full="mixed(train)[:80%]+mixed(train)[80%:]",
    )


def test_all_keys(tmp_path):
    text = """
tasks:
  2024: {data: digits:5-9, group: a, classes: 5, val: null, test: "test[:50%]", options: {img_size: 32}, notes: [small],
         sizes: {train: 447, test: [109, 110]}}
  b: {data: digits, full: train}
"""
    suite = open_suite(write(tmp_path, text), data=None)
    assert suite.name == "my suite"
    first, second = suite.tasks
    assert first == SuiteTask(
        "2024", "digits:5-9", "a", 5, {"train": 447, "test": (109, 110)}, "train", None, "train", "test[:50%]",
        {"img_size": 32}, ("small",),
    )  # fmt: skip
    assert (second.val, second.full) == ("val", "train")
    assert [task.name for task in open_suite(write(tmp_path, text), data=None, tasks=("b*",)).tasks] == ["b"]


def test_data_that_is_below_the_root_is_taken_from_there(tmp_path):
    folders(tmp_path / "root" / "birds", train=1)
    text = "tasks: {a: {data: birds}, b: {data: digits}, c: {data: owner/name}}"
    tasks = open_suite(write(tmp_path, text), data=str(tmp_path / "root")).tasks
    assert [task.data for task in tasks] == [str(tmp_path / "root" / "birds"), "digits", "owner/name"]


def test_the_generated_tasks_of_mini_need_no_folder_and_are_what_it_says():
    suite = open_suite(str(MINI), data=None, tasks=tuple(TASKS))
    assert [task.name for task in suite.tasks] == list(TASKS)
    for task in suite.tasks:
        data = open_data(task.data)
        assert (task.data, task.group, task.classes) == (f"sprites:{task.name}", "structured", len(data.classes))
        assert task.sizes == {name: len(data.split(getattr(task, name))) for name in ("train", "val", "full", "test")}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "has no `tasks:` with the tasks by name, such as {birds: {data: pictures/birds}}"),
        ("tasks: []", "has no `tasks:`"),
        ("tasks: [{name: a}]", "has no `tasks:`"),
        ("- a", "has no `tasks:`"),
        ("tasks: {a: [", "is no YAML: "),
        ("tasks: {a: {data: x}}\ntask: 3", "has no option 'task' (did you mean 'tasks'?); it takes: name, tasks"),
        ("tasks: {a: {}}", "task a names no data: write `data:` and what --data of capaboost train takes"),
        ("tasks: {a: folder}", "task a names no data"),
        ("tasks: {a: {data: 3}}", "task a names no data"),
        (
            "tasks: {a: {data: x, clases: 3}}",
            "task a has no option 'clases' (did you mean 'classes'?); it takes: data,",
        ),
        ("tasks: {a: {data: x, name: y}}", "task a has no option 'name'"),
        ("tasks: {2: {data: x}, '2': {data: y}}", "two tasks are called the same: rename one"),
        ("name: [a]\ntasks: {a: {data: x}}", "name must be str, got ['a']"),
        ("tasks: {a: {data: x, classes: many}}", "task a: classes must be int | None, got 'many'"),
        ("tasks: {a: {data: x, classes: true}}", "task a: classes must be int | None, got True"),
        ("tasks: {a: {data: x, group: 3}}", "task a: group must be str, got 3"),
        ("tasks: {a: {data: x, notes: small}}", "task a: notes must be words, got 'small'"),
        ("tasks: {a: {data: x, options: [1]}}", "task a: options must be values by name, got [1]"),
        ("tasks: {a: {data: x, options: {lr: fast}}}", "task a, options: lr must be float or auto, got 'fast'"),
        ("tasks: {a: {data: x, options: {lrr: 1}}}", "task a, options: capaboost train has no option 'lrr' (did you"),
        (
            "tasks: {a: {data: x, options: {model: y}}}",
            "task a, options: model is decided by the study: say --backbone",
        ),
        ("tasks: {a: {data: x, options: {test_split: y}}}", "test_split is decided by the study: take it out"),
        ("tasks: {a: {data: x, options: {method: {name: lora}}}}", "options: a method is a file of --methods"),
        ("tasks: {a: {data: x, sizes: {trian: 3}}}", "task a, sizes has no option 'trian' (did you mean 'train'?)"),
        ("tasks: {a: {data: x, sizes: {train: a}}}", "task a, sizes: train must be int | tuple[int, ...]"),
        ("tasks: {a: {data: x, sizes: {train: [a]}}}", "task a, sizes: train must be int | tuple[int, ...]"),
        ("tasks: {a: {data: x, train: 'train['}}", "task a: train: cannot read 'train[' in the split 'train['"),
        ("tasks: {a: {data: x, full: 'a++b'}}", "task a: full: cannot read ''"),
        ("tasks: {a: {data: x, train: [a, b]}}", "task a: train must be str, got ['a', 'b']"),
        ("tasks: {a: {data: x, test: null}}", "task a: test must be str, got None"),
    ],
)
def test_mistakes_are_one_line_with_the_task_and_the_key(tmp_path, text, error):
    path = write(tmp_path, text)
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(path)}.*{re.escape(error)}") as caught:
        open_suite(path, data=None)
    assert "\n" not in str(caught.value)
