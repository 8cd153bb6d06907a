"""YAML: JSON's values and YAML 1.2's numbers; bombs, depth and damage are one line with the file's name."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capaboost_vit.io.yaml import format_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1e-3, 1E3, -1.5e+3, .5, 1., +2, 010, 1_000]", [1e-3, 1e3, -1500.0, 0.5, 1.0, 2, 10, 1000]),
        ("[2:4, 1:30:00, 2024-01-01, 1.2.3, 1_, 0x10, e3, '1']", None),
        ("[true, null, ~, abc, a b]", [True, None, None, "abc", "a b"]),
        ("{a: &x {b: 1, c: 2}, d: {<<: *x, c: 3}}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("[&x 1, *x]", [1, 1]),
        ("", None),
        ("[" * 50 + "]" * 50, None),
    ],
)
def test_values_are_those_of_json_and_numbers_those_of_yaml_1_2(text, value):
    if value is None:  # what PyYAML reads without any idea of numbers and dates
        value = yaml.load(text, yaml.BaseLoader) or None
    found = parse_yaml(text)
    assert found == value
    assert str(found) == str(value)  # 1 is no 1.0


def test_infinity_and_nan_are_numbers():
    assert str(parse_yaml("[.inf, -.Inf, .nan]")) == "[inf, -inf, nan]"


TEXTS = [
    "1e3",
    "08",
    "010",
    "1_000",
    "2:4",
    "2024-01-01",
    "yes",
    "null",
    "~",
    "",
    " a",
    "a: b",
    "- a",
    "*a",
    "ü",
    "0x1",
]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
@example(TEXTS)
@example({text: text for text in TEXTS})
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_again(values):
    assert parse_yaml(format_yaml(values)) == values


def bomb(start, level, count=12):
    lines = [f"a0: &a0 {start}"]
    lines += [f"a{i}: &a{i} {level.format(', '.join([f'*a{i - 1}'] * 10))}" for i in range(1, count)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (bomb("[x, x]", "[{}]"), "it holds more than 100,000 values"),
        (bomb("{k: 1}", "{{<<: [{}]}}"), "it holds more than 100,000 values"),
        ("a: &a [*a]", "line 1, column 8: *a stands for nothing that ends before it"),
        ("a: *b", "*b stands for nothing"),
        ("[" * 51, "line 1, column 51: it is nested more than 50 deep"),
        ("- " * 100_000, "it is nested more than 50 deep"),
        ("{a: " * 100_000, "nest"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: 'a' stands there twice"),
        ("? [a]\n: b", "line 1, column 3: found unhashable key"),
        ("a: [\n", "line 2, column 1: "),
        ("a: b: c", "line 1, column 5: mapping values are not allowed"),
        ("\x00", "are not allowed"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("--- 1\n--- 2", "line 2, column 1: but found another document"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("!!set {a}", "could not determine a constructor"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_yaml_is_one_line_with_the_name_of_the_file_at_once(tmp_path, text, problem):
    path = tmp_path / "my file.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(ValueError, match="is no YAML") as caught:
        read_yaml(path)
    assert time.process_time() - start < 1
    line = str(caught.value)
    assert line.startswith(f"{path} is no YAML: ")
    assert problem in line
    assert "\n" not in line
    assert "unicode string" not in line


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match=r"a\.yaml is no YAML: 'utf-8' codec"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "gone.yaml")
