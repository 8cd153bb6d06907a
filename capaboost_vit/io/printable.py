"""Names and texts of others, as a terminal, a log and a table can show them."""

from __future__ import annotations

import unicodedata

# control characters (so ANSI's escapes), formats (such as those that turn the direction of writing), surrogates, and
# separators of lines and paragraphs
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    r"""A text in one line without control characters: these as `\x1b`, bytes of a name that are no UTF-8 as `\xNN`.

    What others chose, such as names of files and classes, passes here on its way to a terminal or a log.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # Python's stand-in for a byte that is no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode() if unicodedata.category(char) in _HIDDEN else char
