"""A file is the old one or the new one, whatever happens in between."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from capaboost_vit.io import atomic
from capaboost_vit.io.atomic import replacing, write_text


def test_a_text_is_written_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "new folder" / "ü.txt"
    for text in ("first ж", "second"):
        write_text(path, text)
        assert path.read_text("utf-8") == text
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_removes_the_new_one(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_writer_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text(str(1 // 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, sys
from capaboost_vit.io import atomic

def pause(left=[int(sys.argv[2])]):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), 9)

atomic._pause = pause
atomic.write_text(sys.argv[1], "new")
"""


@pytest.mark.parametrize(("instant", "content"), [(1, "old"), (2, "old"), (3, "new")])
def test_a_kill_between_the_steps_leaves_the_old_file_or_the_new_one(tmp_path, instant, content):
    path = tmp_path / "file"
    write_text(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(instant)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == content
    others = [p.name for p in tmp_path.iterdir() if p != path]
    assert [name.endswith(".partial") for name in others] == [True] * (content == "old")


def test_tests_can_widen_the_window_between_the_steps(tmp_path, monkeypatch):
    naps = []
    monkeypatch.setattr(atomic.time, "sleep", naps.append)
    write_text(tmp_path / "file", "quick")
    assert naps == []
    monkeypatch.setenv("CAPABOOST_SAVE_PAUSE", "0.25")
    write_text(tmp_path / "file", "slow")
    assert naps == [0.25] * 3
