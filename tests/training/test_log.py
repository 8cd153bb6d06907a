"""What a run leaves for people can be read back: the table, the points, the lines and the picture."""

from __future__ import annotations

import csv
import io

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from capaboost_vit.training.log import Log, draw_curves

ROWS = [
    {"epoch": 1, "train_loss": 1.5, "train_accuracy": 40.0, "val_accuracy": 45.0, "seconds": 1.25},
    {"epoch": 2, "train_loss": 0.75, "train_accuracy": 70.0, "val_accuracy": 65.0, "seconds": 2.5},
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def make_log(tmp_path):
    logs = []

    def make(stream=None, **options):
        logs.append(Log(tmp_path, **{"epochs": 2, "steps": 3, **options}, stream=stream or io.StringIO()))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def test_the_table_of_epochs_is_read_back(tmp_path, make_log):
    log = make_log()
    for row in ROWS:
        log.epoch(row)
        with open(tmp_path / "summary.csv", newline="") as file:  # after every epoch, not only at the end
            read = [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]
        assert read == log.rows == ROWS[: row["epoch"]]


def test_points_are_read_back_from_tensorboard(tmp_path, make_log):
    log = make_log()
    log.scalars({"train/loss": 0.5, "train/lr": 1e-3}, 10)
    log.scalars({"train/loss": 0.25}, 20)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 0.5), (20, 0.25)]
    assert events.Scalars("train/lr")[0].value == pytest.approx(1e-3)


def test_without_a_terminal_there_are_plain_lines_one_per_epoch(make_log):
    stream = io.StringIO()
    log = make_log(stream)
    log.say("[bold]start[/bold] :smile: of /data/[x]")
    for epoch, row in enumerate(ROWS):
        for step in (1, 2, 3):
            log.step(epoch, step, 0.5)
        log.epoch(row)
    log.close()
    assert stream.getvalue().splitlines() == [
        "[bold]start[/bold] :smile: of /data/[x]",
        "epoch 1  loss 1.5  train % 40  val % 45  s 1.25",
        "epoch 2  loss 0.75  train % 70  val % 65  s 2.5",
    ]


def test_a_long_epoch_without_a_terminal_says_where_it_is_every_ten_seconds(make_log, monkeypatch):
    now = 0.0
    monkeypatch.setattr("capaboost_vit.training.log.time.monotonic", lambda: now)
    stream = io.StringIO()
    log = make_log(stream, steps=100)
    for step in range(1, 101):
        now += 0.5
        log.step(1, step, 0.125)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0] == "epoch 2/2 step 21/100 loss 0.1250"


def test_a_line_is_never_broken_however_long(make_log):
    stream = io.StringIO()
    make_log(stream).say("/a/very/long/path" * 40)
    assert stream.getvalue() == "/a/very/long/path" * 40 + "\n"


def test_on_a_terminal_there_is_a_bar(make_log, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    log = make_log(stream)
    for step in (1, 2, 3):
        log.step(0, step, 0.5)
    log.say("a line above the bar")
    log.progress.refresh()
    log.close()
    assert "3/6" in stream.getvalue()
    assert "loss 0.500" in stream.getvalue()
    assert "a line above the bar" in stream.getvalue()


def test_closing_twice_is_fine(make_log):
    log = make_log()
    log.close()
    log.close()


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        [{name: value for name, value in row.items() if name != "val_accuracy"} for row in ROWS],
        ROWS[:1],
        [ROWS[0], {**ROWS[1], "train_loss": 0.0}],
        [{**ROWS[0], "epoch": epoch} for epoch in range(1, 40)],
    ],
    ids=["with val", "without val", "one epoch", "loss of zero", "many epochs"],
)
def test_a_learning_curve_is_a_picture(tmp_path, rows):
    draw_curves({"model": rows}, tmp_path / "curve.png", title="model on data")
    with Image.open(tmp_path / "curve.png") as image:
        assert image.size == (1080, 432)
        assert len(image.convert("L").getcolors()) > 20


@pytest.mark.parametrize("name", ["$x_{$", "a_b$ and $c^", "under_score", "%d [x] \\alpha"])
def test_names_are_drawn_as_they_are_not_as_formulas(tmp_path, name):
    draw_curves({name: ROWS}, tmp_path / "curve.png", title=f"run on {name}")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_curves_of_several_runs_share_the_picture_even_if_one_has_no_validation(tmp_path):
    without = [{name: value for name, value in row.items() if name != "val_accuracy"} for row in ROWS]
    draw_curves({"one": ROWS, "two": without}, tmp_path / "both.png", title="two")
    draw_curves({"one": ROWS}, tmp_path / "one.png", title="two")
    assert (tmp_path / "both.png").read_bytes() != (tmp_path / "one.png").read_bytes()
