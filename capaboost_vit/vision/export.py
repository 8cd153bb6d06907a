"""A finished run as a plain timm model."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from safetensors.torch import save
from timm.models import save_for_hf

from ..core.merge import merge
from ..io.atomic import replacing
from ..training.saved import ModelSource, open_source
from .saved import Saved, open_saved

_OTHER_FILES = (".bin", ".ckpt", ".pt", ".pth")  # who types one of these does not mean a folder


def merge_adapter(adapter: str | Path | ModelSource, output: Path, *, initial_checkpoint: str | None = None) -> Path:
    """Writes the merged model, which needs no capaboost_vit; returns the path. It is there whole or not at all.

    Args:
        output: a name that ends in .safetensors gets the plain state dict; any other becomes a folder in timm's hub
            format (weights, arguments, class names and input configuration) for `timm.create_model("local-dir:...",
            pretrained=True)`.

    Raises:
        FileExistsError: the output is there already; an empty folder is taken.
        ValueError: the method cannot be merged (all but LoRA), or `output` has the suffix of another kind of file.
    """
    as_file = output.suffix == ".safetensors"
    if output.suffix in _OTHER_FILES:
        raise ValueError(f"--output {output}: name a .safetensors file, or a folder to be made in timm's hub format")
    if output.exists() and (as_file or not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists: choose another --output")
    source = open_source(adapter)
    if source.adapter is None:
        raise ValueError(f"{source.path} is a timm model already: nothing to merge")
    saved = open_saved(source, initial_checkpoint=initial_checkpoint)
    merged = merge(saved.model, inplace=True)
    if not as_file:
        return _write_folder(saved, output)
    with replacing(output) as partial:
        partial.write_bytes(save({name: tensor.contiguous() for name, tensor in merged.state_dict().items()}))
    return output


def _write_folder(saved: Saved, output: Path) -> Path:
    """Fills a folder inside a temporary one beside the output, then moves it there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    labels = {"label_names": list(saved.classes)}
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as beside:
        whole = Path(beside, output.name)
        save_for_hf(saved.model, str(whole), labels, safe_serialization=True, data_config=dict(saved.input))
        readers = (whole / "config.json").stat().st_mode
        (whole / "model.safetensors").chmod(readers)  # safetensors writes files that only their owner can read
        for path in (*whole.iterdir(), whole):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        os.replace(whole, output)
    return output
