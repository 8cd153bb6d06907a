"""Adapter files: one .safetensors with added parameters, packed masks, head and a JSON header; no code is executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..core.base import gathered
from ..core.chain import fingerprint
from ..core.names import distinct, namer, slots
from ..core.record import adapted_part
from ..core.sharded import fill, writes
from ..core.tied import TiedMaskedWeight
from ..core.wrapper import Wrapper
from ..io.hub import fetch_adapter, is_on_hub
from ..io.sealed import read_sealed, write_sealed
from . import mask_bits
from .header import AdapterFileError, check_header, completed, explained, origin
from .index import find_method

FORMAT = "capaboost_vit.adapter"
VERSION = 2  # in which a plane of ones is left out of masks; without one a file is of version 1, as before
_DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


@dataclass(frozen=True)
class AdapterFile:
    """An adapter file as read: opened, hashed and checked once, then passed on.

    Args:
        tensors: by canonical name; masks are unpacked to int8.
    """

    path: Path
    header: dict[str, Any]
    tensors: dict[str, Tensor]

    def trains_all(self) -> bool:
        """Whether the file holds every weight, so that no base weights are needed."""
        return any(find_method(record["method"]).trains_all for record in self.header["methods"])


def write_adapter_file(
    path: str | Path, model: nn.Module, header: Mapping[str, Any], *, head: tuple[str, ...] = ()
) -> Path:
    """Writes what is added, the head and everything else that is trained, by canonical names (those of the base model).

    Masks are stored as packed bits; on loading they take precedence over the seeds. The write is atomic: after a crash
    there is the old file or the new one. For a sharded model all processes have to call this; the first one writes.

    Args:
        header: JSON values for the header; `base` should hold the base's architecture and tag.
        head: canonical names of the classifier's modules, stored whether they are trained or not.

    Raises ValueError as `adapted_part` does.
    """
    inside, part = adapted_part(model)
    record: dict[str, Any] = part.capaboost  # type: ignore[assignment]
    present = {name for name, module in slots(part) if next(module.parameters(), None) is not None}
    trained_head = [f"{inside}.{name}" if inside else name for name in record.get("head", ()) if name in present]
    head = (*head, *trained_head)
    tensors, base_tensors = split_state(model, head)
    canonical = namer(model)
    mask_names = {
        canonical(f"{name}.mask")
        for name, module in model.named_modules()
        if isinstance(module, TiedMaskedWeight) and module.mask is not None
    }
    header = {
        **header,
        "base": {**header.get("base", {}), "fingerprint": fingerprint(base_tensors)},
        "inside": inside,
        "methods": record["methods"],
        "head": sorted(set(head)),
        "trained_head": trained_head,
    }
    tensors = {name: gathered(tensor) for name, tensor in tensors.items()}
    return write_content(path, header, tensors, masks=mask_names) if writes(model) else Path(path)


def write_content(
    path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor], *, masks: Collection[str]
) -> Path:
    """Writes a header and tensors; those named in `masks` become packed bits."""
    header = {**header, "masks": {name: mask_bits.entry(tensors[name]) for name in sorted(masks)}}
    stored = {name: mask_bits.packed(tensor) if name in masks else tensor for name, tensor in tensors.items()}
    version = VERSION if any("first_is_ones" in entry for entry in header["masks"].values()) else 1
    write_sealed(path, FORMAT, version, header, stored)
    return Path(path)


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of an adapter file, checked against its digest. Raises AdapterFileError, FileNotFoundError.

    Examples:
        >>> header = capaboost_vit.read_header("birds.safetensors")
        >>> [method["method"] for method in header["methods"]]
        ['lora']
    """
    return read_adapter_file(path).header


def read_adapter_file(path: str | Path | AdapterFile) -> AdapterFile:
    """Reads a file and makes all checks that need no model; an `AdapterFile` is returned as it is.

    Raises:
        FileNotFoundError: the file does not exist; for `hf-hub:owner/name`, see `fetch_adapter`.
        AdapterFileError: no safetensors file (a pickle, say), a truncated or changed one, another format, an unknown
            version, or values that are not finite.
    """
    if isinstance(path, AdapterFile):
        return path
    if is_on_hub(path):
        path = fetch_adapter(path)
    header, tensors = read_sealed(path, FORMAT, (1, VERSION), error=AdapterFileError)
    with explained(path):
        header = completed(header)
        check_header(header)
        for name, tensor in tensors.items():
            if tensor.dtype not in _DTYPES:
                raise AdapterFileError(f"{path} holds {name!r} in {str(tensor.dtype).removeprefix('torch.')}")
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise AdapterFileError(f"{path} holds values that are not finite in {name!r}")
        for name, mask in header["masks"].items():
            unpacked = mask_bits.unpacked(tensors.get(name), mask)
            if unpacked is None:
                raise AdapterFileError(f"{path} lacks the mask {name!r} that its header names")
            tensors[name] = unpacked
    return AdapterFile(Path(path), header, tensors)


