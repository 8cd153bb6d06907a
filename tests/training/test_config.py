"""The configuration refuses what cannot be run, in the words of the command line, and survives a round trip."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from capaboost_vit.methods.config import CONFIGS
from capaboost_vit.options import option
from capaboost_vit.training.config import TrainConfig


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"batch_size": -3}, "--batch-size must be at least 1, got -3"),
        ({"validation_batch_size": 0}, "--validation-batch-size must be at least 1, got 0"),
        ({"log_interval": 0}, "--log-interval must be at least 1, got 0"),
        ({"lr": 0.0}, "--lr must be positive, got 0.0"),
        ({"lr": float("nan")}, "--lr must be positive, got nan"),
        ({"warmup_epochs": -1}, r"--warmup-epochs must lie in \[0, epochs = 100\), got -1"),
        ({"warmup_epochs": 3, "epochs": 3}, r"--warmup-epochs must lie in \[0, epochs = 3\), got 3"),
        ({"amp_dtype": "float8"}, "--amp-dtype must be bfloat16 or float16, got 'float8'"),
        ({"smoothing": 1.0}, r"--smoothing must lie in \[0, 1\), got 1.0"),
        ({"smoothing": -0.1}, r"--smoothing must lie in \[0, 1\), got -0.1"),
        ({"workers": -1}, "--workers must be at least 0, got -1"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"clip_grad": 0.0}, "--clip-grad must be positive, got 0.0"),
        ({"clip_grad": float("nan")}, "--clip-grad must be positive, got nan"),
    ],
)
def test_a_value_out_of_range_is_named_by_its_flag(options, error):
    with pytest.raises(ValueError, match=error):
        TrainConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"epochs": 1, "warmup_epochs": 0},
        {"epochs": 3, "warmup_epochs": 2},
        {"smoothing": 0.0, "workers": 0, "seed": 0, "lr": 1e-12, "clip_grad": 1e-9},
        {"amp_dtype": "float16", "smoothing": 0.99},
    ],
)
def test_a_value_at_the_edge_is_taken(options):
    config = TrainConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_a_configuration_does_not_change_and_shares_no_default():
    first, second = TrainConfig(), TrainConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.lr = 1.0
    first.method["rank"] = 4
    assert second.method == {}


def test_a_configuration_survives_yaml():
    config = TrainConfig(method={"rank": 3, "targets": ["query"]}, model_kwargs={"depth": 1}, lr=3e-5, scale=(0.5, 1.0))
    read = yaml.safe_load(yaml.safe_dump({**dataclasses.asdict(config), "scale": [0.5, 1.0]}))
    assert TrainConfig(**{**read, "scale": tuple(read["scale"])}) == config


@pytest.mark.parametrize("cls", [TrainConfig, *CONFIGS.values()], ids=lambda cls: cls.__name__)
def test_every_option_says_what_it_is(cls):
    for field in dataclasses.fields(cls):
        assert len(field.metadata["help"]) > 5, field.name


def test_a_default_that_is_a_dict_is_copied():
    default = {"a": 1}
    cls = dataclasses.make_dataclass("Made", [("value", dict, option(default, "some values"))])
    cls().value["a"] = 2
    assert cls().value == default == {"a": 1}
