"""Runs that report to Weights & Biases and to MLflow, with the real packages and no server."""

from __future__ import annotations

import dataclasses
import json

import pytest

from capaboost_vit.run import train


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlflow")  # mlflow-skinny has no database
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)  # where MLflow puts pictures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages' own
def test_a_run_and_its_continuation_are_one_run_of_mlflow_with_the_points_of_tensorboard(offline, configure):
    tracking = pytest.importorskip("mlflow.tracking")
    config = configure(log_to="mlflow", epochs=2)
    result = train(config)
    client = tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("capaboost_vit").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a run"
    assert (run.data.params["lr"], run.data.params["method"]) == ("0.01", "lora")
    assert run.data.metrics["result/test_accuracy"] == pytest.approx(result["test_accuracy"])
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == list(range(1, result["updates"] + 1))
    train(dataclasses.replace(config, epochs=3, resume=True, allow_config_change=True))
    (again,) = client.search_runs([run.info.experiment_id])
    assert again.info.run_id == run.info.run_id
    assert max(point.step for point in client.get_metric_history(run.info.run_id, "train/loss")) > result["updates"]


@pytest.mark.filterwarnings("ignore")
def test_a_run_reports_to_weights_and_biases_and_keeps_the_name_by_which_it_is_known_there(
    offline, configure, tmp_path
):
    pytest.importorskip("wandb")
    train(configure(log_to="wandb", epochs=1))
    name = json.loads((tmp_path / "a run" / "tracker.json").read_text())["wandb"]
    (written,) = (tmp_path / "a run" / "wandb").glob(f"offline-run-*/run-{name}.wandb")
    content = written.read_bytes()
    assert b"train/loss" in content
    assert b"result/test_accuracy" in content
    assert b"learning_curve" in content


def test_a_package_that_is_missing_is_a_line_that_says_what_to_install(configure, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    monkeypatch.setitem(__import__("sys").modules, "mlflow.tracking", None)
    monkeypatch.setitem(__import__("sys").modules, "mlflow.entities", None)
    with pytest.raises(ModuleNotFoundError, match=r"--log-to mlflow needs .*pip install 'capaboost_vit\[mlflow\]'"):
        train(configure(log_to="mlflow"))