def load_adapter_file(
    model: nn.Module, file: str | Path | AdapterFile, *, head: tuple[str, ...] = (), force: bool = False
) -> None:
    """Loads a file into a model with the same added modules; nothing is changed unless everything fits.

    Args:
        head: canonical names of the model's classifier modules.
        force: skip the check that the base weights are those that the adapter was trained with.

    Raises:
        AdapterFileError: what `read_adapter_file` refuses; missing or unknown tensors; another shape (num_classes,
            architecture, rank), other options, or other base weights (fingerprint).
    """
    file = read_adapter_file(file)
    ours, base_tensors = check_tensors(model, file, head=head)
    if not force and file.header["base"]["fingerprint"] != fingerprint(base_tensors):
        raise AdapterFileError(
            f"{file.path} was trained on other base weights than this {type(model).__name__} has (fingerprints "
            f"differ); {origin(file.header)}; load those weights, or pass force=True if you know that they are equal "
            "in effect"
        )
    with torch.no_grad():
        for name, tensor in file.tensors.items():
            fill(ours[name], tensor)


def check_tensors(
    model: nn.Module, file: AdapterFile, *, head: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compares names, shapes and kinds of a file's tensors, and the methods' options, with those of an adapted model.

    Returns (the model's tensors for those of the file, those of the base), by canonical names.

    Raises:
        AdapterFileError: they differ.
    """
    path, header, stored = file.path, file.header, file.tensors
    ours, base_tensors = split_state(model, head, extra=frozenset(stored))
    differences = {"missing": sorted(ours.keys() - stored.keys()), "unknown": sorted(stored.keys() - ours.keys())}
    misfits = [f"{len(names)} tensors {what} ({names[0]}, ...)" for what, names in differences.items() if names]
    if misfits:
        raise AdapterFileError(
            f"{path} does not fit this {type(model).__name__}: {'; '.join(misfits)}; {origin(header)}"
        )
    for name, tensor in stored.items():
        if tensor.is_floating_point() != ours[name].is_floating_point():
            dtypes = (str(t.dtype).removeprefix("torch.") for t in (tensor, ours[name]))
            raise AdapterFileError(f"{path} does not fit: {name} is {' in the file and '.join(dtypes)} in the model")
        if tensor.shape != ours[name].shape:
            in_head = name.startswith(tuple(f"{h}." for h in head))
            what = "num_classes differs" if in_head else "another architecture or options"
            raise AdapterFileError(
                f"{path} does not fit this {type(model).__name__}: {name} is {tuple(tensor.shape)} in the file and "
                f"{tuple(ours[name].shape)} in the model ({what}); {origin(header)}"
            )
    in_file, in_model = ([effect(m) for m in methods] for methods in (header["methods"], _methods(model)))
    if in_file != in_model:
        raise AdapterFileError(
            f"{path} was made with other options than this {type(model).__name__} has: {in_file} in the file, "
            f"{in_model} in the model"
        )
    return ours, base_tensors


def _methods(model: nn.Module) -> list[dict[str, Any]]:
    methods: list[dict[str, Any]] = adapted_part(model)[1].capaboost["methods"]  # type: ignore[index, assignment]
    return methods


def effect(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide what a model computes and that no tensor of the file shows, such as alpha.

    Options that a record of an earlier release lacks have their defaults.
    """
    method = find_method(record["method"])
    skipped = {field.name for field in dataclasses.fields(method) if not field.metadata["compared"]}
    return {name: value for name, value in {**method().options(), **record}.items() if name not in skipped}


def split_state(
    model: nn.Module, head: tuple[str, ...], extra: frozenset[str] = frozenset()
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors of the adapter file, tensors of the base), by canonical names; the tensors are those of the model."""
    canonical = namer(model)
    state = {canonical(name): tensor for name, tensor in distinct(model).items()}
    trained = {canonical(name) for name, p in model.named_parameters() if p.requires_grad}
    moving = [
        canonical(name)
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and any(p.requires_grad for p in module.parameters())
    ]  # running statistics move with what is trained
    owned = tuple(f"{name}." for name in (*head, *moving))
    inside = {name for name in state if name in trained or name in extra or name.startswith(owned)}
    for path, module in model.named_modules():
        if isinstance(module, Wrapper):
            inside |= {canonical(name) for name in module.added_state(f"{path}." if path else "")} & state.keys()
    base_tensors = {name: state[name].detach() for name in sorted(state.keys() - inside)}
    return {name: state[name] for name in sorted(inside)}, base_tensors
