"""The registry of tasks: what the papers and GLUE say of them, and names that are found or suggested."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import get_args

import pytest

from capaboost_vit.nlu import tasks
from capaboost_vit.nlu.tasks import DOMAINS, GLUE, TASKS, Kind, Protocol, get_task


def test_glue_is_the_eight_tasks_in_the_order_of_the_tables():
    assert [TASKS[name].folder for name in GLUE] == ["CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI", "QNLI", "RTE"]
    assert "wnli" in TASKS
    assert "wnli" not in GLUE


def test_the_average_of_glue_is_over_eleven_numbers():
    """MRPC and QQP count accuracy and F1, STS-B both correlations (FACTS of the published tables)."""
    assert sum(len(TASKS[name].metrics) for name in GLUE) == 11
    assert {name: TASKS[name].metrics[0] for name in GLUE if TASKS[name].metrics[0] != "accuracy"} == {
        "cola": "matthews",
        "stsb": "pearson",
    }


def test_small_tasks_halve_the_dev_set_and_large_ones_take_a_thousand():
    protocols = {name: TASKS[name].protocol for name in GLUE}
    assert {name for name in GLUE if protocols[name] == "halves"} == {"cola", "mrpc", "stsb", "rte"}
    assert {name for name in GLUE if protocols[name] == "thousand"} == {"sst2", "qqp", "mnli", "qnli"}
    assert {name for name in TASKS if TASKS[name].protocol == "drawn"} == {"agnews", "imdb"}
    assert {TASKS[name].protocol for name in TASKS if name not in (*GLUE, "wnli", "agnews", "imdb")} == {"own"}


def test_four_domains_of_two_data_sets():
    assert DOMAINS == {
        "biomed": ("chemprot", "rct"),
        "cs": ("acl-arc", "scierc"),
        "news": ("hyperpartisan", "agnews"),
        "reviews": ("helpfulness", "imdb"),
    }
    metrics = {name: TASKS[name].metrics for names in DOMAINS.values() for name in names}
    assert {name for name, found in metrics.items() if found == ("micro_f1",)} == {"chemprot", "rct"}
    assert {name for name, found in metrics.items() if found == ("macro_f1",)} == set(metrics) - {"chemprot", "rct"}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_is_whole(task):
    assert TASKS[task.name] is task
    assert task.kind in get_args(Kind)
    assert task.protocol in get_args(Protocol)
    assert task.metrics
    assert len(set(task.classes)) == len(task.classes) != 1
    assert len(task.columns) <= 2
    if task.kind != "classification":
        assert not task.classes
    if task.name in (*GLUE, "wnli"):
        assert task.hub == ("nyu-mll/glue", task.name)
        assert task.columns
        assert task.label == "label"
        assert bool(task.classes) == (task.kind == "classification")


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        *(("rte", "rte"), ("SST-2", "sst2"), ("CoLA", "cola"), ("sts-b", "stsb"), ("rct-20k", "rct")),
        *(("ACL_ARC", "acl-arc"), ("squad-v2", "squad_v2"), ("citation_intent", "acl-arc"), ("AG-News", "agnews")),
    ],
)
def test_a_task_is_found_whatever_the_spelling(asked, name):
    assert get_task(asked) is TASKS[name]


@pytest.mark.parametrize(
    ("asked", "text"),
    [("rtee", "there is no task 'rtee' (did you mean 'rte'?);"), ("cloa", "mean 'cola'?"), ("xyz", "no task 'xyz';")],
)
def test_an_unknown_task_is_an_error_with_the_nearest_and_all(asked, text):
    with pytest.raises(ValueError, match="; the tasks: cola, sst2, mrpc") as caught:
        get_task(asked)
    assert text in str(caught.value)


def test_the_registry_imports_nothing_heavy():
    """The help of the command line lists the tasks, and must not wait for torch."""
    nodes = list(ast.walk(ast.parse(Path(tasks.__file__).read_text())))
    own = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level}
    assert own == {"io.options", "io.yaml"}  # which import yaml at most
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    assert set(named) <= set(sys.stdlib_module_names)
