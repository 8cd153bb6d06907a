"""One check of options from their metadata, and one way to say what a misspelt word may have meant."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import pytest

from capaboost_vit.io.options import check_options, flag, nearest, option, suggest


@dataclasses.dataclass(frozen=True)
class Options:
    """One field of every kind."""

    layer_count: int = option(1, "at least one", low=1)
    lr: float = option(0.1, "positive", above=0)
    share: float | None = option(None, "a share", low=0, below=1)
    part: float = option(0.5, "a part", above=0, high=1)
    most: float = option(0.0, "no more", high=2)
    less: float = option(0.0, "less", below=2)
    more: float = option(3.0, "more", above=2)
    kind: Literal["a", "b", "c"] = option("a", "a kind")
    maybe: Literal["x", "y"] | None = option(None, "a kind, or none")
    word: str = option("red", "a colour", choices=("red", "blue"))
    words: tuple[str, ...] = option((), "colours", choices=("red", "blue"))
    counts: tuple[int, ...] = option((1, 2), "counts", low=1)
    pair: tuple[float, float] = option((0.0, 1.0), "two numbers")
    values: dict[str, Any] = option({}, "by name")
    anything: Any = option(None, "no matter what")
    switch: bool = option(False, "on or off")
    strength: float = option(0.0, "none, or at least a tenth", low=0.1, off=0)
    foreign: str = option("first", "names of another library", choices=lambda: ("alpha", "beta"))

    def __post_init__(self):
        check_options(self)


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"layer_count": 0}, ValueError, "--layer-count must be at least 1, got 0"),
        ({"layer_count": 1.0}, TypeError, "--layer-count must be int, got 1.0"),
        ({"layer_count": True}, TypeError, "--layer-count must be int, got True"),
        ({"layer_count": None}, TypeError, "--layer-count must be int, got None"),
        ({"lr": 0.0}, ValueError, "--lr must be positive, got 0.0"),
        ({"lr": "1e-3"}, TypeError, "--lr must be float, got '1e-3'"),
        ({"share": 1.0}, ValueError, "--share must lie in [0, 1), got 1.0"),
        ({"share": float("nan")}, ValueError, "--share must lie in [0, 1), got nan"),
        ({"part": 0.0}, ValueError, "--part must lie in (0, 1], got 0.0"),
        ({"most": 2.5}, ValueError, "--most must be at most 2, got 2.5"),
        ({"less": 2.0}, ValueError, "--less must be below 2, got 2.0"),
        ({"more": 2.0}, ValueError, "--more must be above 2, got 2.0"),
        ({"kind": "d"}, ValueError, "--kind must be a, b or c, got 'd'"),
        ({"kind": None}, TypeError, "--kind must be one of a, b, c, got None"),
        ({"maybe": "z"}, ValueError, "--maybe must be x or y, got 'z'"),
        ({"word": "green"}, ValueError, "--word must be red or blue, got 'green'"),
        ({"words": ("red", "green")}, ValueError, "--words must be red or blue, got 'green'"),
        ({"counts": (2, 0)}, ValueError, "--counts must be at least 1, got 0"),
        ({"pair": (1.0,)}, TypeError, "--pair must be 2 numbers, got (1.0,)"),
        ({"values": [1]}, TypeError, "--values must be values by name, got [1]"),
        ({"switch": 1}, TypeError, "--switch must be bool, got 1"),
        ({"lr": float("inf")}, ValueError, "--lr must be finite in float32, got inf"),
        ({"most": float("-inf")}, ValueError, "--most must be finite in float32, got -inf"),
        ({"pair": (0.0, float("nan"))}, ValueError, "--pair must be finite in float32, got nan"),
        ({"lr": 1e300}, ValueError, "--lr must be finite in float32, got 1e+300"),
        ({"lr": 1e-300}, ValueError, "--lr must be finite and not 0 in float32, got 1e-300"),
        ({"lr": 10**400}, ValueError, f"--lr must be finite in float32, got {10**400}"),
        ({"strength": 1e-300}, ValueError, "--strength must be 0, or be at least 0.1, got 1e-300"),
        ({"values": "x" * 999}, TypeError, f"--values must be values by name, got '{'x' * 96}..."),
        ({"word": "rad"}, ValueError, "--word must be red or blue, got 'rad' (did you mean 'red'?)"),
        (
            {"foreign": "bata"},
            ValueError,
            "--foreign must be one of 2 names such as alpha, beta, got 'bata' (did you mean 'beta'?)",
        ),
    ],
)
def test_a_value_that_is_not_valid_is_named_by_its_flag(values, error, text):
    with pytest.raises(error) as caught:
        Options(**values)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "values",
    [
        {"layer_count": np.int64(1), "lr": 1, "share": 0.0, "part": 1, "most": 2, "less": 1.99, "more": 2.01},
        {"kind": "c", "maybe": "y", "word": "blue", "words": ["blue", "red"], "counts": [1], "pair": [1, 2.5]},
        {"anything": object(), "values": {"a": None}, "share": None, "maybe": None},
        {"strength": 0.1, "foreign": "Beta"},
        {"strength": 0, "foreign": "first"},
    ],
)
def test_a_value_at_the_edge_is_valid(values):
    Options(**values)


def test_an_option_that_is_defined_anew_keeps_its_range():
    @dataclasses.dataclass(frozen=True)
    class Other(Options):
        lr: float = option(0.5, "another default")

    assert Other().lr == 0.5
    with pytest.raises(ValueError, match="--lr must be positive, got -1"):
        Other(lr=-1.0)


def test_messages_may_name_an_option_otherwise():
    with pytest.raises(ValueError, match="lr of method 'x' must be positive"):
        check_options(
            dataclasses.make_dataclass("Made", [("lr", float, option(-1.0, "", above=0))])(), "{} of method 'x'".format
        )
    assert flag("batch_size") == "--batch-size"


@pytest.mark.parametrize(
    ("word", "choices", "text"),
    [
        ("lroa", ("adapter", "lora"), " (did you mean 'lora'?)"),
        ("LROA", ("adapter", "lora"), " (did you mean 'lora'?)"),
        ("cifar11", ("MNIST", "CIFAR10"), " (did you mean 'CIFAR10'?)"),
        ("xyz", ("adapter", "lora"), ""),
        (3, (), ""),
    ],
)
def test_the_nearest_choice_is_suggested(word, choices, text):
    assert suggest(word, choices) == text


def test_with_no_cutoff_something_is_always_nearest():
    assert nearest("xyz", ("adapter", "lora")) is None
    assert nearest("xyz", ("adapter", "lora"), cutoff=0) in ("adapter", "lora")
