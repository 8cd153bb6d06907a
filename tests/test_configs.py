"""Every file in configs/ is one that the command line takes, and opens with what it takes to check it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
import timm
import yaml

from capaboost_vit.bench.config import SHAPES, ProcessesConfig, ScaleConfig, SpeedConfig
from capaboost_vit.cli import main
from capaboost_vit.nlu.config import TextConfig
from capaboost_vit.nlu.job import build_text_model
from capaboost_vit.nlu.tasks import get_task
from capaboost_vit.study.methods import read_method
from capaboost_vit.study.suites.task import read_suite
from capaboost_vit.training.config import RunConfig
from capaboost_vit.training.job import as_dict
from capaboost_vit.vision.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
SUITES = sorted((ROOT / "configs" / "suites").glob("*.yaml"))
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(SUITES))
TRAINED = [path for path in CONFIGS if path.parent.name != "bench"]


def name_of(path):
    """The name of a case: not the bare stem, as pytest takes `gpu` for the marker."""
    return f"{path.parent.name}/{path.name}"


every_config = pytest.mark.parametrize("path", CONFIGS, ids=name_of)

# by command: the class of its configuration
CLASSES = {"train": TrainConfig, "train-text": TextConfig, "bench speed": SpeedConfig, "bench scale": ScaleConfig}
CLASSES |= {"bench processes": ProcessesConfig}


def header(path):
    """The comment that opens a file, as one string of lines without `#`."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def command(path):
    """The words of the command that a file's header gives, without `capaboost`."""
    text = header(path).replace("\\\n", " ")
    lines = [line.partition("capaboost ")[2] for line in text.splitlines() if " --config " in line]
    assert lines, f"the header of {path} holds no command"
    return shlex.split(lines[0])


def kind(path):
    """`train`, `bench speed` or `bench scale`: the words in front of the options."""
    words = command(path)
    return " ".join(words[: words.index("--config")])


def as_lists(values):
    """Tuples as the lists that they are in YAML."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


# what each header must say, and how it is recognised
HEADER = {
    "command": r"capaboost (train|train-text|bench [\w-]+) --config configs/",
    "hardware": r"CPU|GPU|H200|A100",
    "time": r"\d+(\.\d+)? ?(s|seconds?|min|minutes?|h|hours?)\b|not yet measured",
    "result": r"\d+(\.\d+)? ?%|\d\.\d\d|not yet measured",
}


@functools.cache
def parsed(*arguments):
    """The configuration that a command line would run, called from the project's folder; each is parsed once."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr("capaboost_vit.run.train", seen.append)
        patch.setattr(
            "capaboost_vit.bench.measure.measure", lambda kind, config, **_: seen.append(config) or {"goals": []}
        )
        patch.setattr("capaboost_vit.bench.measure.table_of", lambda result: "")
        patch.setattr("capaboost_vit.bench.measure.write_result", lambda result, path: [])
        assert main(list(arguments)) == 0
    return seen[0]


def configured(path):
    """The configuration that the command in a file's header runs."""
    return parsed(*command(path))


@pytest.mark.parametrize("path", SUITES, ids=name_of)
def test_a_suite_is_one_and_its_command_checks_it(path):
    assert read_suite(path).tasks
    assert f"capaboost study check --suite configs/suites/{path.name} --data DATA" in header(path)


@pytest.mark.parametrize("folder", ["vtab1k", "study", "study2"])
def test_the_methods_of_a_study_are_distinct_and_each_file_is_one(folder):
    methods = [read_method(path) for path in sorted((ROOT / "configs" / folder).glob("*.yaml"))]
    assert len(methods) > 10
    assert all(method != other for method, other in itertools.combinations(methods, 2))


def test_every_masked_method_of_vtab1k_has_its_plain_twin_beside_it():
    folder = ROOT / "configs" / "vtab1k"
    masked = sorted(folder.glob("capaboost_*.yaml"))
    assert len(masked) >= 7
    for path in masked:
        twin = folder / path.name.removeprefix("capaboost_")
        method, plain = (read_method(file)["method"] for file in (path, twin))
        differ = {name: (method[name], plain[name]) for name in method if method[name] != plain[name]}
        assert differ == {"num_branches": (2, 1), "density": (0.5, 1.0)}, path.name


def test_there_are_configs():
    assert len(TRAINED) >= 4
    assert {kind(path) for path in CONFIGS} == CLASSES.keys()


@every_config
def test_the_command_of_a_config_runs_this_config(path):
    words = command(path)
    assert words[words.index("--config") + 1] == str(path.relative_to(ROOT))
    config = configured(path)
    assert type(config) is CLASSES[kind(path)]
    values = as_dict(config) if isinstance(config, RunConfig) else as_lists(dataclasses.asdict(config))
    for name, value in yaml.safe_load(path.read_text()).items():
        assert values[name] == value


@every_config
def test_a_config_holds_only_what_differs_from_the_defaults(path):
    config = CLASSES[kind(path)]()
    defaults = as_dict(config) if isinstance(config, RunConfig) else as_lists(dataclasses.asdict(config))
    for name, value in yaml.safe_load(path.read_text()).items():
        assert value != defaults[name], name


@every_config
def test_model_and_method_of_a_config_exist(path):
    config = configured(path)
    if isinstance(config, TextConfig):
        assert get_task(config.task).name == config.task
        assert config.method is not None
        return
    assert timm.is_model(config.model) or config.model in SHAPES
    if path in TRAINED:
        assert config.method is not None


@pytest.mark.parametrize(
    "path", [path for path in TRAINED if path.is_relative_to(ROOT / "configs" / "nlu")], ids=name_of
)
def test_the_method_of_a_config_of_texts_finds_its_places_in_a_small_model(path, text_material):
    config = dataclasses.replace(configured(path), model=str(text_material / "roberta"))
    model = build_text_model(config, get_task(config.task), ("no", "yes"))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(name.startswith(("classifier", "qa_outputs")) for name in trained)
    assert config.method.name == "head" or any(".layer.0." in name for name in trained)


@every_config
def test_a_config_opens_with_its_command_hardware_time_and_result(path):
    assert [what for what, pattern in HEADER.items() if not re.search(pattern, header(path))] == []


@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in TRAINED], ids=name_of)
def test_a_measurement_writes_to_a_file_of_its_own_name(path):
    assert configured(path).output == f"runs/bench/{path.stem}.json"


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.stem.startswith("eurosat_vtab1k_")], ids=lambda path: path.stem
)
def test_a_eurosat_config_learns_from_real_images_in_one_small_epoch(path, real_data, vit_tiny_weights, tmp_path):
    arguments = ["--config", str(path), "--data", str(real_data / "eurosat_vtab1k"), "--output", str(tmp_path / "run")]
    weights = ["--initial-checkpoint", str(vit_tiny_weights), "--validation-batch-size", "64"]
    smaller = ["--img-size", "64", "--epochs", "1", "--test-split", "test[:540]"]
    assert main(["train", *arguments, *weights, *smaller]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["splits"]["train800val200"]["images"] == 1000
    assert result["test_total"] == 540
    assert result["test_accuracy"] > 30  # ten classes, and prompts learn slowly at first
    assert result["train_seconds"] < 180
