"""Sealed files: one .safetensors with a JSON header inside and a SHA-256 over both; nothing is ever executed.

safetensors itself does not notice a flipped byte.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .atomic import replacing

_MAX_HEADER = 16 * 1024 * 1024  # bytes of a plausible safetensors header


def write_sealed(
    path: str | Path, form: str, version: int, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Atomic write of header (JSON values) and tensors; the same content gives the same bytes."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"format": form, "format_version": version, **header}
    with replacing(path) as partial:
        partial.write_bytes(save(stored, metadata={form: _seal(header, stored)}))


def read_sealed(
    path: str | Path, form: str, versions: tuple[int, ...], *, error: type[ValueError]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file of this format.

    Raises:
        FileNotFoundError: no such file.
        error: it is no safetensors file (a pickle, say), truncated or changed, of another format or version.
    """
    path = Path(path)
    what = form.rpartition(".")[2]
    if not path.is_file():
        raise FileNotFoundError(f"no {what} file at {path}")
    metadata, tensors = read_safetensors(path, error=error)
    if form not in metadata:
        article = "an" if what[0] in "aeiou" else "a"
        raise error(f"{path} is a safetensors file, but not {article} {what} file of capaboost_vit")
    try:
        header = json.loads(metadata[form])
        header.pop("sha256")
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as problem:
        raise error(f"{path} is damaged: its header is no JSON object with a SHA-256") from problem
    if metadata[form] != _seal(header, tensors):
        raise error(f"{path} is damaged: its content does not have the SHA-256 that was stored with it")
    shown = " or ".join(map(str, versions))
    if (stored := header.get("format_version")) not in versions:
        raise error(
            f"{path} has format version {repr(stored)[:20]}, this release reads version {shown}: upgrade capaboost_vit"
        )
    return header, tensors


def read_safetensors(path: Path, *, error: type[ValueError]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, whoever wrote it. Raises `error` if it is none, or truncated."""
    _check_container(path, error)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as problem:
        raise error(f"{path} is damaged: {problem}") from problem


def digest(tensors: Mapping[str, Tensor], text: str = "", *, read: Callable[[Tensor], Tensor] | None = None) -> str:
    """SHA-256 over a text and names, dtypes, shapes and values of tensors, in the order of the names.

    Args:
        read: what gives the plain values of a tensor, of one after the other.
    """
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        tensor = (tensor if read is None else read(tensor)).cpu().contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _seal(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The header as JSON, with the SHA-256 of itself and the tensors."""
    sha = digest(tensors, json.dumps(header, sort_keys=True))
    return json.dumps({**header, "sha256": sha}, sort_keys=True)


def _check_container(path: Path, error: type[ValueError]) -> None:
    """Refuses what is no complete safetensors file, before any parser sees it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if 0 < length <= min(_MAX_HEADER, size - 8):
        return  # a header's length may well begin with the byte of a pickle
    if start[:2] == b"PK" or start[:1] == b"\x80":
        raise error(f"{path} is a pickle (torch.save), which can run code: only .safetensors files are read")
    raise error(f"{path} is truncated or no safetensors file ({size} bytes)")
