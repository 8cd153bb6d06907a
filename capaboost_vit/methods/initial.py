"""Initial values of trained tensors from an adapter file, for a new task."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..core.record import adapted_part
from ..core.sharded import fill
from ..io.options import flag
from .adapter_file import AdapterFile, effect, read_adapter_file, split_state
from .header import AdapterFileError, origin
from .index import make_method

_KEYS = {"init_seed", "projection_prng_key"}  # where they count, of frozen numbers that are in no file


def start_from(model: nn.Module, file: str | Path | AdapterFile) -> int:
    """Copies the tensors of an adapter file, without head and those its method does not inherit; returns their number.

    Args:
        model: adapted by the same method; its head may differ.

    Raises:
        AdapterFileError: another method, another seed of frozen values that the file does not hold, or tensors that the
            model does not have, or has in another shape.
        FileNotFoundError: no such file.
    """
    file = read_adapter_file(file)
    records = adapted_part(model)[1].capaboost["methods"]  # type: ignore[index]
    names, ours = ([record["method"] for record in methods] for methods in (file.header["methods"], records))
    if names != ours:
        raise AdapterFileError(
            f"{file.path} was made by {' + '.join(names)}, and this run is of {' + '.join(ours)}: start from a file of "
            "the same method"
        )
    for of_file, of_run in zip(map(effect, file.header["methods"]), map(effect, records), strict=True):
        for key in _KEYS & of_run.keys():
            if of_file[key] != of_run[key]:
                raise AdapterFileError(
                    f"{file.path} was made with {key} {of_file[key]}, of which {of_run['method']} makes numbers that "
                    f"no file holds, and this run has {of_run[key]}: say {flag(f'method.{key}')} {of_file[key]}"
                )
    methods = [make_method(**record) for record in records]
    head = tuple(f"{name}." for name in file.header["head"])
    live, _ = split_state(model, tuple(file.header["head"]))
    taken = {
        name: tensor
        for name, tensor in file.tensors.items()
        if not name.startswith(head) and all(method.inherits(name) for method in methods)
    }
    for name, tensor in taken.items():
        if name not in live or live[name].shape != tensor.shape:
            has = f"{tuple(live[name].shape)}" if name in live else "none"
            raise AdapterFileError(
                f"{file.path} is no start of this {type(model).__name__}: {name} is {tuple(tensor.shape)} in the file, "
                f"and here {has}; {origin(file.header)}"
            )
    with torch.no_grad():
        for name, tensor in taken.items():
            fill(live[name], tensor)
    return len(taken)
