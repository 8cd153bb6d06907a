"""What makes a trial another one, and a manifest that survives crashes and moves."""

from __future__ import annotations

import dataclasses
import json

import pytest

from capaboost_vit.study.manifest import Study, run_config
from capaboost_vit.vision.config import TrainConfig

# trials


def test_an_id_is_a_function_of_what_is_computed(trial_of):
    assert trial_of().id == trial_of().id
    assert len(trial_of().id) == 12
    assert int(trial_of().id, 16) >= 0


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"lr": 2e-3},
        {"train_split": "train800"},
        {"img_size": 64},
        {"fields": {"task": "dogs"}},
        {"fields": {"suite": "theirs"}},
        {"fields": {"stage": "candidate"}},
        {"fields": {"weights": "ab" * 32}},
        {"fields": {"backbone": "orig_in21k"}},
    ],
    ids=str,
)
def test_whatever_changes_the_result_changes_the_id(trial_of, change):
    assert trial_of(**change).id != trial_of().id


@pytest.mark.parametrize(
    "change",
    [
        {"data": "/elsewhere/cats"},
        {"initial_checkpoint": "/elsewhere/model.safetensors"},
        {"workers": 4},
        {"cache": "none"},
        {"checkpoint_interval": 7},
        {"fields": {"method": "my lora"}},
        {"fields": {"notes": ()}},
        {"fields": {"group": "animals"}},
    ],
    ids=str,
)
def test_places_and_names_do_not(trial_of, change):
    assert trial_of(**change).id == trial_of().id


# the manifest


def test_what_was_added_is_read_again_in_order(study, trial_of):
    trials = [trial_of(seed) for seed in (3, 1, 2)]
    kept, new = study.add(trials)
    assert kept == trials
    assert new == 3
    assert list(study.trials().values()) == trials


def test_adding_twice_adds_nothing(study, trial_of):
    study.add([trial_of(0)])
    before = study.manifest.read_bytes()
    kept, new = study.add([trial_of(0)])
    assert (new, kept) == (0, [trial_of(0)])
    assert study.manifest.read_bytes() == before


def test_a_later_seed_is_added_behind(study, trial_of):
    study.add([trial_of(0)])
    assert study.add([trial_of(0), trial_of(1)])[1] == 1
    assert [trial.seed for trial in study.trials().values()] == [0, 1]


def test_a_trial_whose_data_has_moved_keeps_its_id_and_place_in_line(study, trial_of):
    study.add([trial_of(0), trial_of(1)])
    assert study.add([trial_of(0, data="/moved")])[1] == 0
    assert [(trial.seed, trial.config["data"]) for trial in study.trials().values()] == [(0, "/moved"), (1, "")]


def test_a_trial_of_a_release_that_lacked_an_option_keeps_its_id(study, trial_of, aged):
    old = aged(trial_of(), "smoothing", "channels_last")
    assert old.id != trial_of().id
    study.add([old])
    kept, new = study.add([trial_of()])
    assert new == 0
    assert kept[0].id == old.id
    assert list(study.trials()) == [old.id]


