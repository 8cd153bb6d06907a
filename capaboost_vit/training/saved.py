"""From a path to what lies there: a run folder or an adapter file, which is read once, or a folder in timm's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..methods.adapter_file import AdapterFile, read_adapter_file


@dataclass(frozen=True)
class ModelSource:
    """What a trained model is built from.

    Args:
        path: the adapter file, or the folder that timm loads.
        adapter: the file as it was read; None for a folder that timm loads.
        config: the options of the run that left the file; empty where no run's config.yaml lies beside it.
    """

    path: Path
    adapter: AdapterFile | None
    config: dict[str, Any]

    @property
    def is_text(self) -> bool:
        """Whether it was trained on texts."""
        return self.adapter is not None and "text" in self.adapter.header


def open_source(path: str | Path | ModelSource) -> ModelSource:
    """Finds and reads what a path means, `local-dir:` before it or not; what was opened already is given back.

    Raises:
        FileNotFoundError: there is neither an adapter file nor a timm folder.
        AdapterFileError: the file is damaged. ValueError: the config.yaml beside it is.
    """
    if isinstance(path, ModelSource):
        return path
    found = _find(Path(str(path).removeprefix("local-dir:")))
    if found.is_dir():
        return ModelSource(found, None, {})
    return ModelSource(found, read_adapter_file(found), _run_config(found.parent / "config.yaml"))


def _find(path: Path) -> Path:
    adapter = path / "adapter.safetensors"
    if path.is_file() or (not adapter.is_file() and (path / "config.json").is_file()):
        return path
    if adapter.is_file():
        return adapter
    if path.is_dir():
        raise FileNotFoundError(f"no adapter file at {adapter}, and no config.json that timm could load a model by")
    raise FileNotFoundError(f"no adapter file at {path}, and no folder of a run or a timm model")


def _run_config(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text("utf-8")) if file.is_file() else {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    # any program may have a config.yaml: ours names these
    return values if isinstance(values, dict) and values.keys() >= {"data", "model", "method", "pretrained"} else {}
