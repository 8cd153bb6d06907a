"""Atomic writes: after a crash at any instant a file is the old one or the new one, a folder whole or not there."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# seconds between the steps of a write; only tests set it, to hit a process inside of one
_PAUSE = "CAPABOOST_SAVE_PAUSE"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Atomic write: gives a hidden name beside `path` to write to, flushes it to the disk and renames it to `path`.

    A crash at any instant leaves the old file or the new one, and at most a hidden `.NAME.PID.partial`. If the block
    raises, the old file stays and the hidden one is removed. Folders above are made.

    Raises:
        OSError: the file cannot be written, flushed or renamed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _pause()
        _flush(partial)
        _pause()
        os.replace(partial, path)
        _pause()
        _flush(path.parent)  # the rename itself is on the disk only then
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Atomic write of a folder: gives a hidden one beside `path` to fill, flushes it and moves it there.

    Raises:
        FileExistsError: the folder is there already; an empty one is taken.
    """
    if is_taken(path):
        raise FileExistsError(f"{path} exists: choose another, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as beside:
        partial = Path(beside, path.name)
        partial.mkdir()
        yield partial
        for file in partial.rglob("*.safetensors"):
            file.chmod(partial.stat().st_mode & 0o666)  # safetensors writes files that only their owner can read
        for file in (*partial.rglob("*"), partial):
            _flush(file)
        os.replace(partial, path)
        _flush(path.parent)


def is_taken(path: Path) -> bool:
    """Whether something is there that is no empty folder."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def write_text(path: str | Path, text: str) -> None:
    """Atomic write of a text file in UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """fsync of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pause() -> None:
    seconds = os.environ.get(_PAUSE)
    if seconds:
        time.sleep(float(seconds))
