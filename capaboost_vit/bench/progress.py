"""What a measurement is doing, in one line on stderr."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Shows the text in place of the one before on a terminal; elsewhere in a line of its own, rounds left out.

    An empty text clears the line.
    """
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text and ": round " not in text:
        print(text, file=sys.stderr, flush=True)
