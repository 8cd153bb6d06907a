"""From suite, methods and seeds to trials."""

from __future__ import annotations

import typing
from dataclasses import fields

import pytest
import yaml

from capaboost_vit.study.config import StudyRunConfig, StudyTuneConfig
from capaboost_vit.study.methods import read_method
from capaboost_vit.study.plan import BACKBONES, candidate_trials, choice_key, final_trials
from capaboost_vit.vision.config import TrainConfig

TWO = {"lora": {"method": {"name": "lora", "rank": 4}, "lr": 1e-2}, "head": {"method": {"name": "head"}}}


def final(written, files=None, **options):
    return final_trials(StudyRunConfig(**written(files, **options)))


def tuned(written, files=None, **options):
    return candidate_trials(StudyTuneConfig(**written(files, **options)))


def test_there_is_a_trial_for_each_seed_task_and_method_and_each_seed_is_a_whole_table(written):
    trials = final(written, TWO, seeds=(0, 1))
    assert [(t.seed, t.task, t.method) for t in trials] == [
        (seed, task, method) for seed in (0, 1) for task in ("one", "two") for method in ("lora", "head")
    ]
    assert len({t.id for t in trials}) == 8


def test_a_final_trial_trains_on_all_and_is_tested_and_a_candidate_never_sees_the_test(written):
    config = final(written)[0].config
    assert (config["train_split"], config["val_split"], config["test_split"]) == ("train+val", None, "test")
    ((_, (trial,)),) = tuned(written, grid={"lr": [1e-3]})["one | lora | vit_tiny_patch16_224"]
    config = trial.config
    assert (config["train_split"], config["val_split"], config["test_split"]) == ("train", "val", None)


def test_a_trial_holds_every_option_and_the_whole_method(written):
    trial = final(written, TWO)[0]
    assert trial.config.keys() == {field.name for field in fields(TrainConfig)} - {"output"}
    assert trial.config["method"]["rank"] == 4
    assert trial.config["method"]["num_branches"] == 2  # a default
    assert "init_seed" not in trial.config["method"]  # follows the training seed
    assert trial.config["lr"] == 1e-2
    assert trial.config["img_size"] == 16
    assert (trial.suite, trial.classes, trial.backbone) == ("mine", 3, "vit_tiny_patch16_224")


def test_masks_differ_between_seeds_unless_the_method_names_theirs(written):
    files = {"free": {"method": {"name": "lora"}}, "fixed": {"method": {"name": "lora", "mask_seed": 7}}}
    trials = final(written, files | {"head": {"method": {"name": "head"}}}, seeds=(0, 3), tasks=("one",))
    seeds = {(t.method, t.seed): t.config["method"].get("mask_seed") for t in trials}
    assert seeds == dict(zip(seeds, (0, 7, None, 3, 7, None), strict=True))


def test_saying_a_default_makes_no_other_trial(written):
    said = {"lora": {"method": {"name": "lora", "rank": 8, "alpha": 8}, "weight_decay": 1e-4}}
    assert [t.id for t in final(written, said)] == [t.id for t in final(written)]


def test_the_weights_are_known_by_what_is_in_them(written, base, tmp_path):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(base.read_bytes())
    other = tmp_path / "other.safetensors"
    other.write_bytes(base.read_bytes() + b" ")
    first, second, third = (final(written, initial_checkpoint=str(p))[0].id for p in (base, moved, other))
    assert first == second != third


def test_a_preset_is_a_timm_model_of_that_checkpoint(written):
    for name, model in BACKBONES.items():
        trial = final(written, backbone=name, initial_checkpoint=None, set={})[0]
        assert (trial.backbone, trial.config["model"], trial.config["pretrained"]) == (name, model, True)


