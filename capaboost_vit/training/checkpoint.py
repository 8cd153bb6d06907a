"""Checkpoints of a run: sealed files, the last two of them, and the newest that can be read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.names import distinct
from ..io.sealed import read_sealed, write_sealed

FORMAT = "capaboost_vit.checkpoint"
VERSION = 1
_KEPT = 2


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that does not belong to the run."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder: `update-00000120.safetensors` holds the state after 120 updates."""

    folder: Path

    def files(self) -> list[Path]:
        """The checkpoint files, oldest first."""
        return sorted(self.folder.glob("update-*.safetensors"))

    def save(self, update: int, state: dict[str, Any]) -> Path:
        """Writes a tree of dicts, lists, numbers, texts and tensors, then removes all but the last two files.

        Raises:
            OSError: it cannot be written; the older checkpoints are as they were.
        """
        path = self.folder / f"update-{update:08d}.safetensors"
        tensors: dict[str, Tensor] = {}
        header = {"update": update, "state": pack(state, tensors)}
        try:
            write_sealed(path, FORMAT, VERSION, header, tensors)
        except OSError as error:
            kept = self.files()
            raise OSError(
                f"cannot write the checkpoint {path} ({error.strerror or error}); "
                + (f"{kept[-1].name} is intact: " if kept else "")
                + "make room, then add --resume to go on"
            ) from error
        for old in self.files()[:-_KEPT]:
            with suppress(OSError):  # what cannot be removed does not stop a run
                old.unlink()
        return path

    def newest(self, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The state of the newest checkpoint that is whole; None if there is no checkpoint at all.

        Each damaged file is named in a warning, and set aside as `NAME.damaged`.

        Raises:
            CheckpointError: there are checkpoints, but none that can be read.
        """
        problems: list[tuple[Path, Exception]] = []
        for path in reversed(self.files()):
            try:
                state = _read(path)
            except (CheckpointError, OSError) as error:
                problems.append((path, error))
                continue
            for damaged, problem in problems:
                warn(f"warning: {damaged} is left out, going on from {path.name}: {problem}")
                damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
            return state
        if problems:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be read ({problems[0][1]}): "
                "bring one back, or start anew with --overwrite"
            )
        return None


def _read(path: Path) -> dict[str, Any]:
    header, tensors = read_sealed(path, FORMAT, (VERSION,), error=CheckpointError)
    try:
        tree = unpack(header["state"], tensors)
        return {name: dict(tree[name]) for name in ("state", "events", "record", "machine")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no state of a run: {error}") from error


def pack(tree: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """The tree as JSON values, its tensors put into `tensors` under their path; numbers keep every bit.

    Raises:
        TypeError: something that is neither a dict, list, tuple, number, text, None nor tensor.
    """
    if isinstance(tree, Tensor):
        while name in tensors:  # the key 1 beside the key "1"
            name += "'"
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, dict):
        keys = [key if isinstance(key, str | int) else _refuse(key, name) for key in tree]
        return {"dict": [[key, pack(tree[key], tensors, f"{name}/{key}")] for key in keys]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [pack(value, tensors, f"{name}/{i}") for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    return _refuse(tree, name)


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """What `pack` was given."""
    if not isinstance(packed, dict):
        return packed
    ((kind, value),) = packed.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in value}
    items = [unpack(item, tensors) for item in value]
    return items if kind == "list" else tuple(items)


def _refuse(value: Any, name: str) -> Any:
    raise TypeError(f"a checkpoint cannot hold {name or 'this'}: a {type(value).__name__}")


def changing(model: torch.nn.Module) -> dict[str, Tensor]:
    """The live tensors of a model by name, less its frozen weights: what training may change, and the masks.

    Also the buffers that a module names in `training_state`: not persistent, so that no other file has them.
    """
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    state = {name: tensor for name, tensor in distinct(model).items() if name not in frozen}
    for path, module in model.named_modules():
        for name in getattr(module, "training_state", ()):
            state[f"{path}.{name}" if path else name] = getattr(module, name)
    return state
