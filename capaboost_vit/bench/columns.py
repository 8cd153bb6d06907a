"""Text in columns."""

from __future__ import annotations

from collections.abc import Sequence


def fenced(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as columns, the first flush left, in a block that Markdown leaves alone."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return ["```", *lines, "```"]
