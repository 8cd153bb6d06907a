"""matplotlib figures as SVG inside the page: its colours follow the page, its text stays text."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from typing import Any

# stand-ins that matplotlib can draw with; the page's style sheet says what they look like, by day and by night
_VARIABLES = {"#010203": "var(--ink)", "#010204": "var(--faint)", "#010205": "var(--line)", "#010206": "var(--paper)"}
INK, FAINT, _, PAPER = _VARIABLES
COLOURS = 8  # of series, --c0 ... --c7
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "<", ">")


def series_style(index: int) -> dict[str, Any]:
    """Arguments of `Axes.plot` for the i-th method: colours come again with other dashes, markers after eleven."""
    return {
        "color": f"#0101{16 + index % COLOURS:02x}",  # a stand-in for a colour of the page
        "linestyle": _DASHES[index // COLOURS % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 4.5,
    }


def styled() -> AbstractContextManager[None]:
    """Within the block matplotlib draws in the page's style."""
    from matplotlib import style

    return style.context("capaboost_vit.study.page.page")  # page.mplstyle


def new_axes(width: float, height: float, **options: Any) -> Any:
    """Axes, made with `options` of subplots, that fill a figure of this size in inches, which needs no display."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure.subplots(**options)


def to_svg(figure: Any, *, prefix: str, label: str) -> str:
    """The figure, `styled`, as `<svg>` with a label for those who cannot see it; its ids begin with `prefix`."""
    out = io.BytesIO()
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
    axes = new_axes(0.5, 0.18)
    axes.figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **series_style(index))
    axes.set(xlim=(0, 2), ylim=(-1, 1))
    text = to_svg(axes.figure, prefix=f"{prefix}-{index}", label="")
    return text.replace('role="img" aria-label=""', 'aria-hidden="true"', 1)
