"""What a run leaves for people while it goes on can be read back: the table, the points and the lines."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from capaboost_vit.training.curves import draw_curves
from capaboost_vit.training.log import Log, write_table

ROWS = [
    {"epoch": 1, "update": 3, "train_loss": 1.5, "train_accuracy": 40.0, "grad_norm": 2.5, "val_accuracy": 45.0},
    {"epoch": 2, "update": 6, "train_loss": 0.75, "train_accuracy": 70.0, "grad_norm": 0.5, "val_accuracy": None},
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def make_log(tmp_path):
    logs = []

    def make(stream=None, **options):
        logs.append(Log(tmp_path, **{"updates": 6, **options}, stream=stream or io.StringIO()))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def read_table(folder):
    with open(folder / "summary.csv", newline="") as file:
        return [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]


def points(folder):
    """(step, value) of every point, by name."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_the_table_of_epochs_is_read_back(tmp_path, make_log):
    log = make_log()
    for count in (1, 2):
        log.epoch(ROWS[:count], per_second=8.0)
        assert read_table(tmp_path) == ROWS[:count]  # after every epoch, not only at the end
    assert (
        (tmp_path / "summary.csv")
        .read_text()
        .startswith("epoch,update,train_loss,train_accuracy,grad_norm,val_accuracy\n1,3,1.5,40.0,2.5,45.0\n2,6,")
    )


def test_a_table_keeps_every_bit_of_its_numbers(tmp_path):
    values = [0.1 + 0.2, 1e-300, 1 / 3, 12345678.123456789]
    write_table(tmp_path / "summary.csv", [{"value": value} for value in values])
    assert [row["value"] for row in read_table(tmp_path)] == values


def test_a_column_that_an_older_release_lacked_is_empty_in_its_rows(tmp_path):
    rows = [{"epoch": 1, "val_accuracy": 50.0}, {"epoch": 2, "val_loss": 0.5, "val_accuracy": 75.0}]
    write_table(tmp_path / "summary.csv", rows)
    assert (tmp_path / "summary.csv").read_text() == "epoch,val_loss,val_accuracy\n1,,50.0\n2,0.5,75.0\n"


def test_the_points_of_an_epoch_stand_at_its_last_update_and_hold_nothing_that_a_clock_has_measured(tmp_path, make_log):
    log = make_log()
    log.epoch(ROWS[:1], per_second=8.0)
    log.epoch(ROWS, per_second=9.0)
    log.close()
    assert points(tmp_path) == {
        "epoch/train_loss": [(3, 1.5), (6, 0.75)],
        "epoch/train_accuracy": [(3, 40), (6, 70)],
        "epoch/grad_norm": [(3, 2.5), (6, 0.5)],
        "epoch/val_accuracy": [(3, 45)],
    }


def test_values_of_an_update_are_written_every_interval_and_speed_apart_from_them(tmp_path, make_log, monkeypatch):
    now = 10.0
    monkeypatch.setattr("capaboost_vit.training.log.time.monotonic", lambda: now)
    log = make_log(interval=2, updates=600)
    seconds = []
    for update in range(1, 7):
        now += 0.5
        seconds.append(log.step(update, 8, {"loss": 0.5 / update, "grad_norm": 1.0, "lr": 0.25}))
        if update == 4:
            now += 100  # an evaluation: not the time of an update
            log.start(4)
    log.close()
    found = points(tmp_path)
    assert seconds == [0.5] * 6
    assert found["train/loss"] == [(2, 0.25), (4, 0.125), (6, pytest.approx(0.5 / 6))]
    assert found["train/lr"] == [(2, 0.25), (4, 0.25), (6, 0.25)]
    assert found["speed/images_per_second"] == [(2, 16), (4, 16), (6, 16)]
    assert all(value > 1 for _, value in found["speed/memory_mb"])
    assert {name for name in found if name.startswith("speed/")} == {"speed/images_per_second", "speed/memory_mb"}


