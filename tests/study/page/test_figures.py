"""Fronts, colours and ids of the pictures; what a drawing shows is read back from it."""

from __future__ import annotations

import random
import re

import pandas as pd
import pytest

from capaboost_vit.study.page.figures import (
    COLOURS,
    draw_differences,
    draw_lines,
    draw_pareto,
    draw_radar,
    pareto_front,
    series_style,
    styled,
    swatch,
    to_svg,
)

COLUMNS = ["cost", "accuracy"]
LOOKS = {name: series_style(i) for i, name in enumerate(["head", "lora", "a", "b"])}


def test_the_front_is_what_no_other_point_beats():
    draw = random.Random(0)
    points = [(draw.randrange(20), float(draw.randrange(20))) for _ in range(60)]
    expected = {
        score_cost
        for score_cost in points
        if not any(o != score_cost and o[0] <= score_cost[0] and o[1] >= score_cost[1] for o in points)
    }
    front = [*pareto_front(pd.DataFrame(points, columns=COLUMNS)).itertuples(index=False, name=None)]
    assert front == sorted(expected)


@pytest.mark.parametrize("log", [True, False])
def test_costs_of_zero_are_drawn_too(log):
    points = pd.DataFrame([(0.0, 50.0), (2000.0, 60.0)], ["head", "lora"], COLUMNS)
    with styled():
        axes = draw_pareto(points, LOOKS, label="parameters", log=log).axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 50], [2000, 60]], [[0, 50]], [[2000, 60]]]
    assert [text.get_text() for text in axes.texts] == ["head", "lora"]


def test_costs_that_are_alike_have_numbers_on_their_axis():
    alike = pd.DataFrame([(73728.0, 50.0), (73728.0, 60.0)], ["a", "b"], COLUMNS)
    with styled():
        same = draw_pareto(alike, LOOKS, label="parameters", log=True).axes[0]
        near = draw_pareto(alike.assign(cost=[9216.0, 18432.0]), LOOKS, label="parameters", log=True).axes[0]
        same.figure.canvas.draw()
        near.figure.canvas.draw()
    assert same.get_xlim()[0] == near.get_xlim()[0] == 0  # so that what is alike looks alike
    assert len(same.get_xticklabels()) > 2
    assert near.get_xscale() == "linear"
    assert [near.xaxis.get_major_formatter()(value) for value in (1030.0, 1045.0, 12000.0)] == ["1030", "1045", "12k"]


def test_lines_and_intervals_are_where_they_say():
    with styled():
        axes = draw_differences([("a", 1.0, 0.5, 2.0), ("b", -1.0, None, None)], reference="lora").axes[0]
        radar = draw_radar(pd.DataFrame([[50.0, 60.0, 70.0]], ["a"], ["x", "y", "z"]), LOOKS).axes[0]
        lines = draw_lines({"a": pd.Series([0.5, 0.25], [1, 2])}, LOOKS, x="epoch", y="loss", log=True).axes[0]
    assert [list(line.get_xdata()) for line in axes.lines][:3] == [[0.5, 2.0], [1.0], [-1.0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert list(radar.lines[0].get_ydata()) == [50, 60, 70, 50]
    assert lines.get_yscale() == "log"


def test_curves_that_hardly_move_do_not_fill_their_axis():
    lines = {"a": pd.Series([2.31, 2.30], [1, 2])}
    with styled():
        loss = draw_lines(lines, LOOKS, x="epoch", y="loss", log=True).axes[0]
        score = draw_lines(lines, LOOKS, x="epoch", y="accuracy", span=5.0).axes[0]
        rank = draw_lines(lines, LOOKS, x="block", y="rank", span=0).axes[0]
    assert loss.get_yscale() == "linear"
    assert loss.get_ylim()[1] - loss.get_ylim()[0] >= 2.3 / 4
    assert score.get_ylim()[1] - score.get_ylim()[0] >= 5
    assert rank.get_ylim()[0] == 0


def test_costs_have_bars_where_the_spread_is_known_and_names_that_do_not_touch():
    names = [f"method{i}" for i in range(6)]
    points = pd.DataFrame({"cost": [100.0 + i for i in range(6)], "accuracy": [50.0 + i / 10 for i in range(6)]}, names)
    points["spread"] = [1.0, float("nan"), 0.5, 0.0, 2.0, float("nan")]
    with styled():
        axes = draw_pareto(points, {name: series_style(i) for i, name in enumerate(names)}, label="s", log=False).axes[
            0
        ]
        axes.figure.canvas.draw()
        boxes = [text.get_window_extent() for text in axes.texts]
    bars = [line.get_ydata().tolist() for line in axes.lines[1:] if len(line.get_ydata()) == 2]
    assert bars == [[49.0, 51.0], [49.7, 50.7], [48.4, 52.4]]
    assert boxes
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert axes.get_xlim()[0] == 0
    assert axes.get_ylim()[1] - axes.get_ylim()[0] >= 5


def test_many_series_differ_in_colour_dash_or_marker():
    looks = [tuple(map(str, series_style(i).values())) for i in range(3 * COLOURS)]
    assert len(set(looks)) == len(looks)


def test_a_drawing_takes_its_colours_from_the_page_and_keeps_its_ids_to_itself():
    with styled():
        line, looks = pd.Series([1, 2, 3], [1, 2, 3]), {"j": series_style(9)}
        figure = draw_lines({"j": line}, looks, x="$x_{", y="a < b & c", marked=True)
        text = to_svg(figure, prefix="mine", label='a "quoted" <label> & more')
    assert "var(--c1)" in text
    assert "var(--ink)" in text
    assert not re.search(r"#01010[0-9a-f]|#0102", text)
    assert 'aria-label="a &quot;quoted&quot; &lt;label&gt; &amp; more"' in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert ids
    assert all(name.startswith("mine-") for name in ids)
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) == set(ids)
    assert "$x_{" in text
    assert "a &lt; b &amp; c" in text
    assert "http" not in text
    with styled():
        assert 'aria-hidden="true"' in swatch(series_style(3), prefix="key")
