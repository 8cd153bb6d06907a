"""On which base an adapter was trained: a published one, one with adapters merged in, or that of a local folder."""

from __future__ import annotations

from .adapter_file import AdapterFile
from .header import AdapterFileError
from .index import find_method


def described(file: AdapterFile) -> str:
    """The base in words: `vit_tiny_patch16_224 with capaboost-lora r8 d2 merged in`."""
    base = file.header["base"]
    name = ".".join(part for part in (base["architecture"], base.get("tag")) if part)
    if "folder" in base:
        name = f"{name} of the folder {base['folder']!r}"
    labels = [
        " + ".join(find_method(method["method"]).label(method) for method in entry["methods"])
        for entry in base.get("merged", [])
    ]
    return f"{name} with {', then '.join(labels)} merged in" if labels else name


def check_published(file: AdapterFile, weights: str, *, chain: bool) -> None:
    """Raises AdapterFileError for a base whose weights nobody has but who trained the adapter, with what to name.

    Args:
        weights: the argument by which its weights are named. chain: whether the files of what was merged will do.
    """
    base = file.header["base"]
    if "merged" in base or "folder" in base:
        files = "the files of what was merged, chain=[...], or " if chain and "merged" in base else ""
        raise AdapterFileError(
            f"{file.path} was trained on {described(file)}: name {files}its weights, {weights} (--initial-checkpoint)"
        )