def test_the_backbone_is_that_of_the_methods_files_unless_the_study_names_one(written, base, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(base.read_bytes() + b" ")
    files = {
        "mine": {"model": "vit_base_capaboost_adapter.augreg_in21k", "method": {"bottleneck": 4}},
        "lora": {"method": {"name": "lora"}, "initial_checkpoint": str(other)},
    }
    trial = final(written, files)[0]
    assert (trial.config["model"], trial.config["initial_checkpoint"]) == ("vit_tiny_patch16_224", str(base))
    assert (trial.config["method"]["name"], trial.config["method"]["bottleneck"]) == ("adapter", 4)
    for trial in final(written, files, backbone=None, initial_checkpoint=None, set={}):
        assert (trial.backbone, trial.config["model"]) == ("augreg_in21k", BACKBONES["augreg_in21k"])
        assert (trial.config["initial_checkpoint"], trial.config["pretrained"]) == (str(other), False)
    files = {"lora": {"model": "vit_tiny_patch16_224", "method": {"name": "lora"}}, "head": TWO["head"]}
    assert {t.backbone for t in final(written, files, backbone=None)} == {"vit_tiny_patch16_224"}
    assert final(written, backbone=None, set={})[0].backbone == "augreg_in21k"  # nobody names one


@pytest.mark.parametrize(("name", "flag"), [("model", "--backbone"), ("initial_checkpoint", "--initial-checkpoint")])
def test_methods_with_different_backbones_are_no_study(written, name, flag):
    files = {method: {name: method, "method": {"name": method}} for method in ("lora", "head")}
    message = rf"different backbones \({name}: lora in lora, head in head\): say {flag} for all of them"
    with pytest.raises(ValueError, match=message):
        final(written, files, backbone=None, initial_checkpoint=None, set={})


def of_task(tmp_path, **options):
    """A suite whose one task has options of its own."""
    path = tmp_path / "optional.yaml"
    path.write_text(yaml.safe_dump({"tasks": {"one": {"data": "digits", "options": options}}}))
    return {"suite": str(path), "tasks": ("one",)}


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_tags_and_numbers_are_no_tasks_of_a_study(written, tmp_path, task):
    message = rf"digits is for {task}, and studies tell methods apart by accuracy.*: train each with capaboost train"
    with pytest.raises(ValueError, match=message):
        final(written, TWO, **of_task(tmp_path, task=task))


def test_the_options_of_a_task_win_over_a_file_and_never_silently_over_what_was_typed(written, tmp_path):
    task = of_task(tmp_path, lr=3e-2, label_column="fine")
    config = final(written, TWO, **task)[0].config
    assert (config["lr"], config["label_column"]) == (3e-2, "fine")
    assert final(written, TWO, **task, set={"lr": 3e-2})[0].config["lr"] == 3e-2
    message = "lr 0.02 for all tasks, but the suite says 0.03 for the task one: leave one of them out"
    with pytest.raises(ValueError, match=message):
        final(written, TWO, **task, set={"lr": 2e-2})
    with pytest.raises(ValueError, match=r"lr 0.01 for all tasks, but the suite says 0.03 for the task one"):
        tuned(written, {"lora": TWO["lora"]}, grid={"lr": ["x1", "x3"]}, **task)


def test_few_shots_are_trials_of_their_own(written):
    trials = final(written, seeds=(0,), tasks=("one",), shots=(1, 4))
    assert [(t.shots, t.config["shots"]) for t in trials] == [(1, 1), (4, 4)]


def test_what_is_set_stands_over_the_method_and_what_was_chosen_over_both(written):
    config = StudyRunConfig(**written(TWO, seeds=(0,), tasks=("one",)))
    config.set["lr"] = 2e-2
    assert [t.config["lr"] for t in final_trials(config)] == [2e-2, 2e-2]
    choices = {
        "one | lora | vit_tiny_patch16_224": {"options": {"lr": 5e-2, "method.rank": 2}},
        "one | head | vit_tiny_patch16_224": {"options": {}},
    }
    lora, head = final_trials(config, choices)
    assert (lora.config["lr"], lora.config["method"]["rank"], head.config["lr"]) == (5e-2, 2, 2e-2)
    del choices["one | head | vit_tiny_patch16_224"]
    with pytest.raises(ValueError, match=r"nothing was chosen for one \| head \| .*: run capaboost study tune"):
        final_trials(config, choices)


# the grid


def test_candidates_are_all_combinations_and_a_method_has_only_its_own_options(written):
    cells = tuned(written, TWO, grid={"lr": ["x0.5", "x1"], "method.rank": [2, 8]}, tune_seeds=(5, 6))
    assert len(cells) == 4
    lora = cells[choice_key("two", "lora", "vit_tiny_patch16_224", None)]
    points = [{"lr": lr, "method.rank": rank} for lr in (5e-3, 1e-2) for rank in (2, 8)]
    assert [point for point, _ in lora] == points
    for point, trials in lora:
        assert [t.seed for t in trials] == [5, 6]
        assert {t.config["lr"] for t in trials} == {point["lr"]}
        assert {t.config["method"]["rank"] for t in trials} == {point["method.rank"]}
    head = cells[choice_key("two", "head", "vit_tiny_patch16_224", None)]
    assert [point for point, _ in head] == [{"lr": 5e-4}, {"lr": 1e-3}]  # of the default, 1e-3


def test_a_multiple_of_a_whole_number_is_one_where_it_can(written):
    cells = tuned(written, {"lora": TWO["lora"]}, grid={"method.rank": ["x0.5", "x2"]}, tasks=("one",))
    ranks = [trials[0].config["method"]["rank"] for _, trials in next(iter(cells.values()))]
    assert ranks == [2, 8]
    with pytest.raises(TypeError, match=r"rank of method 'lora' must be int, got 1\.2"):
        tuned(written, {"lora": TWO["lora"]}, grid={"method.rank": ["x0.3"]}, tasks=("one",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": {}}, "--grid is missing: say for example --grid 'lr="),
        ({"grid": {"lr": 1e-3}}, "--grid lr: expected a list of values, got 0.001"),
        ({"grid": {"lr": []}}, "--grid lr: expected a list of values"),
        ({"grid": {"lr": ["xs"]}}, "--grid lr: 'xs' is no multiple of the method's own 0.01"),
        ({"grid": {"learning_rate": [1]}}, "--grid: capaboost train has no option 'learning_rate'"),
        ({"grid": {"lr": [1e-3]}, "tune_seeds": ()}, "--tune-seeds is missing"),
        ({"grid": {"test_split": ["val"]}}, "test_split is decided by the study"),
        ({"grid": {"model": ["vit_tiny_patch16_224"]}}, "model is decided by the study: say --backbone"),
        ({"grid": {"method.rnk": [2]}}, r"--grid method.rnk: none of the methods has this option \(did you mean"),
    ],
    ids=str,
)
def test_a_grid_that_makes_no_sense_is_refused(written, options, message):
    with pytest.raises(ValueError, match=message):
        tuned(written, TWO, **options)


# mistakes


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": ()}, ValueError, "--methods is missing: name files such as"),
        ({"methods": ("nowhere.yaml",)}, FileNotFoundError, "no method file at nowhere.yaml"),
        ({"seeds": ()}, ValueError, "--seeds is missing"),
        ({"tasks": ("three",)}, ValueError, "nothing is called 'three'; there are one, two"),
        ({"suite": "vtab"}, ValueError, "no suite 'vtab': say vtab1k, fgvc, synthetic_vtab1k, or a YAML file"),
        ({"backbone": "augreg_in12k"}, ValueError, "neither augreg_in21k nor orig_in21k .* mean augreg_in21k"),
        ({"backbone": "vit_tiny_capaboost_lora"}, ValueError, "nor a plain timm model"),
        ({"initial_checkpoint": "nowhere.pth"}, FileNotFoundError, "no base weights at nowhere.pth"),
        ({"set": {"learning_rate": 1}}, ValueError, "capaboost train has no option 'learning_rate'"),
        ({"set": {"seed": 1}}, ValueError, "seed is decided by the study: take it out"),
        ({"set": {"model": "vit_tiny_patch16_224"}}, ValueError, "model is decided by the study: say --backbone"),
        ({"set": {"initial_checkpoint": "a"}}, ValueError, "by the study: say --initial-checkpoint"),
        ({"set": {"allow_config_change": True}}, ValueError, "allow_config_change is decided by the study: take it"),
        ({"set": {"lr": -1}}, ValueError, "--lr must"),
        ({"set": {"lr": "abc"}}, TypeError, "lr must be float or auto, got 'abc'"),
        ({"set": {"lr": "auto"}}, ValueError, "lr auto is for a run alone: a study takes a number"),
        ({"set": {"amp": "maybe"}}, TypeError, "amp must be bool, got 'maybe'"),
        ({"set": {"epochs": 2.5}}, TypeError, "epochs must be int, got 2.5"),
        ({"set": {"max_steps": "many"}}, TypeError, r"max_steps must be int \| None, got 'many'"),
        (
            {"set": {"select": "first"}},
            TypeError,
            "select must be one of last, best, .*, got 'first'",
        ),
        ({"set": {"scale": [0.5]}}, TypeError, r"scale must be 2 numbers, got \[0.5\]"),
        ({"set": {"method": "lora"}}, TypeError, "method must be values by name, got 'lora'"),
        ({"set": {"method.width": 1}}, TypeError, "method 'lora' has no option 'width'"),
        ({"shots": (0,)}, ValueError, "--shots must be at least 1"),
        ({"workers": -1}, ValueError, "--workers must be at least 0"),
        ({"lease": 0.0}, ValueError, "--lease must be positive"),
        ({"attempts": 0}, ValueError, "--attempts must be at least 1"),
        ({"on": "slurm"}, ValueError, "--on must be machine or ray, got 'slurm'"),
        ({"worker_gpus": 1.0}, ValueError, "are for Ray: add --on ray"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(written, options, error, message):
    with pytest.raises(error, match=message) as caught:
        final(written, **options)
    assert "\n" not in str(caught.value)


DECIDED = {"data", "output", "seed", "shots", "train_split", "val_split", "test_split", "resume", "overwrite"}
DECIDED |= {"allow_config_change"}
NEEDS_VAL = {"select", "patience"}  # a final trial has none
# another value than the default, where half of it, or a word, would be none
VALUES = {"method": {"name": "lora", "rank": 5}, "model": "vit_base_patch16_224", "model_kwargs": {"drop_rate": 0.1}}
VALUES |= {
    "scale": [0.5, 1.0],
    "ratio": [0.9, 1.1],
    "bad_images": "skip",
    "cache": "none",
    "select": "best",
    "log_to": "mlflow",
}
VALUES |= {"amp_dtype": "float16", "compile_mode": "max-autotune", "opt": "lamb", "sched": "step"}
VALUES |= {
    "class_weights": "balanced",
    "task": "classification",
    "sampling": "balanced",
    "value_range": [0.0, 4095.0],
    "img_size": [64, 96],
    "log_to": "mlflow",
}
VALUES |= {"crop_mode": "border", "interpolation": "nearest", "device": "cpu", "aa": "rand-m9"}
NEEDED = {"compile_mode": {"compile": True}}
NEEDED |= {key: {"no_aug": False} for key in ("scale", "ratio", "hflip", "vflip", "color_jitter", "aa")}


@pytest.mark.parametrize("field", fields(TrainConfig), ids=lambda field: field.name)
def test_every_key_of_a_methods_file_is_in_its_trials_or_refused(written, field):
    name, hint, default = field.name, typing.get_type_hints(TrainConfig)[field.name], field.default
    kinds = {hint, *typing.get_args(hint)}
    other = VALUES.get(name, "x")
    if name not in VALUES and str not in kinds:
        other = not default if hint is bool else (default or 1) / 2 if float in kinds else (default or 0) + 1
    elif name == "initial_checkpoint":
        other = written()[name]
    files = {"mine": {"method": {"name": "lora"}, **NEEDED.get(name, {}), name: other}}
    options = {"backbone": None, "initial_checkpoint": None, "set": {}, "tasks": ("one",), "seeds": (0,)}
    if name in DECIDED | NEEDS_VAL:
        with pytest.raises(ValueError, match=f"{name} is decided by the study" if name in DECIDED else f"--{name}"):
            final(written, files, **options)
    else:
        (trial,) = final(written, files, **options)
        assert trial.config[name]["rank"] == 5 if name == "method" else trial.config[name] == other


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "holds no options of capaboost train"),
        ("a: [", "is no YAML"),
        ("lr: 1.0e-3\n", "names no method: add `method: {name: lora}`"),
        ("method: {name: lora}\nlearning_rat: 1\n", "capaboost train has no option 'learning_rat'"),
        ("method: {name: lora}\ndata: digits\n", "data is decided by the study: take it out"),
        ("method: {name: lora}\nshots: 2\n", r"m\.yaml: shots is decided by the study: say --shots"),
        ("method: {name: lorra}\n", "unknown method 'lorra' .did you mean 'lora'"),
    ],
)
def test_a_file_of_a_method_that_is_none_is_refused_by_its_path(tmp_path, content, message):
    path = tmp_path / "m.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_method(path)


