"""Columns of a table: the one that was asked for, or the only one that fits."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .options import suggest


def asked_column(where: str, columns: Collection[str], asked: str, flag: str) -> str:
    """The column of that name. Raises ValueError if there is none."""
    if asked not in columns:
        raise no_column(where, columns, asked, flag)
    return asked


def only_column(where: str, candidates: Sequence[str], what: str, flag: str) -> str | None:
    """The one candidate, None where there is none. Raises ValueError if there are several."""
    if len(candidates) > 1:
        raise ValueError(f"{where} has several columns of {what}: choose with {flag} {' or '.join(candidates)}")
    return candidates[0] if candidates else None


def no_column(where: str, columns: Collection[str], name: str, flag: str, *, taken: Collection[str] = ()) -> ValueError:
    """The error for a column that is not there.

    Args:
        where: the table, as messages name it.
        flag: the option that names another column.
        taken: columns that are in use already, so nobody can have meant them.
    """
    hint = suggest(name, [other for other in columns if other not in taken])
    there = ", ".join(other if len(other) <= 30 else other[:30] + "..." for other in columns)
    return ValueError(f"{where} has no column {name!r}{hint}; it has: {there}. Choose another one with {flag}")
