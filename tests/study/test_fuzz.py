"""Files of a study, damaged and edited at random: what is no trial, lease or result is named, and the rest goes on."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from capaboost_vit.study import work as work_file
from capaboost_vit.study.config import WorkConfig
from capaboost_vit.study.lease import Leases
from capaboost_vit.study.manifest import Study
from capaboost_vit.study.page.page import write_report
from capaboost_vit.study.status import describe, states

ODD = [
    None,
    True,
    -1,
    10**30,
    1e308,
    float("nan"),
    "",
    "../../elsewhere",
    "/etc/passwd",
    "\x1b[31m",
    "a\nb",
    [],
    {},
    [{}],
]
EDITS = 150


def edited(text, rng):
    """The text of a JSON file with one random change, as bytes; None for a folder in its place."""
    kind = rng.choice(["value", "value", "value", "key", "bytes", "cut", "text", "folder"])
    if kind in ("value", "key"):
        lines = text.splitlines()
        number = rng.randrange(len(lines))
        try:
            values = json.loads(lines[number])
            place = values["config"] if "config" in values and rng.random() < 0.5 else values
            name = rng.choice(sorted(place))
        except (ValueError, TypeError, KeyError, IndexError):
            return text.encode()
        if kind == "key":
            del place[name]
        else:
            place[name] = rng.choice(ODD)
        lines[number] = json.dumps(values)
        return "\n".join(lines).encode() + b"\n"
    data = bytearray(text.encode())
    place = rng.randrange(len(data))
    if kind == "bytes":
        data[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    elif kind == "cut":
        del data[place:]
    elif kind == "text":
        data = bytearray(rng.choice([b"", b"\xff", b"null\n", b"[]\n", b"{}\n", b"[" * 10**5, b'{"a":' * 10**4]))
    return None if kind == "folder" else bytes(data)


@pytest.fixture
def damaged(tmp_path, trial_of, finish, monkeypatch):
    """Studies of five trials (finished, given up, begun again, in other hands, open) with one random edit each."""
    monkeypatch.setattr("capaboost_vit.study.lease._dead_here", lambda content: False)
    clean = Study(tmp_path / "clean")
    trials = [trial_of(seed) for seed in range(5)]
    clean.add(trials)
    finish(clean, trials[0], 75.0)
    for trial in trials[1:3]:
        clean.give_up(trial, "ValueError: no", 1)
    clean.forgive(trials[2])
    assert Leases(clean.leases, seconds=60).claim(trials[3].id)
    files = [path.relative_to(clean.path) for path in sorted(clean.path.rglob("*.json*"))]
    assert len(files) == 5
    texts = {path: (clean.path / path).read_text() for path in files}

    def make(seed):
        rng = random.Random(seed)
        folder = tmp_path / "outside" / "study"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(clean.path, folder)
        path = rng.choice(files)
        content = edited(texts[path], rng)
        (folder / path).unlink()
        if content is None and path.name != "manifest.jsonl":
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content or b"")
        return Study(folder), path

    return make


def test_no_edit_of_a_studys_files_stops_it_or_leaves_its_folder(damaged, finish, monkeypatch, capsys):
    clock = [0.0]

    def wait(seconds):
        clock[0] += 61  # as if whoever holds a lease were dead

    def train(config):
        trial = study.trials()[config.output.rpartition("/")[2]]
        finish(study, trial)

    monkeypatch.setattr("capaboost_vit.study.lease.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("capaboost_vit.io.atomic._flush", lambda path: None)
    monkeypatch.setattr(work_file.time, "sleep", wait)
    monkeypatch.setattr(work_file, "_tidy_up", lambda: None)
    monkeypatch.setattr(work_file, "train", train)
    for seed in range(EDITS):
        study, path = damaged(seed)
        assert all(line.isprintable() for line in describe(study)), seed
        lines = [line for line in study.manifest.read_bytes().splitlines() if line.strip()]
        assert len(study.trials()) + len(study.left_out) == len(lines), seed
        work_file.work(study, WorkConfig(lease=60))
        assert {state for _, state in states(study)} <= {"finished", "failed"}, (seed, path)
        if study.trials() and seed % 20 == 0:
            write_report(study.path, formats=["md", "csv", "json"])
        assert [entry.name for entry in study.path.parent.iterdir()] == ["study"], seed
        known = {"manifest.jsonl", "trials", "leases", "report.md", "report.json", "report.csv", "report_runs.csv"}
        assert {entry.name for entry in study.path.iterdir()} <= known, seed
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
