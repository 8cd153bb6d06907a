"""An order of images that only depends on their names."""

from __future__ import annotations

import hashlib


def name_digest(name: str, *key: str | int) -> bytes:
    """The SHA-256 of `key:key:name`: sorted by it, names are mixed, for each key in another way."""
    return hashlib.sha256(":".join([*map(str, key), name]).encode("utf-8", "surrogateescape")).digest()
