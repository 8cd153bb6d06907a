"""Every file in configs/ is one that the command line takes, and opens with what it takes to check it."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
import timm
import yaml

from capaboost_vit.cli import main
from capaboost_vit.methods.config import make_config
from capaboost_vit.training.config import TrainConfig
from capaboost_vit.vision.registry import parse_name

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def header(path):
    """The comment that opens a file, as one string of lines without `#`."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


# what each header must say, and how it is recognised
HEADER = {
    "command": r"capaboost train --config configs/",
    "hardware": r"CPU|GPU|H200|A100",
    "time": r"\d+(\.\d+)? ?(s|seconds?|min|minutes?|h|hours?)\b|not yet measured",
    "result": r"\d+(\.\d+)? ?%|not yet measured",
}


@pytest.fixture
def parsed(monkeypatch):
    """The configuration that a `capaboost train` command line would run."""

    def parse(arguments):
        seen = []
        monkeypatch.setattr("capaboost_vit.run.train", seen.append)
        assert main(["train", *arguments]) == 0
        return seen[0]

    return parse


def test_there_are_configs():
    assert len(CONFIGS) >= 4


@every_config
def test_a_config_is_taken_by_the_command_line(path, parsed):
    config = parsed(["--config", str(path)])
    for name, value in yaml.safe_load(path.read_text()).items():
        assert getattr(config, name) == value


@every_config
def test_a_config_holds_only_what_differs_from_the_defaults(path):
    defaults = dataclasses.asdict(TrainConfig())
    for name, value in yaml.safe_load(path.read_text()).items():
        assert value != defaults[name], name


@every_config
def test_model_and_method_of_a_config_exist(path, parsed):
    config = parsed(["--config", str(path)])
    assert timm.is_model(config.model)
    implied = parse_name(config.model)
    options = dict(config.method)
    make_config(options.pop("name", implied and implied[1]), **options)


@every_config
@pytest.mark.parametrize("what", HEADER)
def test_a_config_opens_with(path, what):
    assert re.search(HEADER[what], header(path)), f"the header of {path} names no {what}"


@every_config
def test_the_command_of_a_config_runs_this_config(path, parsed, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = header(path).replace("\\\n", " ")
    command = next((line for line in text.splitlines() if "capaboost train" in line), None)
    assert command, f"the header of {path} holds no command"
    words = shlex.split(command[command.index("capaboost train") :])
    assert words[words.index("--config") + 1] == str(path.relative_to(ROOT))
    config = parsed(words[2:])
    for name, value in yaml.safe_load(path.read_text()).items():
        assert getattr(config, name) == value


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.stem.startswith("eurosat_vtab1k_")], ids=lambda path: path.stem
)
def test_a_eurosat_config_learns_from_real_images_in_one_small_epoch(path, real_data, vit_tiny_weights, tmp_path):
    arguments = ["--config", str(path), "--data", str(real_data / "eurosat_vtab1k"), "--output", str(tmp_path / "run")]
    weights = ["--initial-checkpoint", str(vit_tiny_weights), "--validation-batch-size", "64"]
    assert main(["train", *arguments, *weights, "--img-size", "64", "--epochs", "1"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["splits"]["train800val200"]["images"] == 1000
    assert result["test_total"] == 5400
    assert result["test_accuracy"] > 30  # ten classes, and prompts learn slowly at first
    assert result["train_seconds"] < 180
