"""`lr: auto`: short runs on val find a rate, at half of the run's cost, again and again the same one."""

from __future__ import annotations

import json
import math
import signal

import pytest
import yaml
from safetensors.torch import load_file

from capaboost_vit.cli import _parser
from capaboost_vit.run import train
from capaboost_vit.training import lr_search
from capaboost_vit.training.signals import Interrupted
from capaboost_vit.training.successive_halving import halve
from capaboost_vit.vision.config import TrainConfig

SEARCHED = {"lr": "auto", "batch_size": 1, "epochs": 3}  # 144 updates; from 128 on there is a search


class Killed(BaseException):
    """Nothing is written behind it, as behind kill -9."""


def curve(best):
    """Scores that fall with the distance from the best rate, and what was asked."""
    asked = []

    def run(rate, updates):
        asked.append((rate, updates))
        return (-abs(math.log(rate / best)), 0.0)

    return run, asked


@pytest.mark.parametrize("best", [1.25e-3, 2.5e-3, 5e-3, 1e-2, 2e-2])
def test_the_best_of_the_rates_is_found_beyond_the_edge_too_and_the_budget_is_kept(best):
    run, asked = curve(best)
    assert halve(run, 5e-3, 100) == best
    assert sum(updates for _, updates in asked) <= 100


def test_the_second_round_decides_between_the_best_two():
    def run(rate, updates):
        return ({2.5e-3: 10.0, 5e-3: 50.0, 1e-2: 49.0}[rate] if updates == 12 else {5e-3: 60.0, 1e-2: 61.0}[rate], 0.0)

    assert halve(run, 5e-3, 100) == 1e-2


def test_of_scores_within_a_standard_error_the_lower_loss_decides_and_none_of_them_leads_beyond_the_edge():
    asked = []

    def run(rate, updates):
        asked.append(rate)
        return {2.5e-3: 4.0, 5e-3: 3.1, 1e-2: 3.5}[rate], abs(rate - 4e-3)

    assert halve(run, 5e-3, 100, error=lambda score: 1.0) == 5e-3
    assert {*asked} == {2.5e-3, 5e-3, 1e-2}
    asked.clear()
    with pytest.raises(KeyError):  # of exact scores the best is at the edge
        halve(run, 5e-3, 100)


@pytest.mark.parametrize(("error", "found"), [(0.4, 2.5e-3), (0.5, 5e-3)])
def test_the_best_of_the_first_round_has_to_beat_the_usual_rate_by_two_standard_errors(error, found):
    short = {1.25e-3: 3.0, 2.5e-3: 4.0, 5e-3: 1.0, 1e-2: 2.0}
    long = {2.5e-3: 21.0, 5e-3: 20.0}
    asked = []

    def run(rate, updates):
        asked.append((rate, updates))
        return (short[rate] if updates == 12 else long[rate]), -short[rate]

    assert halve(run, 5e-3, 100, error=lambda score: error) == found
    assert [rate for rate, updates in asked if updates > 12] == [5e-3, 2.5e-3]


@pytest.fixture
def search(configure, monkeypatch):
    """Runs with `lr: auto`, without pictures; counts the short runs, and does something in one of them."""
    made = []
    monkeypatch.setattr(lr_search, "save_figure", lambda *_: None)
    real = lr_search._short_run

    def run(name, *, at=None, event=None, **options):
        def short_run(*arguments):
            made.append(arguments[2:4])
            if at == len(made):
                event()
            return real(*arguments)

        made.clear()
        monkeypatch.setattr(lr_search, "_short_run", short_run)
        config = configure(**{**SEARCHED, **options, "output": name})
        return train(config), list(made)

    return run


def weights(folder):
    return load_file(folder / "adapter.safetensors")


def same(first, second):
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.mark.usefixtures("without_pictures")
def test_a_search_is_written_down_and_costs_no_bit_of_the_run_that_follows(search, configure, tmp_path):
    result, made = search(str(tmp_path / "auto"))
    found = yaml.safe_load((tmp_path / "auto" / "config.yaml").read_text())["lr"]
    assert result["config"]["lr"] == result["lr_search"]["lr"] == found
    tried = result["lr_search"]["tried"]
    assert [(row["lr"], row["updates"]) for row in tried] == made
    assert {5e-3, 2.5e-3, 1e-2} <= {row["lr"] for row in tried}
    assert result["updates"] // 4 < sum(row["updates"] for row in tried) <= result["updates"] // 2
    assert result["config"]["warmup_steps"] == 0.1  # three epochs have none otherwise
    train(configure(**{**SEARCHED, "lr": found, "warmup_steps": 0.1, "output": str(tmp_path / "number")}))
    assert same(tmp_path / "auto", tmp_path / "number")
    assert (tmp_path / "auto" / "summary.csv").read_bytes() == (tmp_path / "number" / "summary.csv").read_bytes()