def test_a_value_of_the_wrong_type_in_a_file_is_named_with_its_path(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("method: {name: lora}\nlr: fast\n")
    with pytest.raises(TypeError, match=r"m\.yaml: lr must be float or auto, got 'fast'"):
        read_method(path)


def test_numbers_with_an_exponent_are_numbers_as_for_capaboost_train(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("method: {name: lora, alpha: 1e1}\nlr: 1e-3\nmin_lr: 5E-6\nmodel: 1e-3x\n")
    options = read_method(path)
    assert (options["lr"], options["min_lr"], options["method"]["alpha"]) == (1e-3, 5e-6, 10.0)
    assert options["model"] == "1e-3x"


@pytest.mark.parametrize(
    ("name", "message"),
    [("a | b", r"no name of a task or method may hold ' \| '"), ("a\x1b[31m", "holds characters that cannot be shown")],
)
def test_names_that_no_table_can_show_are_refused(written, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        final(written, {name: {"method": {"name": "lora"}}})
    assert "\x1b" not in str(caught.value)


def test_two_methods_of_one_name_or_of_one_content_are_refused(written, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lora.yaml").write_text(yaml.safe_dump({"method": {"name": "lora"}}))
    values = written()
    with pytest.raises(ValueError, match="two methods are called 'lora': rename a file"):
        final_trials(StudyRunConfig(**{**values, "methods": (*values["methods"], str(tmp_path / "other/lora.yaml"))}))
    same = {"a": {"method": {"name": "lora"}}, "b": {"method": {"name": "lora", "rank": 8}}}
    with pytest.raises(ValueError, match="the methods 'a' and 'b' have the same options: leave one out"):
        final(written, same)
