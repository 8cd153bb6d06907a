"""matplotlib figures as SVG inside the page: its colours follow the page, its text stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# stand-ins that matplotlib can draw with; the page's style sheet says what they look like, by day and by night
_VARIABLES = {"#010203": "var(--ink)", "#010204": "var(--faint)", "#010205": "var(--line)", "#010206": "var(--paper)"}
INK, FAINT, LINE, PAPER = _VARIABLES
COLOURS = 8  # of series, --c0 ... --c7
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "<", ">")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "capaboost_vit",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.edgecolor"), FAINT),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
    "grid.color": LINE,
}


def series_style(index: int) -> dict[str, Any]:
    """Arguments of `Axes.plot` for the i-th method: colours come again with other dashes, markers after eleven."""
    return {
        "color": f"#0101{16 + index % COLOURS:02x}",  # a stand-in for a colour of the page
        "linestyle": _DASHES[index // COLOURS % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 4.5,
    }


@contextmanager
def styled() -> Iterator[None]:
    """Within the block matplotlib draws in the page's style."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def empty(width: float, height: float) -> Any:
    """A figure of this size in inches that needs no display."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def to_svg(figure: Any, *, prefix: str, label: str) -> str:
    """The figure as an `<svg>` element with a label for those who cannot see it; its ids begin with `prefix`."""
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    label = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    body = text[text.index(">") + 1 :]
    named = set(re.findall(r"url\(#([^)]+)\)", body)) | set(re.findall(r'xlink:href="#([^"]+)"', body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{prefix}-{match[1]}"' if match[1] in named else "", body)
    body = body.replace("url(#", f"url(#{prefix}-").replace('xlink:href="#', f'href="#{prefix}-')
    body = body.replace("xlink:href=", "href=")
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    body = re.sub(r"#0101([0-9a-f]{2})", lambda match: f"var(--c{int(match[1], 16) - 16})", body)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}" style="--w:{width}">{body}'


def swatch(index: int, *, prefix: str) -> str:
    """A short piece of the line of the i-th series with its marker, for legends."""
    figure = empty(0.5, 0.18)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **series_style(index))
    axes.set(xlim=(0, 2), ylim=(-1, 1))
    return to_svg(figure, prefix=f"{prefix}-{index}", label="").replace(
        'role="img" aria-label=""', 'aria-hidden="true"', 1
    )
