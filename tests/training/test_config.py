"""The configuration refuses what cannot be run, in the words of the command line, and survives a round trip."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from capaboost_vit.io.options import option
from capaboost_vit.methods import METHODS
from capaboost_vit.training.job import as_dict, run_identity
from capaboost_vit.vision.config import TrainConfig


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
        ({"max_steps": 0}, "--max-steps must be at least 1, got 0"),
        ({"grad_accum_steps": 0}, "--grad-accum-steps must be at least 1, got 0"),
        ({"val_interval": 0}, "--val-interval must be at least 1, got 0"),
        ({"patience": 0}, "--patience must be at least 1, got 0"),
        ({"checkpoint_interval": 0}, "--checkpoint-interval must be at least 1, got 0"),
        ({"mixup": -0.1}, r"--mixup must be 0, or be at least 0\.001, got -0.1"),
        ({"mixup": 1e-300}, r"--mixup must be 0, or be at least 0\.001, got 1e-300"),
        ({"cutmix": float("nan")}, r"--cutmix must be 0, or be at least 0\.001, got nan"),
        ({"drop_path": -1.0}, r"--drop-path must lie in \[0, 1\), got -1.0"),
        ({"momentum": 2}, r"--momentum must lie in \[0, 1\), got 2"),
        ({"lr": float("inf")}, "--lr must be finite in float32, got inf"),
        ({"min_lr": float("nan")}, "--min-lr must be at least 0, got nan"),
        ({"color_jitter": float("nan")}, "--color-jitter must be at least 0, got nan"),
        ({"model_ema_decay": 1e-300}, "--model-ema-decay must be finite and not 0 in float32, got 1e-300"),
        ({"opt": "adamv"}, "--opt must be one of .*, got 'adamv' \\(did you mean 'adam'"),
        ({"sched": "cosin"}, "--sched must be .*, got 'cosin' \\(did you mean 'cosine'"),
        ({"model_ema_decay": 1.0}, r"--model-ema-decay must lie in \[0, 1\), got 1.0"),
        ({"hflip": 1.5}, r"--hflip must lie in \[0, 1\], got 1.5"),
        ({"vflip": -0.5}, r"--vflip must lie in \[0, 1\], got -0.5"),
        ({"reprob": float("nan")}, r"--reprob must lie in \[0, 1\], got nan"),
        ({"aa": "rand-m9"}, "--aa has no effect without augmentation: add --no-aug false"),
        ({"scale": (0.5, 1.0)}, "--scale has no effect without augmentation"),
        ({"hflip": 0.0}, "--hflip has no effect without augmentation"),
        ({"select": "first"}, "--select must be last, best, macro_f1, balanced_accuracy or val_loss, got 'first'"),
        ({"select": "bset"}, r"--select must be last, best, .* or val_loss, got 'bset' \(did you mean 'best'\?\)"),
        ({"cache": "disk"}, "--cache must be auto, memory, device or none, got 'disk'"),
        (
            {"compile": True, "compile_mode": "fast"},
            "--compile-mode must be default, reduce-overhead, max-autotune or max-autotune-no-cudagraphs, got 'fast'",
        ),
        ({"compile_mode": "max-autotune"}, "--compile-mode has no effect without compilation: add --compile true"),
        (
            {"compile": True, "compile_mode": "reduce-overhead", "grad_accum_steps": 2},
            "--compile-mode reduce-overhead cannot add up gradients, as its CUDA graphs overwrite them: take",
        ),
        ({"bad_images": "ignore"}, "--bad-images must be error or skip, got 'ignore'"),
        (
            {"grad_accum_steps": 9, "batch_size": 8},
            "--grad-accum-steps 9 is more than the 8 images of --batch-size",
        ),
        ({"fsdp": True, "compile": True}, "--fsdp gathers weights between blocks, which --compile joins: leave one"),
        ({"fsdp": True, "channels_last": True}, "--fsdp shards weights in torch's own memory format: leave --channels"),
        ({"fsdp": True, "method": {"name": "full"}}, "--fsdp shards frozen weights, and full fine-tuning has none"),
        ({"img_size": (32, 0)}, "--img-size must be at least 1, got 0"),
        ({"resume": True, "overwrite": True}, "--resume goes on with a run, --overwrite replaces it: choose one"),
        (
            {"patience": 3, "val_split": None},
            "--patience and each --select but last need a validation split: say --val-split",
        ),
        ({"select": "best", "val_split": None}, "--patience and each --select but last need a validation split"),
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
        {"max_steps": 1, "val_interval": 1, "patience": 1, "checkpoint_interval": 1},
        {"grad_accum_steps": 8, "batch_size": 8},
        {"mixup": 0.0, "cutmix": 2.0, "drop_path": 0.0, "model_ema_decay": 0.0},
        {"hflip": 0.0, "vflip": 1.0, "reprob": 1.0, "no_aug": False},
        {"select": "best", "bad_images": "skip", "resume": True},
        {"val_split": None, "overwrite": True},
        {"cache": "none", "channels_last": True},
        {"compile": True, "compile_mode": "reduce-overhead", "grad_accum_steps": 1},
        {"compile": True, "compile_mode": "max-autotune-no-cudagraphs", "grad_accum_steps": 2},
    ],
)
def test_a_value_at_the_edge_is_taken(options):
    config = TrainConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_a_configuration_does_not_change_and_shares_no_default():
    first, second = TrainConfig(), TrainConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.lr = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.method.rank = 4
    first.model_kwargs["depth"] = 4
    assert second.model_kwargs == {}


def test_a_configuration_survives_yaml():
    config = TrainConfig(
        method={"rank": 3, "targets": ["query"]}, model_kwargs={"depth": 1}, scale=(0.5, 1.0), no_aug=False
    )
    read = yaml.safe_load(yaml.safe_dump(as_dict(config)))
    assert TrainConfig(**{**read, "scale": tuple(read["scale"]), "ratio": tuple(read["ratio"])}) == config


def test_what_was_said_of_an_earlier_run_is_not_stored():
    config = TrainConfig(overwrite=True, allow_config_change=True)
    assert as_dict(config) == as_dict(TrainConfig(resume=True)) == as_dict(TrainConfig())
    assert config.overwrite


def test_options_that_change_nothing_of_the_result_do_not_bind():
    free = {"output": "x", "workers": 3, "checkpoint_interval": 7, "data_dir": "y", "data_download": True}
    free["cache"] = "none"
    assert run_identity(as_dict(TrainConfig(**free)), TrainConfig) == run_identity(as_dict(TrainConfig()), TrainConfig)
    for name, value in {"lr": 1.0, "log_interval": 3, "epochs": 7, "select": "best", "data": "x", "seed": 1}.items():
        assert run_identity(as_dict(TrainConfig(**{name: value})), TrainConfig) != run_identity(
            as_dict(TrainConfig()), TrainConfig
        ), name


def test_options_that_a_stored_configuration_lacks_stand_at_their_defaults():
    stored = as_dict(TrainConfig(lr=0.5))
    older = {name: value for name, value in stored.items() if name not in ("compile_mode", "channels_last")}
    assert (
        run_identity(older, TrainConfig)
        == run_identity(stored, TrainConfig)
        != run_identity(as_dict(TrainConfig(lr=0.5, channels_last=True)), TrainConfig)
    )


@pytest.mark.parametrize("cls", [TrainConfig, *METHODS.values()], ids=lambda cls: cls.__name__)
def test_every_option_says_what_it_is(cls):
    for field in dataclasses.fields(cls):
        assert len(field.metadata["help"]) > 5, field.name


def test_a_default_that_is_a_dict_is_copied():
    default = {"a": 1}
    cls = dataclasses.make_dataclass("Made", [("value", dict, option(default, "some values"))])
    cls().value["a"] = 2
    assert cls().value == default == {"a": 1}
