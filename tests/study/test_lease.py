"""A trial has one owner at a time, and a dead owner's trial finds another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from capaboost_vit.study import lease as lease_file
from capaboost_vit.study.lease import Leases


@pytest.fixture
def leases(tmp_path):
    """Leases of another worker for each call, in the same folder."""

    def make(seconds=60.0):
        return Leases(tmp_path / "leases", seconds=seconds)

    return make


@pytest.fixture
def elsewhere(monkeypatch):
    """From now on, owners are processes of a machine that nothing is known of."""
    monkeypatch.setattr(lease_file, "_dead_here", lambda content: False)


@pytest.fixture
def clock(monkeypatch):
    """The looker's clock, moved by hand."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(lease_file.time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_trial_has_one_owner(leases):
    assert leases().claim("a") is not None
    assert leases().claim("a") is None
    assert leases().claim("b") is not None


def test_of_many_who_claim_at_once_one_succeeds(leases):
    for trial in map(str, range(20)):
        gate, found = threading.Barrier(8), []

        def claim(trial=trial, gate=gate, found=found):
            mine = leases()
            gate.wait()
            found.append(mine.claim(trial))

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(lease is not None for lease in found) == 1


def test_a_lease_that_was_given_back_is_free_at_once(leases):
    with leases().claim("a"):
        assert leases().claim("a") is None
    second = leases().claim("a")
    assert second.generation == 2
    assert leases().attempts("a") == 1  # only the second is not given back


def test_a_lease_without_a_sign_of_life_is_taken_over_after_its_time(leases, elsewhere, clock):
    leases().claim("a")
    other = leases(seconds=60)
    assert other.claim("a") is None
    clock.now += 59
    assert other.claim("a") is None
    clock.now += 1
    assert other.claim("a").generation == 2


def test_a_beat_makes_the_waiting_start_again(leases, elsewhere, clock):
    owner = leases().claim("a")
    other = leases(seconds=60)
    other.claim("a")
    clock.now += 50
    owner.beat += 1
    owner.path.write_text(owner._text())
    assert other.claim("a") is None
    clock.now += 50
    assert other.claim("a") is None
    clock.now += 10
    assert other.claim("a") is not None


def test_the_clock_of_the_owner_is_never_read(leases, elsewhere, clock):
    owner = leases().claim("a")
    content = json.loads(owner.path.read_text())
    owner.path.write_text(json.dumps({**content, "time": "1970-01-01T00:00:00+0000"}))
    assert leases(seconds=60).claim("a") is None
    owner.path.write_text(json.dumps({**content, "time": "2199-01-01T00:00:00+0000"}))
    other = leases(seconds=60)
    other.claim("a")
    clock.now += 60
    assert other.claim("a") is not None


def test_of_several_who_find_a_lease_stale_one_takes_it_over(leases, elsewhere, clock):
    leases().claim("a")
    others = [leases(seconds=60) for _ in range(5)]
    assert [other.claim("a") for other in others] == [None] * 5
    clock.now += 60
    assert [other.claim("a") is not None for other in others] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("{", "no JSON: Expecting property name"),
        ("[]", "no JSON object"),
        ("folder", "no JSON: Expecting value"),
        ("link", "no JSON: Expecting value"),
        ({"pid": None}, "pid must be int, got None"),
        ({"pid": "../self"}, "pid must be int, got '../self'"),
        ({"born": 5}, "born must be str | None, got 5"),
        ({"host": ["a"]}, "host must be str, got ['a']"),
    ],
    ids=str,
)
def test_a_damaged_lease_is_named_and_taken_over_after_its_time_and_not_before(leases, clock, change, why, capsys):
    path = leases().claim("a").path
    content = json.loads(path.read_text())
    if isinstance(change, dict):
        path.write_text(json.dumps({**content, **change}))
    elif change in ("folder", "link"):
        path.unlink()
        path.mkdir() if change == "folder" else path.symlink_to("nowhere")
    else:
        path.write_text(change)
    other = leases(seconds=60)
    assert other.owner("a") is None
    assert why in other.damage("a")
    assert other.claim("a") is None
    clock.now += 60
    assert other.claim("a").generation == 2
    assert capsys.readouterr().out.startswith(f"taken over: {path} is no lease: {why}")
    assert other.attempts("a") == 1  # garbage is no sign of a worker


_OWNER = """
import sys, time
from pathlib import Path
from capaboost_vit.study.lease import Leases
with Leases(Path(sys.argv[1]), seconds=float(sys.argv[2])).claim("a"):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Starts a process that owns the trial "a"."""
    started = []

    def start(seconds):
        process = subprocess.Popen(
            [sys.executable, "-c", _OWNER, tmp_path / "leases", str(seconds)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "mine\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_trial_of_a_process_that_was_killed_is_free_at_once(owner, leases):
    process = owner(3600)
    mine = leases(seconds=3600)
    assert mine.claim("a") is None
    assert mine.owner("a")["pid"] == process.pid
    process.kill()  # a zombie until its parent waits for it
    until = time.monotonic() + 10
    while (lease := mine.claim("a")) is None and time.monotonic() < until:
        time.sleep(0.02)
    assert lease.generation == 2
    assert mine.attempts("a") == 2


def test_a_process_that_lives_keeps_its_lease_beyond_the_time(owner, leases):
    owner(0.4)
    mine = leases(seconds=0.4)
    for _ in range(10):
        assert mine.claim("a") is None
        time.sleep(0.1)


def test_a_process_that_was_stopped_too_long_ends_when_it_wakes(owner, leases, monkeypatch):
    process = owner(0.4)
    monkeypatch.setattr(lease_file, "_dead_here", lambda content: False)
    os.kill(process.pid, signal.SIGSTOP)
    mine = leases(seconds=0.4)
    until = time.monotonic() + 10
    while (lease := mine.claim("a")) is None and time.monotonic() < until:
        time.sleep(0.05)
    assert lease.generation == 2
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(10) == 75
    assert "was taken over: ending" in process.stdout.read()
    assert len(mine.generations("a")) == 2


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
@pytest.mark.parametrize(
    ("change", "dead"),
    [
        ({}, False),
        ({"pid": 2**22 + 1}, True),
        ({"born": "another-start pid:[1] 123"}, False),
        ({"host": "elsewhere"}, False),
        ({"born": None}, False),
    ],
    ids=str,
)
def test_only_of_processes_of_this_machine_it_is_known_that_they_are_dead(leases, change, dead):
    lease = leases().claim("a")
    content = {**json.loads(lease.path.read_text()), **change}
    assert lease_file._dead_here(content) is dead
