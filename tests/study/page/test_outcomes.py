"""What becomes of trials: parts that may be compared, rows that differ, results that cannot be used."""

from __future__ import annotations

import json

import pytest
from studies import METHODS, result, trial, write

from capaboost_vit.study.manifest import Study
from capaboost_vit.study.outcomes import described, read_outcomes
from capaboost_vit.study.page.page import write_report


def states(study):
    return {o.trial.id: o.state for o in read_outcomes(study.path).finals}


def test_two_backbones_weights_suites_or_shots_are_never_one_part(tmp_path):
    variants = [
        {},
        {"backbone": "other"},
        {"weights": "a" * 64},
        {"weights": "b" * 64},
        {"suite": "mine"},
        {"shots": 4},
    ]
    study = write(tmp_path, [(trial("lora", "0-4", 0, **options), 50.0) for options in variants])
    titles = [part.title for part in read_outcomes(study.path).parts]
    assert titles == [
        "digits, tiny, weights of the hub",
        "digits, other",
        "digits, tiny, weights aaaaaaaa",
        "digits, tiny, weights bbbbbbbb",
        "mine, tiny",
        "digits, tiny, weights of the hub, 4 shots",
    ]


def test_candidates_enter_no_part(tmp_path):
    study = write(tmp_path, [(trial("lora", "0-4", 0), 50.0), (trial("lora", "0-4", 1, stage="candidate"), 99.0)])
    found = read_outcomes(study.path)
    assert [o.trial.seed for o in found.finals] == [0]
    assert found.states["candidate"]["finished"] == 1


@pytest.mark.parametrize(("masks", "rows"), [((0, 1, 2), ["sign"] * 3), ((0, 0, 5), ["sign", "sign", "sign (2)"])])
def test_masks_that_follow_the_seed_make_no_other_row(tmp_path, masks, rows):
    found = [trial("sign", "0-4", s, method={**METHODS["sign"], "mask_seed": m}) for s, m in enumerate(masks)]
    (part,) = read_outcomes(write(tmp_path, [(one, 50.0) for one in found]).path).parts
    assert [o.row for o in part.outcomes] == rows


def test_trials_of_a_cell_that_differ_in_more_than_the_seed_are_numbered_and_said(tmp_path):
    done = [(trial("lora", "0-4", seed, lr=lr), 50.0) for lr in (1e-3, 2e-3) for seed in (0, 1)]
    done += [(trial("lora", "5-9", 0, lr=7e-3), 50.0)]
    (part,) = read_outcomes(write(tmp_path, done).path).parts
    assert [o.row for o in part.outcomes] == ["lora", "lora", "lora (2)", "lora (2)", "lora"]
    assert part.notes == ("lora (2) differs from lora on 0-4: lr: 0.001 -> 0.002",)


def test_a_trial_that_was_given_up_says_why(tmp_path):
    one = trial("lora", "0-4", 0)
    study = write(tmp_path, [(trial("lora", "0-4", 1), 50.0)], missing=[one])
    study.give_up(one, "RuntimeError: out of memory", 3)
    outcome = next(o for o in read_outcomes(study.path).finals if o.trial.seed == 0)
    assert (outcome.state, outcome.result) == ("failed", None)
    assert outcome.problem == "RuntimeError: out of memory (attempts: 3)"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"test_accuracy": 5', "is damaged"),
        ("[]", "no JSON object"),
        ("{}", "not that of a run"),
        ({"test_accuracy": None}, "test_accuracy must be float, got None"),
        ({"test_accuracy": 101.0}, "test_accuracy must lie in [0, 100], got 101"),
        ({"test_accuracy": float("nan")}, "test_accuracy must lie in [0, 100], got nan"),
        ({"config": {"seed": 7}}, "that of another trial: "),
        ({"method": [{}]}, "not that of a run"),
    ],
    ids=str,
)
def test_a_result_that_cannot_be_used_is_named_and_stops_nothing(tmp_path, content, said):
    one, good = trial("lora", "0-4", 0), trial("lora", "0-4", 1)
    study = write(tmp_path, [(one, 50.0), (good, 60.0)])
    text = content if isinstance(content, str) else json.dumps({**result(one, 50.0), **content})
    (study.run_folder(one) / "result.json").write_text(text)
    found = read_outcomes(study.path)
    outcome = next(o for o in found.finals if o.trial.id == one.id)
    assert (outcome.state, outcome.result) == ("damaged", None)
    assert said in outcome.problem
    assert found.states["final"] == {"finished": 1, "damaged": 1}
    assert states(study)[good.id] == "finished"


def test_lines_of_the_manifest_that_are_left_out_are_counted_in_the_report(tmp_path):
    study = write(tmp_path, [(trial("lora", "0-4", 0), 50.0)])
    with open(study.manifest, "a") as file:
        file.write('{"id": "0123456789ab", "sui')
    assert len(read_outcomes(study.path).finals) == 1
    (path,) = write_report(study.path, formats=["md"])
    assert "Lines of manifest.jsonl left out, as they are no trials: 1 (line 2: no JSON" in path.read_text()


def test_a_study_without_final_trials_says_what_to_type(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no study in .*nowhere: it has no manifest.jsonl"):
        read_outcomes(tmp_path / "nowhere")
    Study(tmp_path).add([trial("lora", "0-4", 0, stage="candidate")])
    with pytest.raises(ValueError, match=r"no final trial yet \(1 candidates\): run capaboost study run"):
        write_report(tmp_path)
    (path,) = write_report(tmp_path, formats=["json"])
    assert [line["stage"] for line in json.loads(path.read_text())["trials"]] == ["candidate"]


def test_choices_that_are_damaged_are_an_error(tmp_path):
    study = write(tmp_path, [(trial("lora", "0-4", 0), 50.0)])
    for text in ("{", '{"a": 3}', '{"a": {"options": {}}}'):
        study.choices.write_text(text)
        with pytest.raises(ValueError, match=r"choices.json is damaged"):
            read_outcomes(tmp_path)


def test_methods_are_described_as_people_call_them(tmp_path):
    done = [(trial("sign", "0-4", 0), 1.0), (trial("sign", "5-9", 0), 1.0)]
    (part,) = read_outcomes(write(tmp_path, done).path).parts
    assert described(part.outcomes) == "capaboost-lora r2 d2 sign"
    assert described([]) == ""
