"""Files that earlier releases have written stay readable and mean the same; see golden/make.py."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from golden import make
from safetensors.torch import load_file

import capaboost_vit
from capaboost_vit import nlu
from capaboost_vit.run import train
from capaboost_vit.training.checkpoint import Checkpoints

FOLDER = Path(__file__).parent / "golden" / "v1"
LOGITS = json.loads((FOLDER / "logits.json").read_text())


def close(values, expected):
    return torch.testing.assert_close(values, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", make.IMAGE_METHODS)
@torch.no_grad()
def test_an_adapter_file_of_images_means_the_same(name):
    model = make.image_model()
    capaboost_vit.load_adapter(model, FOLDER / f"{name}.safetensors")
    close(model.eval()(make.images()), LOGITS[name])


@pytest.mark.parametrize("name", make.TEXT_METHODS)
@torch.no_grad()
def test_an_adapter_file_of_texts_means_the_same(name):
    model = make.text_model()
    nlu.load_adapter(model, FOLDER / f"{name}.safetensors")
    close(model.eval()(**make.texts()).logits, LOGITS[name])


def test_a_run_that_was_killed_goes_on_to_the_same_result(tmp_path, monkeypatch, without_pictures):
    monkeypatch.chdir(tmp_path)
    shutil.copy(FOLDER / "base.safetensors", tmp_path)
    shutil.copytree(FOLDER / "killed", tmp_path / "run")
    newest = Checkpoints(tmp_path / "run" / "checkpoints").newest(print)
    assert newest["state"]["progress"]["update"] == make.KILLED_AFTER
    train(make.run_config(resume=True))
    stored, expected = (load_file(folder / "adapter.safetensors") for folder in (tmp_path / "run", FOLDER / "finished"))
    torch.testing.assert_close(stored, expected, rtol=1e-4, atol=1e-5)
    rows, expected_rows = (
        list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
        for folder in (tmp_path / "run", FOLDER / "finished")
    )
    for row, expected_row in zip(rows, expected_rows, strict=True):  # which has no val_loss
        expected_numbers = {name: float(value) for name, value in expected_row.items()}
        assert {name: float(row[name]) for name in expected_row} == pytest.approx(expected_numbers, rel=1e-4)
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "run", FOLDER / "finished")]
    for now, then in zip(results[0]["method"], results[1]["method"], strict=True):
        assert {name: now[name] for name in then} == then
    assert results[0]["parameters"] == results[1]["parameters"]


def test_a_finished_run_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDER / "finished", tmp_path / "run")
    before = (tmp_path / "run" / "result.json").read_bytes()
    assert train(make.run_config(resume=True)) == json.loads(before)
    assert (tmp_path / "run" / "result.json").read_bytes() == before