def test_a_process_that_shall_not_write_writes_nothing(tmp_path, make_log):
    stream = io.StringIO()
    log = make_log(stream, active=False, interval=1)
    log.say("hello")
    log.step(1, 8, {"loss": 1.0})
    log.epoch(ROWS, per_second=1.0)
    log.text("config", "a: 1")
    log.inputs(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert log.sizes() == {}
    log.close()
    assert stream.getvalue() == ""
    assert list(tmp_path.iterdir()) == []


def test_images_texts_and_figures_are_read_back(tmp_path, make_log):
    log = make_log()
    log.inputs(torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8))
    log.inputs(torch.rand(40, 10))  # no images: nothing
    log.text("config", "a: 1\nb: [x](y)")
    log.figure("figures/learning_curve", draw_curves({"run": ROWS}, title="a run"), 6)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["images/first_batch", "figures/learning_curve"]
    (grid,) = events.Images("images/first_batch")
    assert (grid.step, grid.width % 8, grid.height % 8) == (0, 0, 0)
    assert grid.width * grid.height == 32 * 64
    assert events.Images("figures/learning_curve")[0].step == 6
    (text,) = events.Tensors("config/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "    a: 1\n    b: [x](y)"


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
    for count in (1, 2):
        for update in range(3 * count - 2, 3 * count + 1):
            log.step(update, 8, {"loss": 0.5})
        log.epoch(ROWS[:count], per_second=123.456)
    log.close()
    assert stream.getvalue().splitlines() == [
        "[bold]start[/bold] :smile: of /data/[x]",
        "epoch 1  loss 1.5  train % 40  val % 45  images/s 123.5",
        "epoch 2  loss 0.75  train % 70  images/s 123.5",
    ]


def test_a_long_epoch_without_a_terminal_says_where_it_is_every_ten_seconds(make_log, monkeypatch):
    now = 0.0
    monkeypatch.setattr("capaboost_vit.training.log.time.monotonic", lambda: now)
    stream = io.StringIO()
    log = make_log(stream, updates=100)
    for update in range(1, 101):
        now += 0.5
        log.step(update, 8, {"loss": 0.125})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0] == "update 21/100 loss 0.1250, about 40 s left"


def test_a_line_is_never_broken_however_long(make_log):
    stream = io.StringIO()
    make_log(stream).say("/a/very/long/path" * 40)
    assert stream.getvalue() == "/a/very/long/path" * 40 + "\n"


def test_on_a_terminal_there_is_a_bar(make_log, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    log = make_log(stream)
    for update in (1, 2, 3):
        log.step(update, 8, {"loss": 0.5})
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


def test_a_short_run_has_a_point_each_hundredth_of_it_and_a_long_one_each_interval(make_log):
    intervals = {
        updates: make_log(updates=updates, interval=50).interval for updates in (1, 80, 250, 4999, 5000, 10**6)
    }
    assert intervals == {1: 1, 80: 1, 250: 2, 4999: 49, 5000: 50, 10**6: 50}


def test_options_and_final_scores_stand_in_the_table_of_hyperparameters(tmp_path, make_log):
    log = make_log()
    log.result({"lr": 0.5, "method": "lora", "amp": True}, {"test_accuracy": 75.0}, [], 6)
    log.close()
    assert points(tmp_path) == {"result/test_accuracy": [(6, 75)]}
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    session = HParamsPluginData.FromString(start).session_start_info
    assert {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()} == {
        "lr": 0.5,
        "method": "lora",
        "amp": True,
    }
    experiment = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    metrics = HParamsPluginData.FromString(experiment).experiment.metric_infos
    assert [metric.name.tag for metric in metrics] == ["result/test_accuracy"]


def test_a_tracker_gets_what_tensorboard_gets_and_one_that_fails_is_left_out_with_a_line(make_log):
    class Notes:
        name = "notes"

        def __init__(self, fails_at=None):
            self.calls, self.fails_at = [], fails_at

        def __getattr__(self, method):
            def call(*values):
                if method == self.fails_at:
                    raise RuntimeError("no\nconnection")
                self.calls.append((method, *values))

            return call

    stream, whole, broken = io.StringIO(), Notes(), Notes("result")
    log = make_log(stream, trackers=[broken, whole])
    log.scalars({"train/loss": 0.5}, 1)
    log.result({}, {"test_accuracy": 75.0}, [], 6)
    log.close("preempted")
    log.close()
    assert broken.calls == [("scalars", {"train/loss": 0.5}, 1), ("scalars", {"result/test_accuracy": 75.0}, 6)]
    assert whole.calls == [*broken.calls, ("result", {"result/test_accuracy": 75.0}, []), ("close", "preempted")]
    assert stream.getvalue() == "warning: notes gets no more points: no connection\n"