def test_an_option_that_lacked_and_is_now_set_makes_another_trial(study, trial_of, aged):
    study.add([aged(trial_of(), "smoothing")])
    assert study.add([trial_of(smoothing=0.1)])[1] == 1


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_torn_line_counts_for_nothing_and_spoils_nothing_behind_it(study, trial_of, cut):
    study.add([trial_of(0), trial_of(1)])
    study.manifest.write_bytes(study.manifest.read_bytes()[: -cut - 1])
    assert list(study.trials().values()) == [trial_of(0)]
    assert study.add([trial_of(0), trial_of(1), trial_of(2)])[1] == 2
    assert [trial.seed for trial in study.trials().values()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{}", "it has no id"),
        ("[1, 2]", "no JSON object"),
        ("null", "no JSON object"),
        ('{"id": "x"}', "it has no suite"),
        ("{", "no JSON: Expecting property name"),
        ("\udcff", "no JSON: 'utf-8' codec can't decode byte 0xff in position 0"),
        ("[" * 10**5, "no JSON: nested too deeply"),
        ({"id": "../../elsewhere"}, "its id '../../elsewhere' is not the hash of what it says"),
        ({"id": "0123456789ab"}, "its id '0123456789ab' is not the hash of what it says"),
        ({"id": 3}, "id must be str, got 3"),
        ({"task": "dogs"}, "is not the hash of what it says"),
        ({"weights": "ab" * 32}, "is not the hash of what it says"),
        ({"seed": 4}, "its seed or shots are not those of its config"),
        ({"notes": "small"}, "notes must be words, got 'small'"),
        ({"config": []}, "config must be values by name, got []"),
        ({"config": {"lr": "\x1b[31m"}}, r"config: lr must be float or auto, got '\x1b[31m'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_lines_that_are_no_trials_are_left_out_aloud(study, trial_of, line, why, capsys):
    study.add([trial_of(0)])
    if isinstance(line, dict):
        values = dataclasses.asdict(trial_of(1))
        config = line.get("config", {})
        line = json.dumps({**values, **line, "config": {**values["config"], **config} if config != [] else []})
    with open(study.manifest, "ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n\n")
    assert list(study.trials().values()) == [trial_of(0)]
    said, count = capsys.readouterr().err.splitlines()
    assert said.startswith(f"warning: {study.manifest}, line 2: ")
    assert why in said
    assert count == f"warning: {study.manifest}, lines left out, as they are no trials: 1"
    study.trials()
    assert capsys.readouterr().err == ""  # once is enough
    assert study.left_out == [said.partition(", ")[2]]


def test_a_folder_without_a_manifest_is_no_study(study):
    with pytest.raises(FileNotFoundError, match=r"no study in .*a study: it has no manifest\.jsonl"):
        study.trials()


_WRITER = """
import dataclasses, json, sys
from capaboost_vit.study.manifest import Study
from capaboost_vit.study.trial import Trial
base, folder, first = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for i in range(first, first + 25):
    trial = Trial(**{**base, "seed": i, "notes": (), "config": {**base["config"], "seed": i}})
    Study(folder).add([dataclasses.replace(trial, id=trial.key()[:12])])
"""


def test_several_processes_can_add_at_once(ready, study, trial_of):
    base = json.dumps(dataclasses.asdict(trial_of()))
    starts = [1000, 2000, 3000]
    processes = [ready.start(["python", "-c", _WRITER, base, study.path, start]) for start in starts]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert {trial.seed for trial in study.trials().values()} == {s + i for s in starts for i in range(25)}


# what has become of a trial


def test_a_trial_is_open_until_it_has_a_result_or_is_given_up(study, trial_of, finish):
    done, failed, waiting = (trial_of(seed) for seed in range(3))
    study.add([done, failed, waiting])
    assert study.open_trials() == [done, failed, waiting]
    result = finish(study, done)
    study.give_up(failed, "ValueError: no", 2)
    assert study.open_trials() == [waiting]
    assert study.result(done) == result
    assert study.result(waiting) is None
    assert study.failure(failed) == {"error": "ValueError: no", "attempts": 2}
    assert study.failure(waiting) is None


def test_a_trial_that_is_forgiven_is_open_again_and_its_attempts_no_longer_count(study, trial_of):
    trial = trial_of()
    study.add([trial])
    study.forgive(trial)  # nothing to forgive
    assert study.forgiven(trial) == 0
    study.give_up(trial, "died", 3)
    study.forgive(trial)
    assert study.open_trials() == [trial]
    assert study.failure(trial) is None
    assert study.forgiven(trial) == 3


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"test_accuracy": None}, "not that of a run: test_accuracy must be float, got None"),
        ({"test_accuracy": 101}, r"test_accuracy must lie in \[0, 100\], got 101"),
        ({"test_accuracy": float("nan")}, r"test_accuracy must lie in \[0, 100\], got nan"),
        ({"train_seconds": "1"}, "train_seconds must be float, got '1'"),
        ({"parameters": {}}, "parameters.trained must be int, got None"),
        ({"method": [{}]}, "not that of a run: 'method'"),
        ({"machine": []}, r"machine must be values by name, got \[\]"),
        ({"config": {"seed": 1}}, "that of another trial: .*seed: 1 -> 0"),
    ],
    ids=str,
)
def test_a_result_that_is_not_that_of_its_trial_does_not_count(study, trial_of, finish, values, why):
    trial = trial_of(lr=0.5)
    study.add([trial])
    finish(
        study, trial, **{**values, **({"config": {**trial.config, **values["config"]}} if "config" in values else {})}
    )
    with pytest.raises(ValueError, match=rf"result\.json is damaged \(.*{why}.*\): a worker runs the trial again"):
        study.result(trial)
    assert study.open_trials() == [trial]
    finish(study, trial)
    assert study.open_trials() == []


def test_a_run_is_configured_as_the_trial_says_and_goes_on_where_it_was(study, trial_of):
    trial = trial_of(3, lr=0.5)
    config = run_config(study, trial)
    assert isinstance(config, TrainConfig)
    assert (config.seed, config.lr, config.resume) == (3, 0.5, True)
    assert config.output == str(Study(study.path).run_folder(trial))
