"""Data sets through Hugging Face's `datasets`: quietly, with a cache that can be written to, and clear errors."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def load_from_hub(name: str, config: str | None, *, what: str, instead: str) -> dict[str, Any]:
    """The splits of a set of the hub, or of `datasets`' cache, by the hub's names.

    Args:
        what: is missing where there is no such set, such as "data".
        instead: what to do without it, for messages.

    Raises:
        FileNotFoundError: no such set, or the hub cannot be reached. ValueError: it cannot be read.
    """
    import datasets

    spec = name + (f":{config}" if config else "")
    try:
        with quietly():
            return dict(datasets.load_dataset(name, config, cache_dir=cache_folder()))
    except datasets.exceptions.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"no {what} at {spec!r}, neither a local path nor on the hub: {root_cause(error)}"
        ) from error
    except Exception as error:  # httpx's, huggingface_hub's and datasets' own
        if "scripts are no longer supported" in str(error):
            raise ValueError(
                f"{spec} is made by a loading script, and scripts are not run here: convert it to parquet (on the hub, "
                "its branch refs/convert/parquet may hold that already), download it and give the folder"
            ) from error
        if isinstance(error, ConnectionError):
            raise FileNotFoundError(
                f"no {what} at {spec!r} on this machine, and the hub cannot be reached (offline?): {instead}"
            ) from error
        raise ValueError(f"cannot load {spec} from the hub: {root_cause(error)}; {instead}") from error


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def cache_folder() -> str | None:
    """None for `datasets`' own cache; a folder of this process where that cannot be written to."""
    import datasets

    usual = Path(datasets.config.HF_DATASETS_CACHE)
    with contextlib.suppress(OSError):
        usual.mkdir(parents=True, exist_ok=True)
        if os.access(usual, os.W_OK):
            return None
    if not _FOLDERS:
        _FOLDERS.append(tempfile.TemporaryDirectory(prefix="capaboost_vit_", ignore_cleanup_errors=True))
    return _FOLDERS[0].name


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No progress bars of `datasets` where nobody watches them."""
    import datasets

    if sys.stderr.isatty() or datasets.utils.are_progress_bars_disabled():
        yield
        return
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        datasets.utils.enable_progress_bars()


def root_cause(error: BaseException) -> str:
    """The first line of the error that began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
