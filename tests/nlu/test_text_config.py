"""A configuration of texts says at once what is wrong with it, and of which stages the run consists."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from capaboost_vit.nlu.config import TextConfig, base_model, has_weights, model_folder, stages


def test_the_defaults_are_the_published_settings_of_lora_on_glue():
    config = TextConfig()
    assert (config.lr, config.weight_decay, config.warmup_steps, config.batch_size) == (5e-4, 0.1, 0.1, 128)
    assert (config.max_length, config.epochs, config.select, config.unit) == (128, 20, "best", "examples")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_length": 0}, "--max-length must be at least 1, got 0"),
        ({"max_question": 0}, "--max-question must be at least 1"),
        ({"n_best": 0}, "--n-best must be at least 1"),
        ({"max_answer_length": -1}, "--max-answer-length must be at least 1, got -1"),
        ({"dapt_epochs": 0}, "--dapt-epochs must be at least 1"),
        ({"stride": -1}, "--stride must be at least 0, got -1"),
        ({"data_seed": -1}, "--data-seed must be at least 0"),
        ({"tapt_epochs": -2}, "--tapt-epochs must be at least 0, got -2"),
        ({"protocol": "half"}, "--protocol must be own, drawn, dev, halves or thousand, got 'half'"),
        ({"dropout": 1.0}, r"--dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"--dropout must lie in \[0, 1\), got -0.1"),
        ({"mlm_lr": 0.0}, "--mlm-lr must be positive, got 0.0"),
        ({"mlm_probability": 0.0}, r"--mlm-probability must lie in \(0, 1\], got 0.0"),
        ({"mlm_probability": 1.1}, r"--mlm-probability must lie in \(0, 1\], got 1.1"),
        ({"text_columns": ("a", "a")}, "--text-columns takes names, each once, got a, a"),
        ({"text_columns": ()}, "--text-columns takes names, each once, got none"),
        ({"metrics": ("f1", "f1")}, "--metrics takes names, each once, got f1, f1"),
        ({"texts_of": "rte"}, "--texts-of is for --task mlm: leave it out"),
        (
            {"task": "mlm", "dapt_data": "x"},
            "--dapt-data and --tapt-epochs are stages before another task than mlm: leave them out",
        ),
        (
            {"task": "mlm", "tapt_epochs": 1},
            "--dapt-data and --tapt-epochs are stages before another task than mlm: leave them out",
        ),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"grad_accum_steps": 200}, "--grad-accum-steps 200 is more than the 128 examples of --batch-size"),
        ({"select": "worst"}, "--select must be last, best, macro_f1, balanced_accuracy or val_loss, got"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(options, text):
    with pytest.raises(ValueError, match=text):
        TextConfig(**options)


@pytest.mark.parametrize(
    "options", [{"dropout": 0.0}, {"mlm_probability": 1.0}, {"stride": 0}, {"text_columns": ("a",)}, {"protocol": None}]
)
def test_the_ends_of_the_ranges_are_taken(options):
    assert dataclasses.asdict(TextConfig(**options)).items() >= options.items()


def test_a_run_has_no_stages_unless_they_are_asked_for():
    config = TextConfig(model="m")
    assert (stages(config), base_model(config), has_weights(config)) == ([], "m", True)
    assert not has_weights(TextConfig(pretrained=False))


def test_dapt_then_tapt_each_on_the_model_of_the_last():
    own = {"model": "m", "task": "rte", "data": "d", "output": "o", "method": {"name": "lora"}, "seed": 3, "amp": True}
    own |= {
        "batch_size": 16,
        "protocol": "halves",
        "text_columns": ("a", "b"),
        "label_column": "l",
        "patience": 2,
        "metrics": ("macro_f1",),
    }
    own |= {
        "smoothing": 0.1,
        "max_steps": 7,
        "layer_decay": 0.5,
        "model_ema": True,
        "warmup_epochs": 1,
        "val_interval": 2,
    }
    config = TextConfig(**own, dapt_data="docs", dapt_epochs=2, tapt_epochs=5, mlm_lr=0.3, resume=True)
    first, second = stages(config)
    for stage in (first, second):
        assert (stage.task, stage.method.name, stage.lr, stage.select) == ("mlm", "full", 0.3, "last")
        assert (stage.seed, stage.amp, stage.batch_size, stage.resume) == (3, True, 16, True)
        assert (stage.patience, stage.smoothing, stage.max_steps, stage.layer_decay) == (None, 0.0, None, None)
        assert (stage.model_ema, stage.warmup_epochs, stage.val_interval) == (False, None, 1)
        assert stage.metrics is None
        assert stages(stage) == []
    assert (first.model, first.data, first.epochs, first.texts_of) == ("m", "docs", 2, None)
    assert (first.protocol, first.text_columns, first.label_column) == (None, None, None)
    assert (second.data, second.epochs, second.texts_of) == ("d", 5, "rte")
    assert (second.protocol, second.text_columns, second.label_column) == ("halves", ("a", "b"), "l")
    assert second.model == str(model_folder(first)) == str(Path("o", "dapt", "model"))
    assert base_model(config) == str(model_folder(second)) == str(Path("o", "tapt", "model"))


@pytest.mark.parametrize("pretrained", [True, False])
def test_what_a_stage_leaves_has_weights_whatever_it_began_with(pretrained):
    config = TextConfig(pretrained=pretrained, dapt_data="docs", tapt_epochs=1)
    assert [stage.pretrained for stage in stages(config)] == [pretrained, True]
    assert has_weights(config)
    (only,) = stages(TextConfig(pretrained=pretrained, tapt_epochs=1))
    assert only.pretrained is pretrained
