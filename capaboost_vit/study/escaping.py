"""Names and messages in Markdown, LaTeX and csv: whatever they hold, it is read as text."""

from __future__ import annotations

import re
from typing import Any

from ..io.printable import printable

# what begins markup wherever it stands; emphasis, which begins before a letter (an underscore not inside a word), and
# entities; the end of a link's text; at the start of a line what begins a list, a heading or a quotation
_MARKDOWN = re.compile(
    r"[\\`<|]|[*~$](?=\S)|(?<!\w)_(?=\S)|&(?=#?\w+;)|\](?=[(:\[])|^(?:[-+](?=\s|$)|[#>=]|\d{1,9}[.)](?=\s|$))"
)
_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "…": r"\dots{}"}
    # the end of a row takes them for its arguments, if the next row begins with them
    | {"[": "{[}", "*": "{*}"}
)
_FORMULA = ("=", "+", "-", "@")


def markdown(text: str) -> str:
    """Text as GitHub's Markdown shows it unchanged, in a cell of a table too."""
    return _MARKDOWN.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", printable(text))


def latex(text: str) -> str:
    """Text as LaTeX sets it unchanged."""
    return printable(text).translate(_LATEX)


def csv_cell(value: Any) -> Any:
    """Text that a spreadsheet would compute gets an apostrophe before it, as OWASP advises; numbers stay."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
