"""Text that came from elsewhere, made safe to show."""

from __future__ import annotations

import re

# control characters (terminals act on them), line separators, marks that turn the direction of what follows, and half
# characters, which no file takes
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text on one line that no terminal acts on: `\n`, `\x1b` and the like as Python writes them."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
