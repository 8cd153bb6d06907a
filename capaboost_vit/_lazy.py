"""Lazy packages: public names are loaded when they are first used (PEP 562), so that importing costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]], *, also: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names are defined in other modules.

    Args:
        package: its `__name__`.
        modules: the public names by the module below the package that defines them.
        also: public names that the package itself defines.
    """
    module_of = {name: module for module, names in modules.items() for name in names}
    public = sorted([*also, *module_of])

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{module_of[name]}", package), name)

    return get, lambda: public, public
