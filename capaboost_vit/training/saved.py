"""From a path to what lies there: a run folder or an adapter file, which is read once, or a folder in timm's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.hub import fetch_model, is_on_hub
from ..io.yaml import read_yaml
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

    `hf-hub:owner/name` is the adapter file of that repository, or the timm model where it has none.

    Raises:
        FileNotFoundError: there is neither an adapter file nor a timm folder.
        AdapterFileError: the file is damaged. ValueError: the config.yaml beside it is; a folder of transformers.
    """
    if isinstance(path, ModelSource):
        return path
    if is_on_hub(path):  # paths in a config.yaml of there mean nothing here
        try:
            adapter = read_adapter_file(path)
        except FileNotFoundError as error:
            try:
                folder = fetch_model(str(path))
            except FileNotFoundError:
                raise error from None
            return open_source(folder)
        return ModelSource(adapter.path, adapter, {})
    named = Path(str(path).removeprefix("local-dir:"))
    file = named if named.is_file() else named / "adapter.safetensors"
    if file.is_file():
        return ModelSource(file, read_adapter_file(file), _run_config(file.with_name("config.yaml")))
    if (config := named / "config.json").is_file():
        if b'"model_type"' in config.read_bytes():
            raise ValueError(
                f"{named} holds a model of transformers, not of timm: name the run or adapter file it was made from"
            )
        return ModelSource(named, None, {})
    if named.is_dir():
        raise FileNotFoundError(f"no adapter file at {file}, and no config.json that timm could load a model by")
    raise FileNotFoundError(f"no adapter file at {named}, and no folder of a run or a timm model")


def _run_config(file: Path) -> dict[str, Any]:
    values = read_yaml(file) if file.is_file() else {}
    # any program may have a config.yaml: ours names these
    return values if isinstance(values, dict) and values.keys() >= {"data", "model", "method", "pretrained"} else {}
