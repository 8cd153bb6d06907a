"""A file is the old one or the new one, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from capaboost_vit.core import atomic
from capaboost_vit.core.atomic import replacing, write_text


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
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("delay", [0.05, 0.35, 0.65, 0.95])
def test_a_kill_between_the_steps_leaves_the_old_file_or_the_new_one(tmp_path, delay):
    path = tmp_path / "file"
    write_text(path, "old")
    code = f"import sys; from capaboost_vit.core.atomic import write_text; print(flush=True); write_text({str(path)!r}, 'new')"
    writer = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "CAPABOOST_SAVE_PAUSE": "0.3"},
    )
    writer.stdout.readline()
    time.sleep(delay)
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    assert path.read_text() == ("old" if delay < 0.6 else "new")
    others = [p for p in tmp_path.iterdir() if p != path]
    assert [p.name.endswith(".partial") for p in others] == [True] * (delay < 0.6)
