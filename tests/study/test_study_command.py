"""`capaboost study run | tune | status | work` on real, tiny runs, with workers that die and that are told to stop."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from capaboost_vit.cli import main
from capaboost_vit.study.lease import Leases
from capaboost_vit.study.manifest import Study
from capaboost_vit.study.selection import read_choices

TWO = {"lora": {"method": {"name": "lora"}, "lr": 1e-2}, "head": {"method": {"name": "head"}, "lr": 1e-2}}


@pytest.fixture
def configured(written, tmp_path):
    """The options of a study in a YAML file, as --config takes them; and the study."""

    def make(files=TWO, **options):
        values = written(files, **options)
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}))
        return ["--config", str(path)], Study(values["output"])

    return make


def wait_for(condition, seconds=240):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_a_study_is_written_down_without_workers_and_one_is_told_how_to_start_them(configured, capsys):
    config, study = configured()
    assert main(["study", "run", *config, "--workers", "0", "--seeds", "0", "1"]) == 0
    said = capsys.readouterr().out
    assert "8 trials, 8 of them new, 0 finished" in said
    assert f"started with: capaboost study work --output '{study.path}' --lease 120.0" in said
    assert main(["study", "run", *config, "--workers", "0", "--seeds", "0", "1", "2"]) == 0
    assert "12 trials, 4 of them new, 0 finished" in capsys.readouterr().out
    assert len(study.trials()) == 12


def test_options_of_the_trials_and_of_their_method_go_over_those_of_config_and_file(configured):
    config, study = configured({"lora": TWO["lora"]})  # with epochs and img_size under `set:`
    words = ["--workers", "0", "--seeds", "0", "--tasks", "one", "--set", "lr=5e-1", "--set", "epochs=3"]
    words += ["--set", "method.alpha=32", "--set", "method.rank=4", "--set=method.targets=[query, key]"]
    assert main(["study", "run", *config, *words]) == 0
    (trial,) = study.trials().values()
    assert (trial.config["lr"], trial.config["epochs"], trial.config["img_size"]) == (0.5, 3, 16)
    method = trial.config["method"]
    assert (method["alpha"], method["rank"], method["targets"]) == (32, 4, ["query", "key"])


def test_a_grid_reaches_into_the_method_and_is_left_out_where_a_method_has_no_such_option(configured):
    config, study = configured()
    words = ["--workers", "0", "--tune-seeds", "0", "--tasks", "one", "--grid", "method.rank=[2, 4]"]
    assert main(["study", "tune", *config, *words, "--grid", "method.alpha=[1, x2]", "--grid", "lr=[x1, x2]"]) == 0
    trials = list(study.trials().values())
    methods = [t.config["method"] for t in trials if t.method == "lora"]
    assert len(methods) == 8
    assert {method["rank"] for method in methods} == {2, 4}
    assert len({method["alpha"] for method in methods}) == 2
    assert len(trials) == 8 + 2


def test_status_tells_of_every_state(configured, finish, capsys):
    config, study = configured()
    main(["study", "run", *config, "--workers", "0", "--seeds", "0"])
    done, failed, running, _ = study.trials().values()
    finish(study, done, train_seconds=1800.0)
    study.give_up(failed, "ValueError: no", 1)
    capsys.readouterr()
    with Leases(study.leases, seconds=60).claim(running.id):
        assert main(["study", "status", str(study.path)]) == 0
    said = capsys.readouterr().out
    assert "4 trials: 1 finished, 1 running, 1 waiting, 1 failed" in said
    assert "final      lora  1 of 2 finished, 1 running" in said
    assert "final      head  0 of 2 finished, 1 waiting, 1 failed" in said
    assert f"running: lora on two, seed 0: process {os.getpid()} on " in said
    assert "failed: head on one, seed 0 (" in said
    assert "): ValueError: no" in said
    assert "a trial trains for 1800 s on average, 0.50 h in all; 2 are left: 1.0 h of one worker" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status", "nowhere"], "no study in nowhere: it has no manifest.jsonl"),
        (["work", "--output", "nowhere"], "no study in nowhere: it has no manifest.jsonl"),
        (["work", "--lease", "0"], "--lease must be positive, got 0.0"),
        (["run", "--seeds", "0"], "--methods is missing: name files such as configs/vtab1k/lora.yaml"),
        (["run", "--methods", "nowhere.yaml"], "needs data: say --data FOLDER"),
        (["tune", "--methods", "a.yaml"], "--grid is missing: say for example --grid 'lr="),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message, capsys):
    assert main(["study", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "run", "--set", "lr"], "study run: error: argument --set: expected NAME=VALUE, got 'lr'"),
        (["study", "run", "--set", "lr=["], "argument --set: lr is no YAML: line 2, column 1: "),
        (["study", "tune", "--grid", "=3"], "argument --grid: expected NAME=LIST, got '=3'"),
        (["study", "run", "--set.lr", "3"], "argument --set: expected NAME=VALUE, got '3'"),
        (["bench", "run", "--seeds", "0"], "(did you mean capaboost study run?)"),
    ],
    ids=" ".join,
)
def test_what_the_parser_refuses_is_one_line_that_says_what_to_type(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_tuned_runs_need_choices(configured, capsys):
    config, _ = configured()
    assert main(["study", "run", *config, "--tuned", "--workers", "0"]) == 2
    assert "nothing was chosen in" in capsys.readouterr().err


@pytest.mark.slow
def test_two_workers_tune_and_run_and_a_third_seed_runs_only_what_is_missing(configured, ready_workers, capsys):
    config, study = configured(workers=2)
    grid = ["--grid", "lr=[x0.001, x1]"]
    assert main(["study", "tune", *config, *grid, "--tasks", "one"]) == 0
    choices = read_choices(study)
    assert choices.keys() == {"one | lora | vit_tiny_patch16_224", "one | head | vit_tiny_patch16_224"}
    for choice in choices.values():
        tried = dict((point["lr"], score) for point, score in choice["tried"])
        assert tried.keys() == {1e-5, 1e-2}
        assert choice["score"] == max(tried.values())
    for trial in study.trials().values():
        result = study.result(trial)
        assert trial.stage == "candidate"
        assert result["test_accuracy"] is None
        assert set(result["data"]["splits"]) == {"train", "val"}
    words = ["study", "run", *config, "--tuned", "--tasks", "one", "--workers", "1"]
    assert main([*words, "--seeds", "0", "1"]) == 0
    finals = [t for t in study.trials().values() if t.stage == "final"]
    assert len(finals) == 4
    before = {t.id: (study.run_folder(t) / "result.json").stat().st_mtime_ns for t in finals}
    for trial in finals:
        result = study.result(trial)
        assert result["data"]["splits"]["train+val"]["images"] == 54
        assert result["test_total"] == 6
        assert result["config"]["lr"] == choices[f"one | {trial.method} | vit_tiny_patch16_224"]["options"]["lr"]
    capsys.readouterr()
    assert main([*words, "--seeds", "0", "1", "2"]) == 0
    said = capsys.readouterr().out
    assert "6 trials, 2 of them new, 4 finished" in said
    assert "6 of 6 trials are finished" in said
    assert before == {t.id: (study.run_folder(t) / "result.json").stat().st_mtime_ns for t in finals}


@pytest.mark.slow
def test_a_failing_method_is_told_and_retried_only_when_asked(configured, ready_workers, capsys):
    files = {"lora": TWO["lora"], "prefix": {"method": {"name": "prefix", "targets": ["nothing"]}}}
    config, study = configured(files)
    assert main(["study", "run", *config, "--tasks", "one", "--seeds", "0"]) == 1
    said = capsys.readouterr()
    assert "failed: prefix on one, seed 0: ValueError: target 'nothing' matches nothing" in said.err
    assert "1 of 2 trials are finished" in said.out
    logs = (study.path / "workers" / "0.log").read_text()
    assert main(["study", "run", *config, "--tasks", "one", "--seeds", "0"]) == 1
    assert (study.path / "workers" / "0.log").read_text() == logs  # nothing was begun
    assert main(["study", "run", *config, "--tasks", "one", "--seeds", "0", "--retry"]) == 1
    assert (study.path / "workers" / "0.log").read_text().count("begins: prefix") == 2


@pytest.mark.slow
def test_workers_that_are_killed_are_replaced_and_every_trial_has_one_result(configured, ready_workers, capsys):
    config, study = configured(workers=2)
    leases, killed = Leases(study.leases, seconds=60), set()

    def two_are_killed():
        for trial in _trials(study):
            owner = leases.owner(trial.id)
            if owner and owner["pid"] not in killed and any(study.run_folder(trial).glob("checkpoints/*")):
                os.kill(owner["pid"], signal.SIGKILL)
                killed.add(owner["pid"])
        return len(killed) > 1

    with ThreadPoolExecutor(1) as other:
        killing = other.submit(wait_for, two_are_killed)
        # all of them may have held the same trial, which is not given up for that
        code = main(["study", "run", *config, "--seeds", "0", "--set", "epochs=20", "--attempts", "4"])
    killing.result()
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "4 of 4 trials are finished" in said.out
    assert said.out.count("died (exit code -9): another one is started") >= 2
    logs = "".join(path.read_text() for path in (study.path / "workers").glob("*.log"))
    finished = [line for line in logs.splitlines() if line.startswith("finished: ")]
    assert len(finished) == len({line.partition(" (")[0] for line in finished})


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_study_that_is_stopped_keeps_what_it_has_and_goes_on(configured, ready, request, number, code):
    config, study = configured(workers=1)
    words = ["study", "run", *config, "--tasks", "one", "--seeds", "0", "--set", "epochs=60"]
    process = ready.start(["capaboost", *words])  # its worker is a new interpreter, as those of a user are
    wait_for(lambda: len(list((study.path / "trials").glob("*/checkpoints/*"))) > 1)
    process.send_signal(number)
    assert process.wait() == code
    assert "go on with the same command" in process.stderr
    interrupted = [
        t for t in _trials(study) if (study.run_folder(t) / "status.json").exists() and not study.finished(t)
    ]
    for trial in interrupted:
        assert json.loads((study.run_folder(trial) / "status.json").read_text())["status"] == "preempted"
        assert Leases(study.leases, seconds=60).owner(trial.id) is None
    if number == signal.SIGTERM:  # what goes on is the same after both
        request.getfixturevalue("ready_workers")
        assert main(words) == 0
        assert len(study.open_trials()) == 0


def _trials(study):
    return list(study.trials().values()) if study.manifest.exists() else []


@pytest.fixture
def on_ray(configured, ready):
    """Starts a study on Ray."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install capaboost_vit[ray]")
    config, study = configured()

    def start(*words):
        words = ["study", "run", *config, "--seeds", "0", "--on", "ray", "--worker-cpus", "0.5", *words]
        return ready.start(["capaboost", *words], env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}), study

    return start


@pytest.mark.slow
@pytest.mark.timeout(600)  # a cluster takes minutes to start on a machine that has other work
def test_on_ray_the_trials_of_a_killed_worker_are_taken_over(on_ray):
    process, study = on_ray("--set", "epochs=10", "--workers", "2")
    leases = Leases(study.leases, seconds=60)
    wait_for(lambda: any(leases.owner(t.id) for t in _trials(study)))
    trial, owner = next((t, o) for t in _trials(study) if (o := leases.owner(t.id)))
    os.kill(owner["pid"], signal.SIGKILL)
    assert process.wait(400) == 0, process.stderr
    assert "4 of 4 trials are finished" in process.stdout
    assert len(leases.generations(trial.id)) > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_ray_a_signal_stops_the_workers_though_ray_handles_it_too(on_ray):
    process, study = on_ray("--set", "epochs=60")
    wait_for(lambda: len(list((study.path / "trials").glob("*/checkpoints/*"))) > 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(180) == 143, process.stderr
    assert "go on with the same command" in process.stderr
