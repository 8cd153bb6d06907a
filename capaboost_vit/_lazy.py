"""Lazy packages: public names are loaded when they are first used (PEP 562), so that importing costs nothing."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose public names are those that its stub imports.

    The stub `__init__.pyi` is what type checkers read, and the one list of the names (SPEC 1 of Scientific Python).

    Args:
        package: its `__name__`. file: its `__file__`.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text("utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    module_of = {alias.name: node.module for node in imports for alias in node.names}
    public = sorted(module_of)

    def get(name: str) -> Any:
        if name not in module_of:
            raise _NoAttribute(package, name, public)
        return getattr(import_module(f".{module_of[name]}", package), name)

    return get, lambda: public, public


class _NoAttribute(AttributeError):
    """Looks for the nearest name when it is shown: argument parsers ask modules for thousands of names."""

    def __str__(self) -> str:
        from .io.options import suggest

        package, name, public = self.args
        return f"module {package!r} has no attribute {name!r}{suggest(name, public)}"