@pytest.mark.usefixtures("without_pictures")
def test_a_search_that_is_killed_or_stopped_goes_on_where_it_was_to_the_same_bits(search, tmp_path):
    _, made = search(str(tmp_path / "whole"))
    output = tmp_path / "killed"

    def kill():
        raise Killed

    with pytest.raises(Killed):
        search(str(output), at=3, event=kill)
    with pytest.raises(FileExistsError, match=r"holds .* of another run: add --resume"):
        search(str(output))
    with pytest.raises(Interrupted, match=r"stopped in the search .* go on with the same command and --resume"):
        search(str(output), at=2, event=lambda: signal.raise_signal(signal.SIGTERM), resume=True)
    assert json.loads((output / "status.json").read_text())["status"] == "preempted"
    with pytest.raises(ValueError, match=r"was started otherwise \(weight_decay: 0.0001 -> 0.5\)"):
        search(str(output), resume=True, weight_decay=0.5)
    _, rest = search(str(output), resume=True)
    assert rest == made[3:]
    assert same(tmp_path / "whole", output)
    assert search(str(output), resume=True) == (json.loads((output / "result.json").read_text()), [])


@pytest.mark.usefixtures("without_pictures")
def test_replacing_a_run_searches_anew_and_leaves_no_search_of_another(search, tmp_path):
    _, made = search(str(tmp_path / "run"))
    assert search(str(tmp_path / "run"), overwrite=True)[1] == made
    result, made = search(str(tmp_path / "run"), overwrite=True, lr=1e-3)
    assert made == []
    assert "lr_search" not in result
    assert not (tmp_path / "run" / "lr_search.json").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_steps": 127}, "a search takes a run of 128 updates at least, and this one has 127"),
        ({"val_split": None}, "no val split to search on"),
        ({"epochs": 10_000}, "a search is made for runs of up to 200,000 images, and this one sees more"),
    ],
)
@pytest.mark.parametrize(("method", "usual"), [("lora", 0.005), ("adapter", 0.01)])
def test_a_run_without_a_search_has_the_usual_rate_of_its_method_and_says_why(
    configure, monkeypatch, options, reason, method, usual
):
    class Begun(Exception):
        pass

    def begin(job, *_, **__):
        raise Begun(job.config.lr, job.lines[-1])

    monkeypatch.setattr("capaboost_vit.run._run", begin)
    with pytest.raises(Begun) as begun:
        train(configure(**{**SEARCHED, "model": f"vit_tiny_capaboost_{method}", **options}))
    assert begun.value.args == (usual, f"learning rate {usual}, the usual one here: {reason}")


@pytest.mark.usefixtures("without_pictures")
def test_where_all_rates_diverge_one_line_says_so(search, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainConfig, "usual_lr", lambda self: 1e30)
    with pytest.raises(FloatingPointError, match=r"^--lr auto: short runs diverge at 2.5e\+29, .*: say a smaller --lr"):
        search(str(tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "lr_search.json").read_text())
    assert {row["score"] for row in record["tried"]} == {None}


def test_the_command_line_searches_unless_a_rate_or_a_file_is_given(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 3\n")
    auto = tmp_path / "auto.yaml"
    auto.write_text("lr: auto\n")
    cases = {
        (): "auto",
        ("--lr", "2e-3"): 2e-3,
        ("--config", str(file)): 1e-3,
        ("--config", str(file), "--lr", "auto"): "auto",
        ("--config", str(auto)): "auto",
    }
    for arguments, lr in cases.items():
        assert _parser().parse_args(["train", *arguments]).train.lr == lr
    assert TrainConfig().lr == 1e-3


def test_a_rate_is_a_number_or_the_word():
    with pytest.raises(TypeError, match="--lr must be float or auto, got 'fast'"):
        TrainConfig(lr="fast")
    with pytest.raises(ValueError, match="--lr must be positive, got -1"):
        TrainConfig(lr=-1)
