"""Which model is kept, when a run ends, and when it is evaluated."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from toys import Fixed, Saves, Scripted, begin, go_on, largest_difference, small, state, train

from capaboost_vit.nlu.objectives import masked_tokens
from capaboost_vit.training.checkpoint import CheckpointError
from capaboost_vit.training.objective import with_selected
from capaboost_vit.vision.config import TrainConfig

STEADY = {"sched": "none", "warmup_epochs": 0}  # so that a shorter run is the beginning of a longer one


@pytest.mark.parametrize(("rights", "best"), [([1, 3, 2, 3], 2), ([4, 4, 4, 4], 1), ([0, 1, 2, 3], 4)])
def test_the_best_model_is_that_of_a_run_which_stopped_there(rights, best):
    chosen, shorter = small(drop_path_rate=0.2), small(drop_path_rate=0.2)
    log = train(chosen, None, Scripted(chosen, rights), select="best", **STEADY)
    train(shorter, epochs=best, **STEADY)
    assert largest_difference(state(chosen), state(shorter)) == 0
    assert (log.state.progress.best_epoch, log.state.progress.best_score) == (best, 25 * max(rights))
    assert len(log.rows) == 4


def test_the_last_model_is_kept_unless_the_best_is_asked_for():
    last, plain = small(), small()
    train(last, None, Scripted(last, [4, 1, 1, 1]))
    train(plain)
    assert largest_difference(state(last), state(plain)) == 0


@pytest.mark.parametrize(
    ("rights", "patience", "epochs"),
    [([1, 2, 2, 1, 4], 2, 4), ([1, 0, 0, 4, 4], 2, 3), ([1, 0, 2, 0, 3], 2, 5), ([3, 3, 3, 3, 3], 1, 2)],
)
def test_patience_ends_a_run_after_so_many_evaluations_without_a_better_one(rights, patience, epochs):
    model, shorter = small(), small()
    log = train(model, None, Scripted(model, rights), epochs=5, patience=patience, **STEADY)
    assert [row["epoch"] for row in log.rows] == list(range(1, epochs + 1))
    train(shorter, epochs=epochs, **STEADY)
    assert largest_difference(state(model), state(shorter)) == 0


def test_patience_counts_evaluations_not_epochs():
    model = small()
    log = train(model, None, Scripted(model, [2, 1, 1]), epochs=12, val_interval=3, patience=2)
    assert [row["epoch"] for row in log.rows if row["val_accuracy"] is not None] == [3, 6, 9]
    assert len(log.rows) == 9


@pytest.mark.parametrize(
    ("options", "epochs"),
    [({"epochs": 5}, [1, 2, 3, 4, 5]), ({"epochs": 5, "val_interval": 2}, [2, 4, 5]), ({"val_interval": 9}, [4])],
)
def test_val_is_evaluated_every_so_many_epochs_and_at_the_end(options, epochs):
    model = small()
    log = train(model, None, Scripted(model, [2] * 9), **options)
    assert [row["epoch"] for row in log.rows if row["val_accuracy"] == 50] == epochs
    assert all(row["val_accuracy"] in (None, 50) for row in log.rows)


def losses_of(log):
    return [row["val_loss"] for row in log.rows]


def test_the_loss_on_val_has_no_smoothing_and_the_lowest_is_the_best():
    def run(**options):
        model = small()
        return model, train(model, None, Fixed((4, 1)), smoothing=0.3, lr=0.3, epochs=6, **STEADY, **options)

    chosen, log = run(select="val_loss")
    losses = losses_of(log)
    best = losses.index(min(losses))
    assert 0 < best < 5  # neither first nor last
    shorter = small()
    train(shorter, smoothing=0.3, lr=0.3, epochs=best + 1, **STEADY)
    assert largest_difference(state(chosen), state(shorter)) == 0
    progress = log.state.progress
    assert (progress.best_epoch, progress.best_score, progress.stale) == (best + 1, min(losses), 5 - best)
    chosen.eval()
    with torch.no_grad():
        expected = sum(F.cross_entropy(chosen(x), y, reduction="sum").item() for x, y in Fixed((4, 1))) / 5
    assert min(losses) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("select", ["macro_f1", "balanced_accuracy"])
def test_a_score_that_is_asked_for_stands_in_the_table_and_chooses(select):
    model = small()
    log = train(model, None, Scripted(model, [1, 3, 2, 4]), select=select, patience=1, **STEADY)
    scores = [row[f"val_{select}"] for row in log.rows]
    assert log.state.progress.best_score == max(scores)
    assert list(log.rows[0])[-3:] == ["val_loss", "val_accuracy", f"val_{select}"]


def test_a_score_of_classes_is_refused_where_there_are_none():
    with pytest.raises(ValueError, match="--select macro_f1 is for one class per example, which"):
        with_selected(masked_tokens(), "macro_f1")
    for select in ("last", "best", "val_loss"):
        assert with_selected(masked_tokens(), select).names == ("accuracy", "log_likelihood")


def test_the_score_that_chooses_cannot_change_in_a_run_nor_be_guessed_of_an_old_one():
    begun = begin(small(), select="best")
    tree = begun.pack()
    begin(small(), select="best").unpack(tree)
    begin(small(), select="last").unpack(tree)  # patience goes by the same score
    message = "the score of --select cannot change in a run: it was best and is now val_loss"
    with pytest.raises(CheckpointError, match=message):
        begin(small(), select="val_loss").unpack(tree)
    del tree["fixed"]["the score of --select"]  # as releases wrote it that had one score
    begin(small(), select="best").unpack(tree)
    with pytest.raises(CheckpointError, match=message):
        begin(small(), select="val_loss").unpack(tree)


# the number of updates


@pytest.mark.parametrize(("max_steps", "rows"), [(1, [1]), (3, [3]), (5, [3, 5]), (14, [3, 6, 9, 12, 14])])
def test_max_steps_ends_the_run_wherever_it_is(max_steps, rows):
    model = small()
    log = train(model, None, Scripted(model, [1] * 9), max_steps=max_steps, epochs=2)
    assert log.updates == list(range(1, max_steps + 1))
    assert [row["update"] for row in log.rows] == rows
    assert [row["epoch"] for row in log.rows] == list(range(1, len(rows) + 1))
    assert log.rows[-1]["val_accuracy"] == 25  # an epoch that was cut short is evaluated too
    start = rows[-2] if len(rows) > 1 else 0
    sizes = [len(labels) for _, labels in Fixed().order(len(rows) - 1)][: max_steps - start]
    mean = sum(size * loss for size, loss in zip(sizes, log.losses[start:], strict=True)) / sum(sizes)
    assert log.rows[-1]["train_loss"] == pytest.approx(mean)


def test_the_schedule_of_max_steps_ends_at_the_last_of_them():
    log = train(small(), max_steps=20, epochs=1)
    assert log.rates[0] == pytest.approx(1e-7)  # a tenth of warm-up
    assert max(log.rates) == log.rates[2] == 1e-2
    assert log.state.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_checkpoints_in_between_change_nothing(interval):
    watched, plain = small(drop_path_rate=0.2), small(drop_path_rate=0.2)
    saves = Saves()
    log = train(watched, hooks={"save": saves}, checkpoint_interval=interval)
    other = train(plain)
    assert largest_difference(state(watched), state(plain)) == 0
    assert log.rows == other.rows
    assert set(saves.calls) == {3, 6, 9, 12} | set(range(interval, 13, interval))


def test_what_is_finished_does_nothing_more():
    done = begin(small())
    go_on(done)
    before = state(done.model)
    log = go_on(done)
    assert log.updates == []
    assert largest_difference(before, state(done.model)) == 0


@pytest.mark.parametrize("options", [{"patience": 3}, {"select": "best"}])
def test_what_needs_a_validation_split_says_so(options):
    with pytest.raises(ValueError, match="each --select but last need a validation split: say --val-split NAME"):
        TrainConfig(val_split=None, **options)
