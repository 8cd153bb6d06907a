"""What a report holds is not run again, and only that."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from capaboost_vit.cli import main
from capaboost_vit.study.manifest import Study
from capaboost_vit.study.page.page import write_report
from capaboost_vit.study.report_json import reuse_results
from capaboost_vit.study.trial import key_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "study"


@pytest.fixture
def published(tmp_path, trial_of, finish):
    """The report of a study with a candidate, two final trials, and one that was not finished."""
    study = Study(tmp_path / "theirs")
    candidate = trial_of(0, fields={"stage": "candidate"})
    done = [candidate, *(trial_of(seed, data="/where/they/were", lr=0.5) for seed in (0, 1))]
    study.add([*done, trial_of(2, lr=0.5)])
    for i, trial in enumerate(done):
        finish(study, trial, 60.0 + i)
    write_report(study.path, formats=["json"])
    return study.path / "report.json"


def test_what_a_report_holds_counts_as_finished_here(study, trial_of, published):
    wanted = [trial_of(0, fields={"stage": "candidate"}), *(trial_of(seed, lr=0.5) for seed in (0, 1, 2))]
    kept, _ = study.add(wanted)
    assert reuse_results(study, kept, [published]) == {str(published): 3}
    assert study.open_trials() == [wanted[3]]
    assert [study.result(trial)["test_accuracy"] for trial in kept[:3]] == [60.0, 61.0, 62.0]
    assert study.result(kept[1])["taken_from"] == "report.json"


def test_a_report_of_what_was_taken_has_the_same_lines(study, trial_of, published):
    kept, _ = study.add(
        [
            trial_of(0, fields={"stage": "candidate"}),
            *(trial_of(seed, data="/where/they/were", lr=0.5) for seed in (0, 1, 2)),
        ]
    )
    reuse_results(study, kept, [published])
    write_report(study.path, formats=["json", "html", "md"])
    ours, theirs = (json.loads(path.read_text()) for path in (study.path / "report.json", published))
    assert ours == theirs
    for name in ("report.html", "report.md"):
        assert "2 were taken from report.json: they have no curves" in (study.path / name).read_text()


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 0.25},
        {"lr": 0.5, "epochs": 3},
        {"lr": 0.5, "fields": {"task": "dogs"}},
        {"lr": 0.5, "fields": {"weights": "00" * 32}},
        {"lr": 0.5, "fields": {"stage": "candidate"}},
        {"lr": 0.5, "fields": {"backbone": "another"}},
        {"lr": 0.5, "shots": 4},
    ],
    ids=str,
)
def test_a_trial_with_other_options_is_run(study, trial_of, published, other):
    kept, _ = study.add([trial_of(0, **other)])
    assert reuse_results(study, kept, [published]) == {str(published): 0}
    assert study.open_trials() == kept


def test_names_and_places_do_not_make_another_trial(study, trial_of, published):
    kept, _ = study.add([trial_of(0, data="elsewhere", lr=0.5, fields={"method": "mine", "notes": ()})])
    assert reuse_results(study, kept, [published]) == {str(published): 1}


def test_a_report_of_an_older_release_lacked_options_which_are_at_their_defaults(study, trial_of, aged, published):
    kept, _ = study.add([aged(trial_of(1, lr=0.5), "clip_grad")])
    assert reuse_results(study, kept, [published]) == {str(published): 1}


def test_what_was_begun_or_given_up_here_is_left_alone(study, trial_of, published):
    kept, _ = study.add([trial_of(seed, lr=0.5) for seed in (0, 1)])
    study.run_folder(kept[0]).mkdir(parents=True)
    study.give_up(kept[1], "ValueError: no", 1)
    assert reuse_results(study, kept, [published]) == {str(published): 0}
    assert not any(map(study.finished, kept))


def test_the_first_report_that_knows_a_trial_counts(study, trial_of, published, tmp_path):
    other = json.loads(published.read_text())
    for line in other["trials"]:
        line["test_accuracy"] = 10.0
    (tmp_path / "other.json").write_text(json.dumps(other))
    kept, _ = study.add([trial_of(0, lr=0.5)])
    counts = reuse_results(study, kept, [published, tmp_path / "other.json"])
    assert list(counts.values()) == [1, 0]
    assert study.result(kept[0])["test_accuracy"] == 61.0


@pytest.mark.parametrize("text", ["", "[]", '{"trials": [1]}', '{"trials": [{"state": "finished"}]}', "\x00\xff"])
def test_a_file_that_is_no_report_is_named(study, trial_of, tmp_path, text):
    (tmp_path / "torn.json").write_text(text)
    kept, _ = study.add([trial_of(0)])
    with pytest.raises(ValueError, match=r"--known .*torn.json: this is no report.json of capaboost study report"):
        reuse_results(study, kept, [tmp_path / "torn.json"])


def test_an_accuracy_that_cannot_be_is_shown_as_damage(study, trial_of, published):
    wrong = json.loads(published.read_text())
    for line in wrong["trials"]:
        line["test_accuracy"] = 101
    published.write_text(json.dumps(wrong))
    kept, _ = study.add([trial_of(0, lr=0.5)])
    reuse_results(study, kept, [published])
    write_report(study.path, formats=["md"])
    assert "1 damaged" in (study.path / "report.md").read_text()


def test_the_command_says_how_many_it_took_and_runs_none_of_them(written, finish, tmp_path, capsys):
    values = {**written(), "methods": [str(tmp_path / "lora.yaml")], "output": str(tmp_path / "theirs")}
    (tmp_path / "study.yaml").write_text(json.dumps(values))
    words = ["study", "run", "--config", str(tmp_path / "study.yaml"), "--workers", "0", "--seeds", "0"]
    assert main(words) == 0
    theirs = Study(tmp_path / "theirs")
    for trial in theirs.trials().values():
        finish(theirs, trial)
    report = write_report(theirs.path, formats=["json"])[0]
    capsys.readouterr()
    assert main([*words, "--output", str(tmp_path / "ours"), "--known", str(report)]) == 0
    said = capsys.readouterr().out
    assert f"2 results taken from {report}" in said
    assert "2 of 2 trials are finished" in said
    assert main([*words, "--output", str(tmp_path / "more"), "--known", "nowhere.json"]) == 2
    assert "--known nowhere.json: there is no such file" in capsys.readouterr().err


def test_identity_of_a_line_and_of_its_trial_are_the_same_for_every_kind_of_option(study, trial_of, finish, tmp_path):
    method = {"name": "adapter", "pattern": "sign", "learned_scale": "scalar", "mask_seed": 3}
    plain = trial_of(5, drop_path=0.25, img_size=64, select="best")
    trial = dataclasses.replace(plain, config={**plain.config, "method": method})
    trial = dataclasses.replace(trial, id=trial.key()[:12])
    first = Study(tmp_path / "first")
    first.add([trial])
    finish(first, trial, 1.0)
    report = write_report(first.path, formats=["json"])[0]
    kept, _ = study.add([trial])
    assert reuse_results(study, kept, [report]) == {str(report): 1}


@pytest.mark.parametrize("report", ["results.json", "rates.json", "remedies.json"])
def test_the_published_trials_keep_their_ids(report):
    """Golden: an id is the hash of all options, those of today's defaults too; so old reports and manifests go on."""
    lines = json.loads((DOCS / report).read_text())["trials"]
    assert len(lines) >= 40
    for line in lines:
        options = {**line["options"], "seed": line["seed"], "shots": line["shots"]}
        assert key_of(options, line)[:12] == line["id"]
