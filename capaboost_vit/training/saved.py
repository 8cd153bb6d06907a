"""Where a finished run, an adapter file or a folder in timm's hub format lies."""

from __future__ import annotations

from pathlib import Path


def find_saved(path: Path) -> Path:
    """The adapter file or the timm folder that a path means, `local-dir:` before it or not.

    Raises:
        FileNotFoundError: there is neither.
    """
    path = Path(str(path).removeprefix("local-dir:"))
    adapter = path / "adapter.safetensors"
    if path.is_file() or (not adapter.is_file() and (path / "config.json").is_file()):
        return path
    if adapter.is_file():
        return adapter
    if path.is_dir():
        raise FileNotFoundError(f"no adapter file at {adapter}, and no config.json that timm could load a model by")
    raise FileNotFoundError(f"no adapter file at {path}, and no folder of a run or a timm model")
